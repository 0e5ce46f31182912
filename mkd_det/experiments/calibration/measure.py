"""Measures, in a short training, how hard each term pulls on the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from tqdm import tqdm

from ...errors import DivergenceError
from ...hooks.recovery.divergence_hook import DivergenceHook
from ...preflight.checks import check_before_start
from ...run import build_runner
from ...training.runtime import (
    DEFAULT_HOOKS,
    get_distiller,
    hook_type,
    prepare_config,
)
from ...weighting.gradient_share import GradientShare, counted_module
from ...weighting.schedules import Progress

# Hooks that say nothing about gradients, and cost time, write files or validate.
_NOT_NEEDED = (
    'AttentionMapHook',
    'DifficultyHook',
    'EarlyStoppingHook',
    'GradientShareHook',
)
_VALIDATION = [
    f'{split}_{part}'
    for split in ('val', 'test')
    for part in ('dataloader', 'evaluator', 'cfg')
]

# Factors at which terms have their share, by iteration.
Wanted = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Measured:
    """What a short training has measured.

    Args:
        wanted: Factors at which terms had their share, by iteration.
        iters: Iterations that were trained.
        terms: The terms of the plan: others are off, or not for this pair.
        on: Module of the student whose parameters counted.
    """

    wanted: Wanted
    iters: int
    terms: tuple[str, ...]
    on: str


class RecordingShare(GradientShare):
    """Keeps the terms at their shares, and notes what that takes.

    Attributes:
        record: The factors at which terms had their share, by iteration.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.record: Wanted = {}

    def wanted_factors(
        self, losses: Mapping[str, Tensor], parameters: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return the factors, and note them."""
        wanted = super().wanted_factors(losses, parameters)
        known = self.record.setdefault(Progress.now().iter, {})
        known.update({name: float(factor) for name, factor in wanted.items()})
        return wanted


class _Done(Exception):
    """Enough has been measured."""


class _StopHook(Hook):
    """Ends a training after some iterations.

    Args:
        iters: How many.
    """

    priority = 'LOWEST'

    def __init__(self, iters: int) -> None:
        self.iters, self.done = iters, 0
        self.bar = tqdm(total=iters, desc='calibrate', unit='iter', disable=None)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Raise once they are done."""
        self.done += 1
        self.bar.update()
        if self.done >= self.iters:
            raise _Done


def measure_factors(
    cfg: Config, shares: Mapping[str, float], on: str, iters: int, interval: int
) -> Measured:
    """Measure the factors at which terms have their shares.

    The student is trained as the config says, but with its terms at these shares, so
    that it is measured on the way that it would take. Nothing is validated or saved.

    Args:
        cfg: A distill config. It is not changed.
        shares: The share of each term.
        on: Module of the student whose parameters count.
        iters: Length of the training, in iterations.
        interval: Iterations between measurements.

    Raises:
        MkdError: The training cannot start, or diverges.
    """
    with TemporaryDirectory(prefix='mkd_calibrate') as folder:
        cfg = _short_training(cfg, folder)
        cfg.model.balance = dict(
            type=f'{__name__}.{RecordingShare.__name__}',
            shares=dict(shares),
            on=on,
            interval=interval,
        )
        check_before_start(cfg)
        runner = build_runner(cfg)
        stop = _StopHook(iters)
        runner.register_hook(DivergenceHook())
        runner.register_hook(stop)
        try:
            runner.train()
        except _Done:
            pass
        except DivergenceError as error:
            # What its fix names lies in the folder, which is deleted.
            fix = (
                'a smaller learning rate, or smaller shares; mkd-det train CONFIG keeps'
            )
            error.fix = f'{fix} the step in which it diverges'
            raise
        finally:
            stop.bar.close()
    distiller = get_distiller(runner, 'calibrate')
    balance: Any = distiller.balance
    counted = counted_module(distiller.student, on) or 'the whole student'
    return Measured(balance.record, stop.done, tuple(distiller.plan.terms), counted)


def _short_training(cfg: Config, folder: str) -> Config:
    """Return the config of a training that only trains, and writes to a folder."""
    cfg = deepcopy(cfg)
    cfg.work_dir = str(Path(folder) / 'run')
    cfg.launcher, cfg.resume, cfg.log_level = 'none', False, 'WARNING'
    for key in _VALIDATION:
        cfg[key] = None
    cfg.visualizer = dict(type='mmengine.Visualizer', vis_backends=[])
    hooks = {
        name: hook
        for name, hook in (cfg.get('default_hooks') or {}).items()
        if not hook_type(hook).endswith('VisualizationHook')
    }
    # What `prepare_config` would add, but for the clipping of gradients.
    off = [*(set(DEFAULT_HOOKS) - {'gradient_clip'}), 'checkpoint']
    cfg.default_hooks = {**hooks, **dict.fromkeys(off)}
    cfg.custom_hooks = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if hook_type(hook) not in _NOT_NEEDED
    ]
    return prepare_config(cfg)
