"""Budgets: schedules keep their proportions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from comparisons import configs_of
from mkd_det.errors import ConfigError
from mkd_det.experiments.comparison.budget import set_budget
from mkd_det.experiments.comparison.options import ComparisonOptions


def test_schedules_in_the_unit_of_the_budget_are_scaled(files: Path) -> None:
    made = configs_of(files, epochs=5)['soft']
    assert made.train_cfg.max_epochs == 5
    warm_up, steps = made.param_scheduler
    assert steps.milestones == [3, 4]
    assert warm_up.end == 2  # iterations
    assert made.train_cfg.val_interval == 1
    assert configs_of(files)['soft'].train_cfg.max_epochs == 10
    # Not a single one at the end: there is to be a curve.
    assert configs_of(files)['soft'].train_cfg.val_interval == 2


def scaled(by_epoch: bool, steps: int, **scheduler: Any) -> Config:
    """A training of 15 steps, shortened."""
    unit = 'epochs' if by_epoch else 'iters'
    schedule = dict(stop_epoch=12, warmup_iters=6)
    cfg = Config(
        dict(
            model=dict(terms=dict(loss_a=dict(schedule=schedule))),
            train_cfg={f'max_{unit}': 15},
            param_scheduler=dict(by_epoch=by_epoch, **scheduler),
            custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=9)],
        )
    )
    set_budget(cfg, ComparisonOptions(**{unit: steps}))
    return cfg


def test_schedules_of_all_kinds_under_a_small_budget() -> None:
    part = scaled(True, 5, begin=3, end=15, T_max=12).param_scheduler
    assert (part.begin, part.end, part.T_max) == (1, 5, 4)
    part = scaled(True, 1, begin=14, end=15).param_scheduler
    assert (part.begin, part.end) == (0, 1)
    assert scaled(False, 5, step_size=6, end=10**9).param_scheduler.end == 10**9
    assert scaled(False, 5, periods=[6, 9]).param_scheduler.periods == [2, 3]


def test_schedules_of_terms_and_hooks() -> None:
    schedule = scaled(True, 5).model.terms.loss_a.schedule
    assert (schedule.stop_epoch, schedule.warmup_iters) == (4, 6)
    schedule = scaled(False, 5).model.terms.loss_a.schedule
    assert (schedule.stop_epoch, schedule.warmup_iters) == (12, 2)
    assert scaled(True, 5).custom_hooks[0].switch_epoch == 3
    assert scaled(False, 5).custom_hooks[0].switch_epoch == 9


def test_a_warm_up_never_has_a_single_step() -> None:
    """After one, mmengine does not restore the rate."""
    part = scaled(False, 1, type='LinearLR', begin=0, end=5).param_scheduler
    assert part.end == 2


def test_the_other_unit_is_refused() -> None:
    cfg = Config(dict(train_cfg=dict(max_iters=9), model={}))
    with pytest.raises(ConfigError) as caught:
        set_budget(cfg, ComparisonOptions(epochs=1))
    assert caught.value.fix == '--iters'
