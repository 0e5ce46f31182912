"""A clip that the terms use up is told, with the numbers that show it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mmengine.runner import Runner

import hook_runs
from mkd_det.errors import ConfigError
from mkd_det.hooks.gradient_clip_hook import NORM, GradientClipHook


def trained(
    folder: Path, name: str, weight: float, limit: float | None, **hook: Any
) -> tuple[Runner, list[str]]:
    """A short training, and the warnings of the hook."""
    term = dict(type='AttentionKD', student='fpn', teacher='t.fpn', weight=weight)
    cfg = hook_runs.distill_cfg(folder, val=False, terms=dict(loss_attention=term))
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.01)
    if limit is not None:
        cfg.optim_wrapper.clip_grad = dict(max_norm=limit)
    cfg.custom_hooks = [dict(type='GradientClipHook', **hook)]
    runner = hook_runs.build(cfg, name)
    said: list[str] = []
    runner.logger.warning = lambda text, *_: said.append(text)
    runner.train()
    return runner, [text for text in said if 'clipping' in text]


def first_norm(runner: Runner) -> float:
    return float(runner.message_hub.get_scalar(NORM).data[0][0])


def test_terms_that_use_up_the_clip_are_told_once(tmp_path: Path) -> None:
    alone, warnings = trained(tmp_path, 'clip_alone', 0.0, 1e6)
    task = first_norm(alone)
    assert warnings == []
    limit = 2 * task
    both, (warning,) = trained(tmp_path, 'clip_both', 1.0, limit, interval=1)
    norm = first_norm(both)
    assert norm > 4 * task, 'the terms must outweigh the task here'
    numbers = re.search(
        r'the norm is (\S+), that of the task alone (\S+), clip_grad.max_norm (\S+) ',
        warning,
    )
    assert numbers is not None
    found = [float(number) for number in numbers.groups()]
    assert found == pytest.approx([norm, task, limit], rel=0.01)
    assert f'the task gets {limit / norm:.2f} of the step' in warning
    # With this limit the task is cut as little as it would be alone.
    assert f'max_norm={norm:.2g}' in warning


@pytest.mark.parametrize(('weight', 'limit'), [(1.0, None), (1.0, 1e9), (1e-6, 1e-3)])
def test_no_word_where_the_terms_do_no_harm(
    weight: float, limit: float | None, tmp_path: Path
) -> None:
    name = f'clip_{weight}_{limit}'
    assert trained(tmp_path, name, weight, limit, interval=1)[1] == []


def test_adam_is_told_apart(tmp_path: Path) -> None:
    hook = GradientClipHook()
    said: list[str] = []
    optimizer = type('AdamW', (), {})()
    wrapper = type('Wrapper', (), dict(optimizer=optimizer))()
    logger = type('Logger', (), dict(warning=said.append))()
    runner: Any = type('R', (), dict(optim_wrapper=wrapper, logger=logger, iter=0))()
    hook._limit = 10.0
    hook._warn(runner, 3.0, 22.0, [1.8, 33.8])
    assert 'AdamW makes up for a constant cut' in said[0]
    assert 'the task is only 0.14 of the direction' in said[0]
    assert '(loss 33.8, of the task 1.8)' in said[0] and 'max_norm=22' in said[0]


@pytest.mark.parametrize('settings', [dict(interval=0), dict(least=1.5)])
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GradientClipHook(**settings)
