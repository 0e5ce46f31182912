"""A training that counts iterations has nothing that waits for an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from torch import nn

import tiny
from mkd_det.errors import ConfigError
from mkd_det.preflight import epoch_counting
from mkd_det.preflight.epoch_counting import check_epoch_counting

Change = Callable[[Config], Any]


@pytest.fixture
def cfg() -> Config:
    cfg = tiny.runner_cfg(tiny.gfl(), Path('data'), Path('run'))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=8)
    cfg.default_hooks.checkpoint.by_epoch = False
    return cfg


def schedule(**changes: Any) -> dict[str, Any]:
    return dict(type='MultiStepLR', milestones=[3], **changes)


WAITING: dict[str, tuple[Change, str]] = {
    'schedule by default': (
        lambda c: c.update(param_scheduler=[schedule()]),
        'param_scheduler[0]: by_epoch=True',
    ),
    'schedule of an optimizer': (
        lambda c: c.update(param_scheduler=dict(a=schedule(by_epoch=True))),
        'param_scheduler.a[0]: by_epoch=True',
    ),
    'hook': (
        lambda c: c.update(
            custom_hooks=[
                dict(type='PipelineSwitchHook', switch_epoch=4, switch_pipeline=[])
            ]
        ),
        'PipelineSwitchHook: switch_epoch=4',
    ),
    'hook by default': (
        lambda c: c.update(custom_hooks=[dict(type='YOLOXModeSwitchHook')]),
        'YOLOXModeSwitchHook: num_last_epochs=15',
    ),
    'average': (
        lambda c: c.update(custom_hooks=[dict(type='EMAHook', begin_epoch=2)]),
        'EMAHook: begin_epoch=2',
    ),
}


@pytest.mark.parametrize('case', WAITING)
def test_what_waits_for_an_epoch_is_refused(case: str, cfg: Config) -> None:
    change, message = WAITING[case]
    change(cfg)
    with pytest.raises(ConfigError) as info:
        check_epoch_counting(cfg, nn.Identity())
    assert info.value.message.startswith(message)
    assert info.value.fix
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=20)
    check_epoch_counting(cfg, nn.Identity())


def test_a_term_that_stops_at_an_epoch_is_refused(cfg: Config) -> None:
    model = tiny.distiller(tiny.gfl(4, 8), tiny.gfl(4, 8))
    model['terms']['loss_soft']['schedule'] = dict(stop_epoch=11)
    built = tiny.build(model)
    with pytest.raises(ConfigError) as info:
        check_epoch_counting(cfg, built)
    assert 'terms.loss_soft.schedule: stop_epoch=11' in info.value.message
    assert info.value.fix.startswith('stop_iter=11 * ')
    cfg.train_cfg = dict(by_epoch=True, max_epochs=20)
    check_epoch_counting(cfg, built)


def test_what_comes_after_the_end_is_said(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        epoch_counting, 'print_log', lambda line, **_: lines.append(line)
    )
    model = tiny.distiller(tiny.gfl(4, 8), tiny.gfl(4, 8))
    model['terms']['loss_soft']['schedule'] = dict(stop_iter=8)
    model['terms']['loss_relation']['schedule'] = dict(stop_iter=7)
    built = tiny.build(model)
    check_epoch_counting(cfg, built)
    late = 'terms.loss_soft.schedule: stop_iter=8 never comes: the training has 8 iters'
    assert lines == [late]
    lines.clear()
    cfg.train_cfg = dict(by_epoch=True, max_epochs=4)
    WAITING['hook'][0](cfg)
    check_epoch_counting(cfg, built)
    late = 'PipelineSwitchHook: switch_epoch=4 never comes: the training has 4 epochs'
    assert lines == [late]


def test_what_counts_iterations_passes(cfg: Config) -> None:
    cfg.param_scheduler = [
        schedule(by_epoch=False),
        schedule(convert_to_iter_based=True),
        dict(type='ReduceOnPlateauLR', monitor='loss'),
    ]
    cfg.custom_hooks = [dict(type='EMAHook', begin_iter=2), dict(type='NumClassCheck')]
    cfg.train_cfg = dict(by_epoch=False, max_iters=8)
    check_epoch_counting(cfg, nn.Identity())


def test_checkpoints_at_the_end_only_are_said(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        epoch_counting, 'print_log', lambda line, **_: lines.append(line)
    )
    check_epoch_counting(cfg, nn.Identity())
    assert lines == []
    del cfg.default_hooks.checkpoint['by_epoch']
    check_epoch_counting(cfg, nn.Identity())
    assert 'by_epoch=False' in lines[0]
