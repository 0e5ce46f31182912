"""The protocol of measurements: equally many tries for each row, then one test.

All tries of all rows train with the first seed and are judged on validation images.
What was best of each row trains with all seeds, and is tested once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import dump
from mmengine.config import Config

from mkd_det.cli import compare
from mkd_det.cli.common import add_devices
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.experiments.comparison.rows import file_stem
from mkd_det.io.json_files import read_json, write_json

# Configs of a row by what was tried, such as 'lr 0.001'.
Tries = Mapping[str, Config]


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
    rows: Mapping[str, Tries], seeds: Sequence[int], place: Place
) -> dict[str, str]:
    """Try, choose, train with all seeds, and test.

    Args:
        rows: The tries of each row; the first row is the student alone.
        seeds: All seeds; the tries have the first.
        place: Where to train and report.

    Returns:
        What was chosen, by row.
    """
    files = {}
    for row, tries in rows.items():
        for label, cfg in tries.items():
            name = f'{row}, {label}'
            files[name] = place.folder / 'configs' / f'{file_stem(name)}.py'
            dump(cfg, files[name])
    tries_out = place.folder / 'tries'
    run_compare(files, seeds[:1], place, tries_out)
    report = read_json(tries_out / JSON)
    reached = {row['name']: row['metric']['mean'] for row in report['rows']}
    tried = {
        row: {label: reached[f'{row}, {label}'] for label in tries}
        for row, tries in rows.items()
    }
    place.out.mkdir(parents=True, exist_ok=True)
    write_json(place.out / 'tries.json', tried)
    chosen = {row: max(own, key=own.__getitem__) for row, own in tried.items()}
    names = [f'{row}, {label}' for row, label in chosen.items()]
    run_compare({n: files[n] for n in names}, seeds, place, place.out, test=True)
    return chosen


def run_compare(
    files: Mapping[str, Path],
    seeds: Sequence[int],
    place: Place,
    out: Path,
    test: bool = False,
) -> None:
    """Run `mkd-det compare`; the first file is the base."""
    (base, file), *others = files.items()
    argv = [
        *(f'{name}={path}' for name, path in others),
        *('--base', f'{base}={file}'),
        *('--seeds', *map(str, seeds)),
        *('--work-dir', str(place.folder / 'runs')),
        *('--out', str(out)),
        *(('--epochs', str(place.epochs)) if place.epochs else ()),
        *(('--test',) if test else ()),
        *('--devices', *place.devices),
    ]
    if code := compare.main(argv):
        raise SystemExit(code)  # it has printed the error
