"""What the measure_* tools share: rows times seeds, table and figure of them."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

from mkd_det.configs import load_config
from mkd_det.experiments.comparison.figures import draw_runs
from mkd_det.experiments.runs import ROOT, Stage, display, run_stage, write_json
from mkd_det.training.runtime import build_model

Run = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """What is measured.

    Args:
        name: In the json.
        title: In tables and pictures.
        digits: Behind the point.
    """

    name: str
    title: str
    digits: int = 3


@dataclass(frozen=True)
class Report:
    """Where results go, and what is said of them.

    Args:
        stem: Name of the files.
        note: Stands above the table, after the command.
        figures: What is measured; the first with its spread, and in the picture.
        axis: Label of the picture's axis.
        teachers: Rows that are lines in the picture, no student's.
    """

    stem: str
    note: str
    figures: Sequence[Figure]
    axis: str
    teachers: Sequence[str]


def parser(description: str | None, rows: Sequence[str], work_dir: str) -> Any:
    """Seeds, rows, and where to write."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    made.add_argument('--rows', nargs='+', default=list(rows), choices=list(rows))
    made.add_argument('--work-dir', type=Path, default=Path(work_dir))
    made.add_argument('--out', type=Path, default=Path('docs/results'))
    made.add_argument('--debug', action='store_true', help='show tracebacks')
    return made


def folder_name(row: str, seed: int) -> str:
    """Of a run's work dir."""
    return f'{row.replace(",", "").replace(" ", "_")}-{seed}'


def count_parameters(config: str) -> int:
    """Of the student that a config trains."""
    model = build_model(load_config(str(ROOT / config)))
    return sum(parameter.numel() for parameter in model.parameters())


def measure(
    stages: Sequence[tuple[str, int, Stage]],
    params: Callable[[str], int],
    write: Callable[[Sequence[Run]], None],
) -> list[Run]:
    """Run what is missing, write after every run.

    Args:
        stages: Row, seed and training.
        params: Number of parameters of a row's model.
        write: Gets all runs so far.
    """
    MMLogger.get_current_instance().setLevel('WARNING')
    runs: list[Run] = []
    with display(len(stages), 'all runs') as show:
        for row, seed, stage in stages:
            entry = run_stage(stage, {}, show).entry()
            runs.append({**entry, 'name': row, 'seed': seed, 'params': params(row)})
            write(runs)
    return runs


def table(runs: Sequence[Run], figures: Sequence[Figure]) -> str:
    """Mean and spread of every row, in markdown."""
    first, *others = figures
    titles = [first.title, *(f.title for f in others), 'each seed', 'seconds']
    lines = ['| | ' + ' | '.join(titles) + ' |', '|---' * (len(titles) + 1) + '|']
    for row in dict.fromkeys(run['name'] for run in runs):
        own = [run for run in runs if run['name'] == row]
        values = [run[first.name] for run in own]
        means = [
            f'{statistics.mean(run[f.name] for run in own):.{f.digits}f}'
            for f in figures
        ]
        if len(own) > 1:
            means[0] += f' ± {statistics.stdev(values):.{first.digits}f}'
        each = ', '.join(f'{value:.{first.digits}f}' for value in values)
        seconds = statistics.mean(run['seconds'] for run in own)
        cells = [row, *means, each, f'{seconds:.0f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def write_report(report: Report, command: str, out: Path, runs: Sequence[Run]) -> None:
    """Raw json, table and picture of all that is there so far."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f'{report.stem}.json', runs)
    (out / f'{report.stem}.md').write_text(
        f'    {command}\n\n'
        'Mean ± standard deviation over the seeds. Raw numbers and commands:'
        f' [{report.stem}.json]({report.stem}.json). {report.note}\n\n'
        f'{table(runs, report.figures)}\n\n'
        f'![{report.axis}]({report.stem}.png)\n'
    )
    rows: dict[str, list[float]] = {}
    for run in runs:
        rows.setdefault(run['name'], []).append(run[report.figures[0].name])
    lines = {name: rows.pop(name)[0] for name in report.teachers if name in rows}
    draw_runs(rows, lines, report.axis, out / f'{report.stem}.png')
