"""One training of an experiment: what it runs, what identifies it, what it yields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ExperimentError
from ...io.paths import relative_to_cwd
from .history import BOX_MAP, BOX_MAP_50, is_coco_metric, read_history
from .recovery import STUDENT, is_complete_checkpoint

BOX_METRICS = {'box_map': BOX_MAP, 'box_map_50': BOX_MAP_50}


@dataclass(frozen=True)
class TrainingRun:
    """One training, which runs in a process of its own.

    Args:
        name: Name in the results.
        title: Name shown to people.
        config: Config file, or a packaged one (`mkd_det::...`).
        folder: Work dir.
        budget: Length in epochs; in iterations if `by_epoch` is False.
        iterations: Length in iterations.
        settings: Settings of the config that determine the result, by name.
        options: Overrides of the config, as for `--cfg-options`.
        depends_on: Fingerprints of what the training builds on (data, guides), by name.
        metrics: Key in the log of each reported metric, by its name in the results.
        by_epoch: Whether the config counts epochs.
    """

    name: str
    title: str
    config: str
    folder: Path
    budget: int
    iterations: int
    settings: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    depends_on: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=lambda: BOX_METRICS)
    by_epoch: bool = True

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that the finished training leaves."""
        return self.folder / self.checkpoint_pattern.replace('*', str(self.budget))

    @property
    def checkpoint_pattern(self) -> str:
        """Pattern of the names of all checkpoints."""
        return 'epoch_*.pth' if self.by_epoch else 'iter_*.pth'

    @property
    def arguments(self) -> list[str]:
        """Arguments of the Python interpreter that runs the training."""
        packaged = '::' in self.config
        return [
            *('-m', 'mkd_det', 'train'),
            self.config if packaged else relative_to_cwd(self.config),
            *('--work-dir', relative_to_cwd(self.folder)),
            *(['--cfg-options'] if self.options else []),
            *(f'{key}={value}' for key, value in self.options.items()),
        ]

    @property
    def made_from(self) -> dict[str, str]:
        """Everything that identifies the training, by name."""
        return {
            **self.settings,
            **{key: str(value) for key, value in self.options.items()},
            **self.depends_on,
            'epochs': str(self.budget),
        }

    @property
    def fingerprint(self) -> str:
        """Digest of `made_from`."""
        return digest(sorted(self.made_from.items()))

    def read_metrics(self) -> dict[str, float] | None:
        """Read the metrics at the end of the training, by their names in the results.

        Returns:
            None while the training is not finished, or when its last checkpoint or
            its exported student is damaged: resuming then writes it again.

        Raises:
            ExperimentError: The log lacks one of `metrics`.
        """
        logged = read_history(self.folder).metrics.get(self.budget)
        files = [self.checkpoint, *self.folder.glob(STUDENT)]
        if logged is None or not all(map(is_complete_checkpoint, files)):
            return None
        if not any(map(is_coco_metric, logged)):
            # CocoMetric logs nothing when nothing was detected, which counts as 0.
            coco = filter(is_coco_metric, self.metrics.values())
            logged = {**dict.fromkeys(coco, 0.0), **logged}
        missing = [key for key in self.metrics.values() if key not in logged]
        if missing:
            raise ExperimentError(
                f'{self.title}: {missing[0]} was not measured',
                available=sorted(logged),
            )
        return {name: logged[key] for name, key in self.metrics.items()}


@dataclass(frozen=True)
class TrainingResult:
    """Result of a finished training; all numbers in result files come from here.

    Args:
        name: Name of the training.
        metrics: Metrics on the validation data after the last step, by name.
        seconds: Wall-clock time over all starts, validation included.
        command: The command that was run.
        memory: Peak memory of the process in MiB, without data loading processes;
            None where the system does not report it.
    """

    name: str
    metrics: dict[str, float]
    seconds: float
    command: str
    memory: float | None = None

    def entry(self) -> dict[str, Any]:
        """Return the result as a dict for a json file."""
        rest = {'seconds': self.seconds, 'command': self.command}
        return {'name': self.name, **self.metrics, **rest}

    def __str__(self) -> str:
        """Return the first metric, for messages."""
        name, value = next(iter(self.metrics.items()))
        return f'{name} {value:.3f}'


def digest(value: Any) -> str:
    """Return a short hash of a value that json can express."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
