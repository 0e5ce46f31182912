"""The protocol of measurements: equally many tries for each row, then one test.

All tries of all rows train with the first seed and are judged on validation images; one
that fails is the worst. What was best of each row, on all data sets together, trains
with all seeds, and is tested once. Figures of tries stay in `tries.json`: a try that
has one there is not trained again, on whatever machine (but for one, the base of the
others). Remove the file where configs have changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measuring import dump
from mmengine.config import Config

from mkd_det.cli import compare
from mkd_det.cli.common import add_devices
from mkd_det.errors import ExperimentError
from mkd_det.experiments.comparison.budget import set_budget
from mkd_det.experiments.comparison.options import ComparisonOptions
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.experiments.comparison.rows import file_stem
from mkd_det.io.json_files import finite, read_json, write_json

# Values of the settings that are tried, by name.
Settings = Mapping[str, float]
# Figure of a try that has failed.
WORST = float('-inf')
# Row and try of the teacher's figure, beside those of students.
TEACHER = 'teacher'
# Makes the config of a row with some settings.
Make = Callable[[Settings], Config]


@dataclass(frozen=True)
class Stage:
    """Tries that differ in one setting; the others are the best so far.

    Args:
        name: Name of the setting, such as 'lr'.
        values: What is tried.
        start: Its value in earlier stages.
    """

    name: str
    values: Sequence[float]
    start: float = 1.0


@dataclass(frozen=True)
class Place:
    """Where a comparison trains and reports.

    Args:
        folder: Folder of configs, trainings and the report of the tries.
        out: Folder of the report, and of `tries.json`.
        devices: As of `mkd-det compare`.
        epochs: Budget of each training; None for that of the configs.
    """

    folder: Path
    out: Path
    devices: Sequence[str]
    epochs: int | None = None


def make_parser(description: str | None, work_dir: str) -> argparse.ArgumentParser:
    """Return a parser for seeds, budget, and where to write.

    Args:
        description: Docstring of the script.
        work_dir: Default folder of the trainings.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--epochs', type=int, help="budget of each training; default: the configs'")
    add('--work-dir', type=Path, default=Path(work_dir))
    add('--out', type=Path, default=Path('docs/results'))
    add('--debug', action='store_true', help='show tracebacks')
    add_devices(parser, 'trainings')
    return parser


@dataclass(frozen=True)
class Task:
    """Rows on a data set.

    Args:
        rows: What makes the config of each row; the first is the student alone.
        place: Where to train and report.
        also: Rows without tries of their own: the row whose settings they take, and
            what makes their config.
    """

    rows: Mapping[str, Make]
    place: Place
    also: Mapping[str, tuple[str, Make]] = field(default_factory=dict)


def measure(
    tasks: Sequence[Task], stages: Sequence[Stage], seeds: Sequence[int]
) -> dict[str, Settings]:
    """Try, choose, train with all seeds, and test.

    Args:
        tasks: The same rows on some data sets, for all of which settings are chosen
            together: by the mean share of the gap between the student alone and its
            teacher that a try closes.
        stages: What is tried of each row, one setting after the other.
        seeds: All seeds; the tries have the first.

    Returns:
        What was chosen, by row.
    """
    best = choose(tasks, stages, seeds[0])
    for task in tasks:
        folder = task.place.folder / 'configs'
        chosen = {
            f'{row}, {label(best[row])}': (row, m) for row, m in task.rows.items()
        }
        files = {}
        for name, (row, make) in {**chosen, **task.also}.items():
            files[name] = folder / f'{file_stem(name)}.py'
            dump(make(best[row]), files[name])
        run_compare(files, seeds, task.place, task.place.out, test=True)
    return best


