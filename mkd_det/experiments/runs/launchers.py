"""How a training is started: what an experiment needs of it while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .training_run import TrainingRun


class Running(Protocol):
    """A training that was started."""

    @property
    def record(self) -> Mapping[str, Any] | None:
        """What another process needs to find it again, ready for json."""

    def poll(self) -> int | None:
        """Return the exit code; None while it waits or runs."""

    def seconds(self) -> float:
        """Return how long it has run; waiting does not count."""

    def memory(self) -> float:
        """Return its peak memory in MiB; 0 where that is unknown."""

    def end(self) -> None:
        """Stop it, and wait until it has stopped."""


class Launcher(Protocol):
    """Starts trainings."""

    def start(self, run: TrainingRun, environment: Mapping[str, str]) -> Running:
        """Start a training, or resume it."""

    def find(self, run: TrainingRun, record: Mapping[str, Any]) -> Running | None:
        """Return a training that an earlier process has started and that still runs.

        Args:
            run: The training.
            record: What `Running.record` of it was.
        """
