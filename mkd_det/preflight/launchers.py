"""Checks that a launcher has said what a process needs to find the others."""

from __future__ import annotations

import os
import sys

import torch
from mmengine.config import Config
from mmengine.device import get_device

from ..errors import ConfigError

# Environment variables of each launcher that mmengine reads; the numbers among them.
_VARIABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    'pytorch': (
        ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT'),
        ('MASTER_ADDR',),
    ),
    'slurm': (('SLURM_PROCID', 'SLURM_NTASKS'), ('SLURM_NODELIST',)),
    'mpi': (
        (
            'OMPI_COMM_WORLD_RANK',
            'OMPI_COMM_WORLD_SIZE',
            'OMPI_COMM_WORLD_LOCAL_RANK',
        ),
        ('MASTER_ADDR',),
    ),
}
_LAST_PORT = 65535
_STARTS = {
    'pytorch': 'torchrun --nproc_per_node=2 -m',
    'slurm': 'srun -n 2 python -m',
    'mpi': 'mpirun -n 2 python -m',
}


def check_launcher(cfg: Config) -> None:
    """Raise ConfigError unless the launcher's environment is there.

    Args:
        cfg: Config of a training or a test, with `launcher`.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none':
        return
    if launcher not in _VARIABLES:
        raise ConfigError(
            'there is no such launcher',
            actual=repr(launcher),
            available=('none', *_VARIABLES),
        )
    numbers, texts = _VARIABLES[launcher]
    start = f'{_STARTS[launcher]} mkd_det ' + ' '.join(sys.argv[1:])
    for name in (*numbers, *texts):
        value = os.environ.get(name)
        if value is None or (name in numbers and not value.isdigit()):
            raise ConfigError(
                f'launcher={launcher!r}: this process was not started by it',
                expected=f'{name} in the environment'
                + (', a number' if name in numbers else ''),
                actual=value,
                fix=f"{start}; or launcher='none'",
            )
    port = os.environ.get('MASTER_PORT', '29500')  # mmengine's own default
    if launcher == 'pytorch' and int(port) > _LAST_PORT:
        raise ConfigError(
            'MASTER_PORT is no port',
            expected=f'1 to {_LAST_PORT}',
            actual=port,
            fix='MASTER_PORT=29500',
        )
    _check_devices(launcher)


def _check_devices(launcher: str) -> None:
    """Raise ConfigError where mmengine would find no GPU for this process."""
    if launcher != 'pytorch' and get_device() == 'cpu':
        raise ConfigError(
            f'launcher={launcher!r} needs a GPU, and none was found',
            fix=f'{_STARTS["pytorch"]} mkd_det ...; it works without a GPU',
        )
    rank, gpus = int(os.environ.get('LOCAL_RANK', 0)), torch.cuda.device_count()
    if launcher == 'pytorch' and 0 < gpus <= rank:
        raise ConfigError(
            'more processes were started on this machine than it has GPUs',
            expected=f'at most {gpus}',
            actual=f'LOCAL_RANK={rank}',
            fix=f'torchrun --nproc_per_node={gpus} ...',
        )
