"""Shows the progress of trainings: bars on a terminal, lines elsewhere."""

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


class Tracker(Protocol):
    """Progress of one part of an experiment, such as a training."""

    def update(self, done: int, note: str = '') -> None:
        """Set how much is done; `note` is shown beside it."""

    def finish(self, note: str) -> None:
        """Mark the part as done."""


class Display(Protocol):
    """Progress of a whole experiment."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *exception: object) -> None: ...

    def start(self, title: str, total: int, unit: str) -> Tracker:
        """Start a part of `total` units. Several may be active at once."""

    def say(self, text: str) -> None:
        """Print a line of text."""


def make_display(parts: int, title: str) -> Display:
    """Return bars if stdout is a terminal, lines otherwise.

    Args:
        parts: Number of parts of the experiment.
        title: Title of the experiment.
    """
    return BarDisplay(parts, title) if sys.stdout.isatty() else LineDisplay(parts)


class BarDisplay:
    """One progress bar for the experiment and one for each part.

    Args:
        parts: Number of parts of the experiment.
        title: Title of the experiment.
    """

    def __init__(self, parts: int, title: str) -> None:
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
        self.overall = self.progress.add_task(
            f'[bold]{title}', total=parts, unit='parts', note=''
        )

    def __enter__(self) -> BarDisplay:
        """Start drawing."""
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop drawing."""
        self.progress.stop()

    def start(self, title: str, total: int, unit: str) -> BarTracker:
        """Add a bar."""
        bar = self.progress.add_task(title, total=total, unit=unit, note='')
        return BarTracker(self, bar, total)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.progress.console.print(text, markup=False, highlight=False)


class BarTracker:
    """The bar of one part.

    Args:
        display: The display that draws it.
        bar: Its number there.
        total: Units of the part.
    """

    def __init__(self, display: BarDisplay, bar: TaskID, total: int) -> None:
        self.display, self.bar, self.total = display, bar, total

    def update(self, done: int, note: str = '') -> None:
        """Redraw the bar."""
        self.display.progress.update(self.bar, completed=done, note=note)

    def finish(self, note: str) -> None:
        """Fill the bar, and advance the experiment's."""
        self.update(self.total, note)
        self.display.progress.advance(self.display.overall)


class LineDisplay:
    """Prints a line from time to time.

    Args:
        parts: Number of parts of the experiment.
        every: Seconds between two lines of a part.
    """

    def __init__(self, parts: int, every: float = 10.0) -> None:
        self.parts, self.every = parts, every
        self.started = 0

    def __enter__(self) -> LineDisplay:
        """Return the display itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Do nothing."""

    def start(self, title: str, total: int, unit: str) -> LineTracker:
        """Announce a part, with its number."""
        self.started += 1
        numbered = f'[{self.started}/{self.parts}] {title}'
        self.say(f'{numbered}: {total} {unit}')
        return LineTracker(self, numbered, total, unit)

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)


class LineTracker:
    """The lines of one part, with an estimate of the time left.

    Args:
        display: The display that prints them.
        title: Title of the part, with its number.
        total: Units of the part.
        unit: Name of the unit.
    """

    def __init__(self, display: LineDisplay, title: str, total: int, unit: str) -> None:
        self.display, self.title, self.total, self.unit = display, title, total, unit
        self.began = self.printed = self.changed = time.monotonic()
        self.first: int | None = None
        self.done = 0

    def update(self, done: int, note: str = '') -> None:
        """Print a line if the last one is old enough."""
        now = time.monotonic()
        if self.first is None and done:
            # A resumed part: units of earlier starts say nothing about the speed.
            self.first, self.began = done, now
        if done != self.done:
            # The speed is only known when the count changes.
            self.done, self.changed = done, now
        if now - self.printed < self.display.every or not done:
            return
        self.printed = now
        fresh = done - (self.first or 0)
        left = ''
        if fresh > 0:
            each = (self.changed - self.began) / fresh
            seconds = each * (self.total - done) - (now - self.changed)
            left = f', about {max(seconds, 0):.0f} s left'
        self.display.say(
            f'{self.title}: {done}/{self.total} {self.unit}{left}'
            f'{", " + note if note else ""}'
        )

    def finish(self, note: str) -> None:
        """Print the result."""
        self.display.say(f'{self.title}: {note}')
