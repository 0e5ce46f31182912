"""What the measure_*.py scripts share: trainings of rows and seeds, the report."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from mkd_det.config_files.reading import load_config
from mkd_det.experiments.comparison.report.figures import draw_runs
from mkd_det.experiments.runs import TrainingRun, make_display, run_training
from mkd_det.experiments.runs.settings import settings_in
from mkd_det.io.json_files import write_json
from mkd_det.training.runtime import build_model

# One training: its row, its seed, and how it is run.
Planned = tuple[str, int, TrainingRun]
# One finished training, as in the json file.
Entry = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A metric of the table.

    Args:
        name: Key in the json file.
        title: Heading in tables and figures.
        digits: Digits behind the point.
    """

    name: str
    title: str
    digits: int = 3


TOP1 = Metric('top1', 'top 1, %', 2)
TOP5 = Metric('top5', 'top 5, %', 2)
BOX_MAP = Metric('box_map', 'box mAP')
BOX_MAP_50 = Metric('box_map_50', 'mAP50')

# Names of the layers in the published CIFAR ResNets, and in ours.
CIFAR_LAYERS = [
    ('^linear', 'head'),
    ('^conv1', 'backbone.conv1'),
    ('^bn1', 'backbone.bn1'),
    ('^layer', 'backbone.layer'),
]
CIFAR_BATCH = 32


@dataclass(frozen=True)
class Report:
    """Files of a measurement, and the text around its table.

    Args:
        stem: Name of the files, without ending.
        title: Title of the page.
        note: Text above the table, after the command.
        metrics: Columns; the first one has its spread, and is drawn.
        axis: Label of the figure's axis.
        references: Rows that are drawn as lines, such as the teacher.
    """

    stem: str
    title: str
    note: str
    metrics: Sequence[Metric]
    axis: str
    references: Sequence[str] = ()


def make_parser(
    description: str | None, rows: Sequence[str], work_dir: str
) -> argparse.ArgumentParser:
    """Return a parser for seeds, rows, and where to write.

    Args:
        description: Docstring of the script.
        rows: Names of all rows.
        work_dir: Default folder of the trainings.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--rows', nargs='+', default=list(rows), choices=list(rows))
    add('--work-dir', type=Path, default=Path(work_dir))
    add('--out', type=Path, default=Path('docs/results'))
    add('--debug', action='store_true', help='show tracebacks')
    return parser


def folder_name(row: str, seed: int) -> str:
    """Return the name of a training's work dir."""
    return f'{row.replace(",", "").replace(" ", "_")}-{seed}'


def settings_of(config: str, folder: Path) -> dict[str, str]:
    """Return the settings of a config that determine the result of its training."""
    return settings_in(load_config(config), folder)


def count_parameters(config: str) -> int:
    """Return the number of parameters of a config's model."""
    model = build_model(load_config(config))
    return sum(parameter.numel() for parameter in model.parameters())


def run_all(
    planned: Sequence[Planned],
    parameters: Callable[[str], int],
    write: Callable[[Sequence[Entry]], None],
) -> list[Entry]:
    """Run the trainings that are missing; write after each.

    Args:
        planned: All trainings.
        parameters: Number of parameters of a row's model.
        write: Writes all results so far.
    """
    MMLogger.get_current_instance().setLevel('WARNING')
    entries: list[Entry] = []
    with make_display(len(planned), 'all trainings') as display:
        for row, seed, training in planned:
            entry = run_training(training, {}, display).entry()
            own = {'name': row, 'seed': seed, 'params': parameters(row)}
            entries.append({**entry, **own})
            write(entries)
    return entries


def markdown_table(entries: Sequence[Entry], metrics: Sequence[Metric]) -> str:
    """Return mean and spread of every row as a markdown table."""
    first, *others = metrics
    titles = [first.title, *(m.title for m in others), 'each seed', 'seconds']
    lines = ['| | ' + ' | '.join(titles) + ' |', '|---' * (len(titles) + 1) + '|']
    for row, own in by_row(entries).items():
        values = [entry[first.name] for entry in own]
        means = [
            f'{statistics.mean(entry[m.name] for entry in own):.{m.digits}f}'
            for m in metrics
        ]
        if len(own) > 1:
            means[0] += f' ± {statistics.stdev(values):.{first.digits}f}'
        each = ', '.join(f'{value:.{first.digits}f}' for value in values)
        seconds = statistics.mean(entry['seconds'] for entry in own)
        cells = [row, *means, each, f'{seconds:.0f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def by_row(entries: Sequence[Entry]) -> Mapping[str, list[Entry]]:
    """Group entries by the names of their rows."""
    rows: dict[str, list[Entry]] = {}
    for entry in entries:
        rows.setdefault(entry['name'], []).append(entry)
    return rows


def write_report(
    report: Report, command: str, out: Path, entries: Sequence[Entry]
) -> None:
    """Write json, page and figure of all results so far.

    Args:
        report: Names of the files, and the text.
        command: The command that measures this.
        out: Folder of the files.
        entries: The results.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f'{report.stem}.json', entries)
    (out / f'{report.stem}.md').write_text(
        f'# {report.title}: all numbers\n\n'
        f'    {command}\n\n'
        'Mean ± standard deviation over the seeds. Raw numbers and commands:'
        f' [{report.stem}.json]({report.stem}.json). {report.note}\n\n'
        f'{markdown_table(entries, report.metrics)}\n\n'
        f'![{report.axis}]({report.stem}.png)\n'
    )
    drawn = report.metrics[0].name
    rows = {row: [e[drawn] for e in own] for row, own in by_row(entries).items()}
    lines = {name: rows.pop(name)[0] for name in report.references if name in rows}
    draw_runs(rows, lines, report.axis, out / f'{report.stem}.png')


def dump(cfg: Mapping[str, Any], file: Path) -> None:
    """Write a config file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Config(dict(cfg)).dump(file)
