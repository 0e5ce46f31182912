"""Settings of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..runs import Launcher
from .measuring.image_error import RESAMPLES


@dataclass(frozen=True)
class ComparisonOptions:
    """What holds for all rows of a comparison.

    Args:
        seeds: Seeds of each row.
        teachers: Checkpoints of teachers, by name.
        teacher_cfgs: Configs of teachers, by name, for rows that are recipes.
        options: Overrides of all configs, as for `--cfg-options`.
        epochs: Budget of each row; default: as the configs say.
        iters: Budget of each row, for configs that count iterations.
        metric: Key of the metric that counts; default: the evaluator's first.
        least_gain: The smallest gain that counts; default: half a percentage point.
        devices: GPUs for the trainings, see `run_in_parallel`.
        test: Whether students are tested once all trainings are done; the verdicts are
            then of the test data.
        resamples: Samples of images for the error that comes from them; 0: none.
        launcher: Starts the trainings; as processes of this one by default.
    """

    seeds: Sequence[int] = (0, 1, 2)
    teachers: Mapping[str, str] = field(default_factory=dict)
    teacher_cfgs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    iters: int | None = None
    metric: str = ''
    least_gain: float | None = None
    devices: Sequence[str] = ('',)
    test: bool = False
    resamples: int = RESAMPLES
    launcher: Launcher | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        seeds = list(self.seeds)
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            raise ConfigError(f'--seeds: {twice} is given twice', actual=seeds)
        if not seeds or min(seeds) < 0 or max(seeds) >= 2**32:
            raise ConfigError('--seeds must be from 0 to 2^32 - 1', actual=seeds)
        if self.epochs is not None and self.iters is not None:
            raise ConfigError('--epochs and --iters cannot both be the budget')
        for name, value in (('epochs', self.epochs), ('iters', self.iters)):
            if value is not None and value < 1:
                raise ConfigError(f'--{name} must be at least 1', actual=value)
        if self.least_gain is not None and not 0 <= self.least_gain < math.inf:
            raise ConfigError('--least must be 0 or above', actual=self.least_gain)
        if self.resamples < 0 or self.resamples == 1:
            raise ConfigError(
                '--resamples must be 0, for none, or above 1', actual=self.resamples
            )

    def check_teacher_files(self) -> None:
        """Raise ConfigError unless the teachers' checkpoints are there."""
        for path in self.teachers.values():
            if '://' not in path and not Path(path).is_file():
                raise ConfigError(
                    '--teacher: there is no such file',
                    expected='a checkpoint of the trained teacher, or its address',
                    actual=path,
                    fix='train it first: mkd-det train TEACHER_CONFIG',
                )