def choose(
    tasks: Sequence[Task], stages: Sequence[Stage], seed: int
) -> dict[str, Settings]:
    """Try settings on all data sets, and return the best of each row.

    Args:
        tasks: The same rows on some data sets.
        stages: What is tried of each row, one setting after the other.
        seed: Seed of the trainings.
    """
    rows = list(tasks[0].rows)
    start = {stage.name: stage.start for stage in stages}
    best: dict[str, Settings] = dict.fromkeys(rows, start)
    tries = [Tries(task.place.out / 'tries.json', rows[0]) for task in tasks]
    made: dict[str, tuple[str, Settings]] = {}
    for stage in stages:
        for row in rows:
            for value in stage.values:
                settings = {**best[row], stage.name: value}
                made[f'{row}, {label(settings)}'] = row, settings
        for task, own in zip(tasks, tries, strict=True):
            try_all(task, made, own, seed)
        best = {row: made[best_try(tries, row, made)][1] for row in rows}
    return best


def try_all(
    task: Task, made: Mapping[str, tuple[str, Settings]], tries: Tries, seed: int
) -> None:
    """Train the tries of a data set that have no figure yet.

    Args:
        task: The data set.
        made: Row and settings of each try.
        tries: What is known, to which figures are added.
        seed: Seed of the trainings.
    """
    place, files = task.place, {}
    for name, (row, settings) in made.items():
        files[name] = place.folder / 'configs' / f'{file_stem(name)}.py'
        dump(task.rows[row](settings), files[name])
    left = tries.left(files)
    rows_of = {name: made[name][0] for name in left} | {TEACHER: TEACHER}
    try:
        tries.add(rows_of, run_tries(left, [seed], place))
    finally:  # a run that is stopped has figures as well
        out = place.folder / 'tries'
        tries.add(rows_of, {**figures(out), **teacher_figure(out)})


def best_try(
    tries: Sequence[Tries], row: str, made: Mapping[str, tuple[str, Settings]]
) -> str:
    """Return the try of a row that is best on all data sets together.

    Args:
        tries: Figures on each data set.
        row: Name of the row.
        made: The tries that count; files of figures may have others.

    Raises:
        ExperimentError: Each try of the row has failed on some data set.
    """
    names = [name for name, (of, _) in made.items() if of == row]
    means = {n: sum(own.share(row, n) for own in tries) / len(tries) for n in names}
    name = max(means, key=means.__getitem__)
    if means[name] == WORST:
        raise ExperimentError(
            f'all tries of {row!r} have failed',
            expected='one that trains to its end',
            actual=', '.join(names),
            fix='remove them from '
            + ', '.join(str(own.file) for own in tries)
            + ', and run the same command again, once what the logs in runs/ show is'
            ' mended; or other values in STAGES of the script',
        )
    return name


