"""What the checkpoints of a training take on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmengine.config import Config
from torch import nn

from ..registry import type_name

# Bytes from which on a training is told what its checkpoints take.
WORTH_TELLING = 2 * 10**9
# Tensors of an optimizer for each weight, by the beginning of its name.
_STATES = {'Adam': 2, 'SGD': 1}


def describe_disk_use(cfg: Config, model: nn.Module) -> str:
    """Return what all checkpoints take, if a training keeps many and they are large.

    Args:
        cfg: Config of the training.
        model: Its model.

    Returns:
        A sentence with the setting that limits them; '' if there is nothing to tell.
    """
    count = count_checkpoints(cfg)
    size = checkpoint_size(cfg, model)
    if count < 3 or count * size < WORTH_TELLING:
        return ''
    folder = Path(cfg.work_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return (
        f'The training keeps {count} checkpoints of about {size / 1e6:.0f} MB,'
        f' {count * size / 1e9:.1f} GB in all; {free / 1e9:.0f} GB are free. To keep'
        ' the last two: default_hooks.checkpoint.max_keep_ckpts=2'
    )


def count_checkpoints(cfg: Config) -> int:
    """Return how many checkpoints are there at the end, apart from the best ones."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint', dict(interval=1))
    loop = cfg.get('train_cfg') or {}
    if hook is None:
        return 0
    interval, kept = hook.get('interval', -1), hook.get('max_keep_ckpts', -1)
    unit = 'max_epochs' if hook.get('by_epoch', True) else 'max_iters'
    steps = loop.get(unit)
    if not isinstance(steps, int) or interval < 1:
        return 1
    count = -(-steps // interval)
    return min(count, kept) if kept > 0 else count


def checkpoint_size(cfg: Config, model: nn.Module) -> int:
    """Return the size of a checkpoint in bytes: weights, and the optimizer's state."""
    weights = sum(value.nbytes for value in model.state_dict().values())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    name = type_name(optimizer.get('type'))
    states = next((n for start, n in _STATES.items() if name.startswith(start)), 0)
    if name == 'SGD' and not optimizer.get('momentum'):
        states = 0
    return weights + states * trained
