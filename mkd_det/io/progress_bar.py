"""A bar with the time left below the log lines of a training, on a terminal only."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Seconds between two drawings.
_EVERY = 0.1


@contextmanager
def progress_bar(runner: Runner, console: Console | None = None) -> Iterator[None]:
    """Show a bar while the runner trains, if stdout is a terminal.

    Log lines appear above it, unchanged. Log files and other outputs never see it.
    However the training ends, the terminal is left as it was.

    Args:
        runner: The runner; it trains inside the context.
        console: The terminal; stdout by default.
    """
    # What `!` of a notebook shows has no cursor that could move.
    notebook = console is None and 'JPY_PARENT_PID' in os.environ
    console = console or Console()
    shown = console.is_terminal and not console.is_dumb_terminal and not notebook
    if not (shown and is_main_process()):
        yield
        return
    hook = ProgressBarHook(console)
    runner.register_hook(hook, priority='LOWEST')
    try:
        with _lines_above(runner.logger, hook.progress):
            yield
    finally:
        hook.progress.stop()


class ProgressBarHook(Hook):
    """Draws the bar. Use `progress_bar`, which also takes it off again.

    Nothing is drawn by a thread: one that draws while a data loader forks its workers
    would leave them a lock that nobody opens.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn('left'),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            speed_estimate_period=120,
        )
        self.task: TaskID | None = None
        self._drawn = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the bar, where the training begins or resumes."""
        self.task = self.progress.add_task(
            'training', total=runner.max_iters, completed=runner.iter
        )
        self.progress.start()
        self._draw(force=True)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Advance the bar."""
        assert self.task is not None
        text = 'training'
        if getattr(runner.train_loop, '_max_epochs', 1) > 1:
            text = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
        done = runner.iter + 1
        self.progress.update(self.task, description=text, completed=done)
        self._draw(force=done == runner.max_iters)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Say how far the validation is."""
        if self.task is not None:
            total = len(runner.val_dataloader)
            text = f'validation {batch_idx + 1}/{total}'
            self.progress.update(self.task, description=text)
            self._draw()

    def after_train(self, runner: Runner) -> None:
        """Take the bar off."""
        self.progress.stop()

    def _draw(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._drawn > _EVERY:
            self._drawn = now
            self.progress.refresh()


class _Above(TextIOBase):
    """A stream whose lines appear above the bar, whole, in their own colours.

    Args:
        progress: The bar.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def write(self, text: str) -> int:
        """Print complete lines."""
        lines = text.removesuffix('\n')
        if lines:
            # Not wrapped: a path in a line must survive copying.
            self.progress.console.print(Text.from_ansi(lines), soft_wrap=True)
        return len(text)


@contextmanager
def _lines_above(logger: logging.Logger, progress: Progress) -> Iterator[None]:
    """Let the lines of a logger appear above a bar, instead of in it."""
    terminal = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    handlers = [
        (handler, handler.stream)
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
        and handler.stream in terminal
    ]
    for handler, _ in handlers:
        handler.setStream(_Above(progress))
    try:
        yield
    finally:
        for handler, stream in handlers:
            handler.setStream(stream)