class Tries:
    """Figures of tries on a data set, by row, kept in a file.

    Args:
        file: Figures of an earlier run are read from it.
        base: The row of the student alone.
    """

    def __init__(self, file: Path, base: str) -> None:
        self.file, self.base = file, base
        self.figures: dict[str, dict[str, float]] = {
            # -inf is null in json.
            row: {name: WORST if v is None else v for name, v in own.items()}
            for row, own in (read_json(file) or {}).items()
        }

    def left(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Return the tries to train: those without a figure, after one that has one.

        `compare` needs a base. On another machine that one is trained again.

        Args:
            files: Config of each try.
        """
        known = {n: v for own in self.figures.values() for n, v in own.items()}
        missing = {name: file for name, file in files.items() if name not in known}
        done = [name for name in files if known.get(name, WORST) != WORST]
        return {name: files[name] for name in done[:1]} | missing if missing else {}

    def add(self, rows: Mapping[str, str], found: Mapping[str, float]) -> None:
        """Add figures, and write the file.

        Args:
            rows: The row of each try.
            found: The figure of each try; others are left out.
        """
        for name, value in found.items():
            if name in rows:
                self.figures.setdefault(rows[name], {})[name] = value
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, finite(self.figures))

    def share(self, row: str, name: str) -> float:
        """Return the share of the gap that a try closes.

        Its gain without a teacher, or with one that is no better than the student. The
        student alone counts with its best figure in the file.

        Args:
            row: The row of the try.
            name: The try.
        """
        alone = max(self.figures[self.base].values())
        gain = self.figures[row][name] - alone if alone != WORST else WORST
        gap = self.figures.get(TEACHER, {}).get(TEACHER, WORST) - alone
        return gain / gap if gap > 0 else gain


def label(settings: Settings) -> str:
    """Return settings in words: 'lr 0.003, weight 2'."""
    return ', '.join(f'{name} {value:g}' for name, value in settings.items())


def run_tries(
    files: Mapping[str, Path], seeds: Sequence[int], place: Place
) -> dict[str, float]:
    """Train tries, and return the figure of each.

    A try that fails, as one that diverges does, counts as the worst.

    Args:
        files: Config of each try.
        seeds: Seeds of the trainings.
        place: Where to train.

    Raises:
        ExperimentError: There is one try only.
    """
    if len(files) == 1:
        raise ExperimentError(
            'one try alone cannot be compared',
            actual=next(iter(files)),
            fix='more values in STAGES of the script, or more rows',
        )
    out, left = place.folder / 'tries', dict(files)
    found: dict[str, float] = {}
    while len(left) > 1 and not found:
        # What an earlier run has written is not the report of this one.
        (out / JSON).unlink(missing_ok=True)
        try:
            run_compare(left, seeds, place, out, debug=True)
        except ExperimentError as error:
            print(f'Continues without a training that has failed:\n{error}')
        found = figures(out)
        # Without the base there is no report: the next one takes its place.
        del left[next(iter(left))]
    for name in files:
        if name not in found:
            print(f'{name}: it has failed, or has no figure; counts as the worst')
    return {name: found.get(name, WORST) for name in files}


def teacher_figure(out: Path) -> dict[str, float]:
    """Return the figure of the best teacher of a report, by `TEACHER`; or nothing."""
    report = read_json(out / JSON) or {}
    metrics = [teacher['metrics'] for teacher in report.get('teachers', ())]
    known = [value for m in metrics if (value := m.get(report['key'])) is not None]
    return {TEACHER: max(known)} if known else {}


def lengthen(cfg: Config, times: int) -> None:
    """Let a training and its schedule be so many times as long.

    Args:
        cfg: Its config, which counts epochs.
        times: How many times.
    """
    epochs = times * cfg.train_cfg.max_epochs
    kept = {'train_cfg.val_interval': cfg.train_cfg.val_interval}
    set_budget(cfg, ComparisonOptions(epochs=epochs, options=kept))


def figures(out: Path) -> dict[str, float]:
    """Return the figure of each row of a report that has one; none without report."""
    report = read_json(out / JSON) or {'rows': []}
    found = {row['name']: row['metric']['mean'] for row in report['rows']}
    # NaN is null in a report.
    return {name: v for name, v in found.items() if v is not None and v == v}


def run_compare(
    files: Mapping[str, Path],
    seeds: Sequence[int],
    place: Place,
    out: Path,
    test: bool = False,
    debug: bool = False,
) -> None:
    """Run `mkd-det compare`; the first file is the base.

    Args:
        files: Config of each row.
        seeds: Seeds of the trainings.
        place: Where to train.
        out: Folder of the report.
        test: Whether to report the test data.
        debug: Whether its errors are raised instead of printed.
    """
    (base, file), *others = files.items()
    argv = [
        *(f'{name}={path}' for name, path in others),
        *('--base', f'{base}={file}'),
        *('--seeds', *map(str, seeds)),
        *('--work-dir', str(place.folder / 'runs')),
        *('--out', str(out)),
        *(('--epochs', str(place.epochs)) if place.epochs else ()),
        *(('--test',) if test else ()),
        *(('--debug',) if debug else ()),
        *(('--devices', *place.devices) if any(place.devices) else ()),
    ]
    if code := compare.main(argv):
        raise SystemExit(code)  # it has printed the error
