"""Shows how far the demo is: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display(Protocol):
    """What the demo tells about its progress."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *exception: object) -> None: ...

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage of `total` iterations begins."""

    def update(self, done: int, note: str = '') -> None:
        """So much of the stage is done; `note` is shown beside it."""

    def finish(self, note: str) -> None:
        """The stage is done."""

    def say(self, text: str) -> None:
        """A line of its own."""


def display(stages: int) -> Display:
    """Bars if the output is a terminal, lines if not."""
    return Bars(stages) if sys.stdout.isatty() else Lines(stages)


class Bars:
    """A bar for the demo as a whole and one for each stage, with the time left.

    Args:
        stages: How many stages there will be.
    """

    def __init__(self, stages: int) -> None:
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[unit]}'),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn('[dim]{task.fields[note]}'),
            speed_estimate_period=120,
        )
        self.whole = self.progress.add_task(
            '[bold]demo', total=stages, unit='stages', note=''
        )
        self.stage = self.whole

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def start(self, stage: str, total: int, unit: str) -> None:
        self.stage = self.progress.add_task(stage, total=total, unit=unit, note='')

    def update(self, done: int, note: str = '') -> None:
        self.progress.update(self.stage, completed=done, note=note)

    def finish(self, note: str) -> None:
        total = self.progress.tasks[self.stage].total
        self.progress.update(self.stage, completed=total, note=note)
        self.progress.advance(self.whole)

    def say(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False)


class Lines:
    """A line now and then.

    Args:
        stages: How many stages there will be.
        every: Seconds between lines.
    """

    def __init__(self, stages: int, every: float = 10.0) -> None:
        self.stages = stages
        self.every = every
        self.number = 0
        self.stage, self.total, self.unit = '', 0, ''
        self.began = self.spoke = time.monotonic()
        self.first: int | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def start(self, stage: str, total: int, unit: str) -> None:
        self.number += 1
        self.stage, self.total, self.unit = stage, total, unit
        self.began = self.spoke = time.monotonic()
        self.first = None
        self.say(f'[{self.number}/{self.stages}] {stage}: {total} {unit}')

    def update(self, done: int, note: str = '') -> None:
        now = time.monotonic()
        if self.first is None and done:
            # Resumed: what was done before says nothing about the speed now.
            self.first, self.began = done, now
        if now - self.spoke < self.every or not done:
            return
        self.spoke = now
        fresh = done - (self.first or 0)
        left = ''
        if fresh > 0:
            seconds = (now - self.began) / fresh * (self.total - done)
            left = f', about {seconds:.0f} s left'
        self.say(
            f'[{self.number}/{self.stages}] {self.stage}: {done}/{self.total} '
            f'{self.unit}{left}{", " + note if note else ""}'
        )

    def finish(self, note: str) -> None:
        self.say(f'[{self.number}/{self.stages}] {self.stage}: {note}')

    def say(self, text: str) -> None:
        print(text, flush=True)
