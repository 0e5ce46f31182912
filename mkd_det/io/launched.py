"""What a launcher says of this process, before torch.distributed knows it."""

from __future__ import annotations

import os

# Of torchrun, Slurm and Open MPI.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
# Not SLURM_NTASKS: a batch script has it, although it launches nothing.
_SIZES = ('WORLD_SIZE', 'SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')


def launched_rank() -> int:
    """Return the number of this process among those of its launch; 0 without one."""
    return _first_number(_RANKS, 0)


def launched_processes() -> int:
    """Return the number of processes of the launch; 1 without one."""
    return max(_first_number(_SIZES, 1), 1)


def _first_number(names: tuple[str, ...], otherwise: int) -> int:
    given = (os.environ.get(name) for name in names)
    text = next((text for text in given if text is not None), '')
    return int(text) if text.isdigit() else otherwise
