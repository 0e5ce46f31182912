"""The protocol of measurements: equally many tries for each row, then one test.

All tries of all rows train with the first seed and are judged on validation images; one
that fails is the worst. What was best of each row trains with all seeds, and is tested
once. Figures of tries stay in `tries.json`: a try that has one there is not trained
again, on whatever machine (but for one, the base of the others). Remove the file where
configs have changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import dump
from mmengine.config import Config

from mkd_det.cli import compare
from mkd_det.cli.common import add_devices
from mkd_det.errors import ExperimentError
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.experiments.comparison.rows import file_stem
from mkd_det.io.json_files import finite, read_json, write_json

# Values of the settings that are tried, by name.
Settings = Mapping[str, float]
# Figure of a try that has failed.
WORST = float('-inf')
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


def measure(
    rows: Mapping[str, Make],
    stages: Sequence[Stage],
    seeds: Sequence[int],
    place: Place,
    also: Mapping[str, tuple[str, Make]] | None = None,
) -> dict[str, Settings]:
    """Try, choose, train with all seeds, and test.

    Args:
        rows: The rows; the first is the student alone.
        stages: What is tried of each row, one setting after the other.
        seeds: All seeds; the tries have the first.
        place: Where to train and report.
        also: Rows without tries of their own: the row whose settings they take, and
            what makes their config.

    Returns:
        What was chosen, by row.
    """
    start = {stage.name: stage.start for stage in stages}
    best: dict[str, Settings] = dict.fromkeys(rows, start)
    tries = Tries(place.out / 'tries.json')
    files: dict[str, Path] = {}
    made: dict[str, tuple[str, Settings]] = {}
    for stage in stages:
        for row, make in rows.items():
            for value in stage.values:
                settings = {**best[row], stage.name: value}
                name = f'{row}, {label(settings)}'
                made[name] = row, settings
                files[name] = place.folder / 'configs' / f'{file_stem(name)}.py'
                dump(make(settings), files[name])
        left = tries.left(files)
        rows_of = {name: made[name][0] for name in left}
        try:
            tries.add(rows_of, run_tries(left, seeds[:1], place))
        finally:  # a run that is stopped has figures as well
            tries.add(rows_of, figures(place.folder / 'tries'))
        names = {row: tries.best(row, made) for row in rows}
        best = {row: made[name][1] for row, name in names.items()}
    chosen = {name: files[name] for name in names.values()}
    for name, (row, make) in (also or {}).items():
        chosen[name] = place.folder / 'configs' / f'{file_stem(name)}.py'
        dump(make(best[row]), chosen[name])
    run_compare(chosen, seeds, place, place.out, test=True)
    return best


class Tries:
    """Figures of tries, by row, kept in a file.

    Args:
        file: Figures of an earlier run are read from it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
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

    def best(self, row: str, names: Collection[str]) -> str:
        """Return the best try of a row.

        Args:
            row: Name of the row.
            names: The tries that count; the file may have others.

        Raises:
            ExperimentError: All tries of the row have failed.
        """
        own = {n: v for n, v in self.figures.get(row, {}).items() if n in names}
        name = max(own, key=own.__getitem__)
        if own[name] == WORST:
            raise ExperimentError(
                f'all tries of {row!r} have failed',
                expected='one that trains to its end',
                actual=', '.join(own),
                fix=f'remove them from {self.file}, and run the same command again,'
                ' once what the logs in runs/ show is mended; or other values in'
                ' STAGES of the script',
            )
        return name


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
    """
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
