"""The bar of a training: on a terminal, below whole log lines, and gone at the end."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console

import hook_runs
from mkd_det.io.progress_bar import progress_bar

HIDE_CURSOR, SHOW_CURSOR = '\x1b[?25l', '\x1b[?25h'


def training(folder: Path, name: str) -> Runner:
    cfg = hook_runs.distill_cfg(folder, val=True)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.log_level = 'INFO'
    return hook_runs.build(cfg, name)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, _environ={})


def text_of(console: Console) -> str:
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def streams(runner: Runner) -> list[Any]:
    return [getattr(handler, 'stream', None) for handler in runner.logger.handlers]


def test_a_terminal_shows_bar_and_whole_log_lines(tmp_path: Path) -> None:
    runner, console = training(tmp_path, 'bar'), terminal()
    before = streams(runner)
    long = 'a' * 150 + '/a path'
    with progress_bar(runner, console):
        runner.logger.info(long)
        runner.train()
    shown = text_of(console)
    assert f'{runner.max_iters}/{runner.max_iters}' in shown and 'left' in shown
    assert re.search(r'validation \d+/\d+', shown)
    assert long in shown  # not wrapped
    assert 'Epoch(train)' in shown
    assert shown.index(HIDE_CURSOR) < shown.rindex(SHOW_CURSOR)
    assert streams(runner) == before
    log = Path(runner._log_dir, f'{runner.timestamp}.log').read_text()
    assert 'Epoch(train)' in log and long in log
    assert '\x1b' not in log and '━' not in log


def test_elsewhere_there_are_log_lines_only(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    runner = training(tmp_path, 'lines')
    hooks = len(runner.hooks)
    with progress_bar(runner):
        assert len(runner.hooks) == hooks
        runner.logger.info('a line')
    shown = capsys.readouterr().out
    assert 'a line' in shown and '━' not in shown and SHOW_CURSOR not in shown


class Interrupt(Hook):
    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == 1:
            raise KeyboardInterrupt


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    runner, console = training(tmp_path, 'interrupt'), terminal()
    runner.register_hook(Interrupt())
    before = streams(runner)
    with pytest.raises(KeyboardInterrupt), progress_bar(runner, console):
        runner.train()
    shown = text_of(console)
    assert shown.index(HIDE_CURSOR) < shown.rindex(SHOW_CURSOR)
    assert streams(runner) == before
    runner.logger.info('after')
    assert 'after' not in text_of(console)
