"""A training that would fill the disk with checkpoints says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from torch import nn

from mkd_det.preflight import disk_use
from mkd_det.preflight.disk_use import (
    checkpoint_size,
    count_checkpoints,
    describe_disk_use,
)


def config(folder: Path | str = '', hook: Any = None, **optimizer: Any) -> Config:
    return Config(
        dict(
            work_dir=str(folder),
            train_cfg=dict(max_epochs=30),
            optim_wrapper=dict(optimizer=optimizer),
            default_hooks=dict(checkpoint=dict(interval=1) if hook is None else hook),
        )
    )


@pytest.mark.parametrize(
    ('hook', 'count'),
    [
        (dict(interval=1), 30),
        (dict(interval=4), 8),
        (dict(interval=1, max_keep_ckpts=2), 2),
        (dict(interval=10, max_keep_ckpts=9), 3),
        (dict(interval=-1), 1),
        (dict(interval=5, by_epoch=False), 1),
    ],
)
def test_the_checkpoints_at_the_end_are_counted(hook: dict, count: int) -> None:
    assert count_checkpoints(config(hook=hook)) == count


@pytest.mark.parametrize(
    ('optimizer', 'tensors'),
    [
        (dict(type='AdamW'), 3),
        (dict(type='SGD', momentum=0.9), 2),
        (dict(type='SGD'), 1),
    ],
)
def test_a_checkpoint_has_weights_and_the_optimizers_state(
    optimizer: dict, tensors: int
) -> None:
    weights = 4 * (10 * 20 + 20)  # bytes
    found = checkpoint_size(config(**optimizer), nn.Linear(10, 20))
    assert found == tensors * weights


def test_only_what_is_large_and_unlimited_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(10, 20)
    cfg = config(tmp_path / 'new' / 'run', type='SGD')
    assert describe_disk_use(cfg, model) == ''
    monkeypatch.setattr(disk_use, 'WORTH_TELLING', 30 * 880)
    assert describe_disk_use(cfg, model).startswith('The training keeps 30 checkpoints')
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    assert describe_disk_use(cfg, model) == ''
    assert not (tmp_path / 'new').exists()
