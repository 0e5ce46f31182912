"""Shows how far stages are: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Task(Protocol):
    """A stage that is running. Several may at a time."""

    def update(self, done: int, note: str = '') -> None:
        """So much of the stage is done; `note` is shown beside it."""

    def finish(self, note: str) -> None:
        """The stage is done."""


class Display(Protocol):
    """What is told about the progress of all stages."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *exception: object) -> None: ...

    def start(self, stage: str, total: int, unit: str) -> Task:
        """A stage of `total` iterations begins."""

    def say(self, text: str) -> None:
        """A line of its own."""


def display(stages: int, title: str) -> Display:
    """Bars if the output is a terminal, lines if not.

    Args:
        stages: How many there will be.
        title: Of them all together.
    """
    return Bars(stages, title) if sys.stdout.isatty() else Lines(stages)


class Bars:
    """A bar for all stages together and one for each, with the time left.

    Args:
        stages: How many stages there will be.
        title: Of them all together.
    """

    def __init__(self, stages: int, title: str) -> None:
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
            f'[bold]{title}', total=stages, unit='stages', note=''
        )

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def start(self, stage: str, total: int, unit: str) -> Bar:
        bar = self.progress.add_task(stage, total=total, unit=unit, note='')
        return Bar(self, bar, total)

    def say(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False)


class Bar:
    """Of one stage.

    Args:
        bars: All of them.
        bar: Which of them.
        total: Iterations of the stage.
    """

    def __init__(self, bars: Bars, bar: TaskID, total: int) -> None:
        self.bars, self.bar, self.total = bars, bar, total

    def update(self, done: int, note: str = '') -> None:
        self.bars.progress.update(self.bar, completed=done, note=note)

    def finish(self, note: str) -> None:
        self.update(self.total, note)
        self.bars.progress.advance(self.bars.whole)


class Lines:
    """A line now and then.

    Args:
        stages: How many stages there will be.
        every: Seconds between lines of a stage.
    """

    def __init__(self, stages: int, every: float = 10.0) -> None:
        self.stages, self.every = stages, every
        self.number = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def start(self, stage: str, total: int, unit: str) -> Line:
        self.number += 1
        title = f'[{self.number}/{self.stages}] {stage}'
        self.say(f'{title}: {total} {unit}')
        return Line(self, title, total, unit)

    def say(self, text: str) -> None:
        print(text, flush=True)


class Line:
    """Of one stage.

    Args:
        lines: All of them.
        title: Of the stage, with its number.
        total: Iterations of the stage.
        unit: What they are called.
    """

    def __init__(self, lines: Lines, title: str, total: int, unit: str) -> None:
        self.lines, self.title, self.total, self.unit = lines, title, total, unit
        self.began = self.spoke = self.seen = time.monotonic()
        self.first: int | None = None
        self.done = 0

    def update(self, done: int, note: str = '') -> None:
        now = time.monotonic()
        if self.first is None and done:
            # Resumed: what was done before says nothing about the speed now.
            self.first, self.began = done, now
        if done != self.done:
            # Between two lines of the log nothing is known of the speed.
            self.done, self.seen = done, now
        if now - self.spoke < self.lines.every or not done:
            return
        self.spoke = now
        fresh = done - (self.first or 0)
        left = ''
        if fresh > 0:
            each = (self.seen - self.began) / fresh
            seconds = each * (self.total - done) - (now - self.seen)
            left = f', about {max(seconds, 0):.0f} s left'
        self.lines.say(
            f'{self.title}: {done}/{self.total} {self.unit}{left}'
            f'{", " + note if note else ""}'
        )

    def finish(self, note: str) -> None:
        self.lines.say(f'{self.title}: {note}')
