"""Checks all rows of a comparison, and prepares their trainings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config
from torch import nn

from ...data import check_data, check_loaders
from ...errors import ConfigError, is_integer, prefix_errors
from ...preflight.checks import check_amp, check_before_start
from ...preflight.metric_names import is_logged, metric_names
from ...teachers.loading import load_teacher_cfg
from ...training.runtime import prepare_config
from ..runs import TrainingRun
from ..runs.metrics import main_metric
from ..runs.settings import settings_in
from ..runs.training_configs import (
    make_training_run,
    training_budget,
    write_config,
)
from .budget import ENDLESS, schedulers_of
from .caveats import InitialStudent, initial_student
from .measuring.teachers import TeacherSource, add_teachers
from .options import ComparisonOptions
from .rows import ComparisonRow

# Name of a row, and a seed.
RowSeed = tuple[str, int]


@dataclass(frozen=True)
class PreparedComparison:
    """Checked rows, and all their trainings.

    Args:
        rows: The rows, the base first.
        trainings: The trainings by row and seed, in the order in which they run.
        students: The initial students by row and seed.
        metric: Name of the metric that counts, and its key in the log.
        folder: Folder of the comparison.
        teachers: The teachers of all rows, by what identifies them.
    """

    rows: Sequence[ComparisonRow]
    trainings: Mapping[RowSeed, TrainingRun]
    students: Mapping[RowSeed, InitialStudent]
    metric: tuple[str, str]
    folder: Path
    teachers: Mapping[str, TeacherSource] = field(default_factory=dict)

    @property
    def base(self) -> ComparisonRow:
        """The row of the student alone."""
        return self.rows[0]

    def config_file(self, row: ComparisonRow) -> Path:
        """Return the file of a row's complete config."""
        return config_file(self.folder, row)


def config_file(folder: Path, row: ComparisonRow) -> Path:
    """Return the file of a row's complete config in a comparison's folder."""
    return folder / 'configs' / f'{row.stem}.py'


def prepare_comparison(
    rows: Sequence[ComparisonRow], options: ComparisonOptions, folder: Path
) -> PreparedComparison:
    """Check every row, write its config, and initialise its student.

    Args:
        rows: The rows, the base first.
        options: Settings of the comparison.
        folder: Folder of the comparison.

    Raises:
        MkdError: A row could not be trained to its end.
    """
    metric = main_metric(rows[0].cfg, rows[0].name, options.metric)
    _check_units(rows)
    for row in rows:
        main_metric(row.cfg, row.name, metric[1])
        if options.test:
            with prefix_errors(row.name):
                _check_test(row.cfg, metric[1])
    trainings, students = {}, {}
    teachers: dict[str, TeacherSource] = {}
    for row in rows:
        with prefix_errors(row.name):
            print(f'Checking {row.name}', flush=True)
            training = prepare_row(row, metric, folder, teachers)
            for seed in options.seeds:
                cfg = prepare_config(row.cfg)
                students[row.name, seed] = initial_student(cfg, seed)
        for seed in options.seeds:
            name = f'{row.stem}-{seed}'
            trainings[row.name, seed] = replace(
                training,
                name=name,
                title=f'{row.name}, seed {seed}',
                folder=folder / name,
                options={'randomness.seed': str(seed)},
            )
    # All rows with one seed, then with the next: early results can be compared.
    order = [(row.name, seed) for seed in options.seeds for row in rows]
    ordered = {key: trainings[key] for key in order}
    return PreparedComparison(rows, ordered, students, metric, folder, teachers)


def _check_test(cfg: Config, key: str) -> None:
    """Raise ConfigError for what would stop the test after all trainings."""
    for name in ('test_dataloader', 'test_evaluator'):
        if cfg.get(name) is None:
            raise ConfigError(
                f'--test: the config has no `{name}`',
                expected='test_dataloader and test_evaluator',
                fix=f'without --test, or {name}=dict(...) in the config',
            )
    if is_logged(cfg.test_evaluator, key) is False:
        raise ConfigError(
            '--test: `test_evaluator` does not measure what counts',
            actual=metric_names(cfg.test_evaluator),
            expected=key,
            fix='test_evaluator with the metric of val_evaluator',
        )
    check_data(cfg, splits=('test',))
    check_loaders(cfg, splits=('test',))


def _check_units(rows: Sequence[ComparisonRow]) -> None:
    """Raise ConfigError unless all rows count epochs, or all count iterations."""
    by_epoch = {row.name: training_budget(row.cfg, row.name)[1] for row in rows}
    base = rows[0].name
    other = next((name for name in by_epoch if by_epoch[name] != by_epoch[base]), None)
    if other:
        raise ConfigError(
            f'{other} is not trained in the unit of {base}',
            expected='all rows in epochs, or all in iterations',
            actual={n: 'epochs' if e else 'iterations' for n, e in by_epoch.items()},
        )


def prepare_row(
    row: ComparisonRow,
    metric: tuple[str, str],
    folder: Path,
    teachers: dict[str, TeacherSource],
) -> TrainingRun:
    """Check a row, and return its training without a seed.

    Args:
        row: The row.
        metric: Name of the metric that counts, and its key in the log.
        folder: Folder of the comparison.
        teachers: The teachers of all rows; those of this row are added.

    Raises:
        MkdError: The row could not be trained to its end.
    """
    check_amp(row.cfg)
    cfg = prepare_config(deepcopy(row.cfg))
    cfg.work_dir = str(folder / row.stem)
    model = check_before_start(cfg)
    identities = _teacher_fingerprints(model, cfg)
    add_teachers(teachers, row.name, model, identities)
    path = config_file(folder, row)
    write_config(path, row.cfg)
    return make_training_run(
        row.cfg,
        path,
        folder,
        row.name,
        title=row.name,
        depends_on=identities,
        metrics=dict([metric]),
        settings={
            key: value
            for key, value in settings_in(row.cfg, folder).items()
            # The content of a checkpoint counts, not its path.
            if not (key.startswith('model.teachers.') and key.endswith('.checkpoint'))
        },
    )


def _teacher_fingerprints(model: nn.Module, cfg: Config) -> dict[str, str]:
    """Return what identifies the teachers of a training: weights and model configs."""
    found = {}
    for name, teacher in getattr(model, 'teachers', {}).items():
        given = cfg.model.teachers[name].get('cfg')
        text = json.dumps(given and load_teacher_cfg(given)[0], default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        found[f'teacher {name}'] = f'{teacher.weights}, config {digest}'
    return found


def notes_on_test(prepared: PreparedComparison) -> list[str]:
    """Warn where the test data of the base is its validation data."""
    base = prepared.base.cfg
    if base.val_dataloader.dataset != base.test_dataloader.dataset:
        return []
    return [
        'Warning: the test data of the base is its validation data. Figures on images'
        ' by which something was chosen say nothing about other images.'
    ]


def notes_on_schedules(prepared: PreparedComparison) -> list[str]:
    """Describe schedulers that end after the training, such as a too long warm-up."""
    notes = []
    lengths = {row: run.iterations for (row, _), run in prepared.trainings.items()}
    for row in prepared.rows:
        for scheduler in schedulers_of(row.cfg):
            keys = ('end', 'T_max', 'total_steps')
            ends = [v for k in keys if is_integer(v := scheduler.get(k))]
            last = max(ends, default=0)
            by_epoch = scheduler.get('by_epoch', True)
            if not by_epoch and lengths[row.name] < last < ENDLESS:
                notes.append(
                    f'{row.name}: its {scheduler.type} takes {last} iterations, the'
                    f' training {lengths[row.name]}.'
                )
    return notes
