"""Users' hooks: the two methods inside a step, and no references afterwards."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from mmengine.registry import HOOKS

import hook_runs
import tiny
from mkd_det import DistillHook
from mkd_det.errors import ConfigError
from mkd_det.structures import Knowledge


@HOOKS.register_module()
class SpyHook(DistillHook):
    """Records its calls, adds a statistic, and raises if `fail` is set."""

    def __init__(self, fail: bool = False) -> None:
        self.fail = fail
        self.moments: list[str] = []
        self.knowledge: tuple = ()

    def after_knowledge(self, runner: Any, student: dict, teachers: dict) -> None:
        self.moments.append(f'knowledge {runner.iter}')
        self.knowledge = (student, teachers)
        if self.fail:
            raise RuntimeError('on purpose')

    def after_terms(self, runner: Any, losses: dict) -> None:
        self.moments.append(f'terms {runner.iter}')
        assert 'loss_attention' in losses and 'loss_cls' in losses
        losses['stat_spy'] = losses['loss_cls'][0].detach() * 0 + 7


def _spy(runner: Any) -> SpyHook:
    return next(hook for hook in runner.hooks if isinstance(hook, SpyHook))


def test_a_users_hook_sees_knowledge_then_terms_of_every_step(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False, images=4)
    cfg.custom_hooks = [dict(type='SpyHook')]
    runner = hook_runs.build(cfg, 'spy')
    runner.train()
    spy = _spy(runner)
    assert spy.moments == ['knowledge 0', 'terms 0', 'knowledge 1', 'terms 1']
    student, teachers = spy.knowledge
    assert isinstance(student['fpn'], Knowledge)
    assert teachers['t']['fpn'].channels == (16,) * 5
    assert student['fpn'].strides[:3] == (8, 16, 32)
    assert runner.message_hub.get_scalar('train/stat_spy').current() == 7


def test_no_hook_is_referenced_after_training(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False, images=2)
    cfg.custom_hooks = [dict(type='SpyHook')]
    runner = hook_runs.build(cfg, 'after')
    runner.train()
    assert runner.model.observers == []


def test_no_hook_is_referenced_after_a_training_that_raised(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False, images=2)
    cfg.custom_hooks = [dict(type='SpyHook', fail=True)]
    runner = hook_runs.build(cfg, 'raised')
    with pytest.raises(RuntimeError, match='on purpose'):
        runner.train()
    model, spy = runner.model, weakref.ref(_spy(runner))
    gone = weakref.ref(runner)
    runner._hooks.clear()
    runner.visualizer.close()
    del runner
    gc.collect()
    assert spy() is None
    assert gone() is None
    # What is left in the model does nothing.
    model.train_step(tiny.batch(), _Wrapper())


class _Wrapper:
    """The part of an optimizer wrapper that `train_step` uses."""

    def optim_context(self, model: Any) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def update_params(self, loss: Any) -> None:
        assert loss.isfinite()


def test_a_copy_of_the_model_in_training_is_unwatched(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False, images=2)
    cfg.custom_hooks = [dict(type='SpyHook')]
    runner = hook_runs.build(cfg, 'copy')
    _spy(runner).before_train(runner)
    assert len(runner.model.observers) == 1
    assert copy.deepcopy(runner.model).observers == []


def test_training_twice_watches_once(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False, images=2)
    cfg.custom_hooks = [dict(type='SpyHook')]
    runner = hook_runs.build(cfg, 'twice')
    for _ in range(2):
        _spy(runner).before_train(runner)
    assert len(runner.model.observers) == 1


def test_a_distill_hook_in_plain_training_is_an_error(tmp_path: Path) -> None:
    data = tiny.write_coco(tmp_path / 'coco', images=2)
    model = tiny.gfl(base_channels=4, neck=8)
    cfg = tiny.runner_cfg(model, data, tmp_path / 'run', val=False)
    cfg.custom_hooks = [dict(type='SpyHook')]
    with pytest.raises(ConfigError, match='SpyHook'):
        hook_runs.build(cfg, 'plain').train()
