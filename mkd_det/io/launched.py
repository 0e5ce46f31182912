"""What a launcher says of this process, before torch.distributed knows it."""

from __future__ import annotations

import os

# Of torchrun, Slurm and Open MPI.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def launched_rank() -> int:
    """Return the number of this process among those of its launch; 0 without one."""
    given = (os.environ.get(name) for name in _RANKS)
    rank = next((text for text in given if text is not None), '0')
    return int(rank) if rank.isdigit() else 0
