"""The learning rate must be for this batch size."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.dist import get_world_size

from ..examination import Examination
from ..finding import OK, WARNING, Finding

POSITION = 120
# Factor between the batch sizes from which on the learning rate is a wrong one.
FAR = 1.5
# Usual learning rates of optimizers, for an image.
USUAL = {'SGD': (1e-6, 0.05), 'Adam': (1e-7, 1e-2)}


def check(case: Examination) -> Iterator[Finding]:
    """Compare the batch size with the one that the learning rate was chosen for."""
    cfg = case.cfg
    ranks = max(get_world_size(), case.settings.ranks)
    batch = ranks * int(cfg.train_dataloader.get('batch_size') or 1)
    batch *= int(cfg.optim_wrapper.get('accumulative_counts') or 1)
    optimizer = cfg.optim_wrapper.get('optimizer') or {}
    rate = optimizer.get('lr')
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    if not isinstance(rate, (int, float)):
        yield Finding('learning rate', OK, 'each optimizer has one of its own')
        return
    if not base:
        yield from _without_base(str(optimizer.get('type')), rate, batch)
        return
    factor = batch / base
    if scaling.get('enable'):
        text = f'{rate:g} for {base} images is scaled to {rate * factor:g} for {batch}'
        yield Finding('learning rate', OK, text)
    elif max(factor, 1 / factor) >= FAR:
        yield Finding(
            'learning rate',
            WARNING,
            f'{rate:g} is for a batch of {base} images, and this one has {batch}',
            f'--auto-scale-lr; or optim_wrapper.optimizer.lr={rate * factor:g}',
        )
    else:
        yield Finding('learning rate', OK, f'{rate:g} for a batch of {batch} images')


def _without_base(kind: str, rate: float, batch: int) -> Iterator[Finding]:
    """Yield what is said where the config has no batch size for its rate."""
    kind = kind.rpartition('.')[2]
    name = 'Adam' if kind.startswith('Adam') else 'SGD'
    low, high = (limit * batch for limit in USUAL[name])
    if not low <= rate <= high:
        yield Finding(
            'learning rate',
            WARNING,
            f'{rate:g} is unusual for {kind} with a batch of {batch} images',
            'optim_wrapper.optimizer.lr='
            + ('1e-4' if name == 'Adam' else '0.01')
            + ' or so; auto_scale_lr=dict(base_batch_size=...) notes what it is for',
        )
        return
    yield Finding(
        'learning rate',
        OK,
        f'{rate:g} with a batch of {batch} images; the config does not say for which'
        ' batch size it was chosen (auto_scale_lr)',
    )
