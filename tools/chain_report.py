"""What came out of a chain: a table, and a figure of accuracy over size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chain_jobs import Job
from matplotlib.figure import Figure
from rich.table import Table

from mkd_det.errors import ConfigError
from mkd_det.experiments.runs import Result, read_json


def entries(jobs: Sequence[Job], results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each member."""
    return [
        {
            **result.entry(),
            'params': job.params,
            'guides': list(job.member.guides),
            'lam': job.member.lam if job.member.guides else None,
            'sampling': dict(job.member.sampling),
            'metric': job.metric[0],
        }
        for job, result in zip(jobs, results, strict=True)
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """For the terminal."""
    made = Table('stage', 'parameters', rows[0]['metric'], 'seconds', 'taught by')
    for column in made.columns[1:4]:
        column.justify = 'right'
    for row in rows:
        given = row['command'] == 'given'
        made.add_row(
            row['name'],
            f'{row["params"] / 1e6:.2f} M',
            f'{row[row["metric"]]:.3f}',
            'given' if given else f'{row["seconds"]:.0f}',
            ', '.join(row['guides']) or '-',
        )
    return made


def draw(
    chains: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, metric: str
) -> None:
    """Metric over size, a line for each chain; its student is marked."""
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    named: set[str] = set()
    for label, rows in chains.items():
        sizes = [row['params'] / 1e6 for row in rows]
        values = [row[metric] for row in rows]
        (line,) = axes.plot(sizes, values, 'o-', label=label, alpha=0.8)
        axes.plot(sizes[-1], values[-1], '*', ms=15, color=line.get_color())
        for row, size, value in zip(rows, sizes, values):
            if row['name'] in named:
                continue  # once: other chains have it at the same size
            named.add(row['name'])
            axes.annotate(row['name'], (size, value), xytext=(4, 4), size=8,
                          textcoords='offset points')  # fmt: skip
    axes.set(xlabel='parameters, millions', ylabel=metric, xscale='log')
    ticks = sorted({row['params'] / 1e6 for rows in chains.values() for row in rows})
    axes.set_xticks(ticks, [f'{tick:.2f}' for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.margins(x=0.12, y=0.1)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def read_others(
    folders: Sequence[Path], metric: str
) -> dict[Path, list[dict[str, Any]]]:
    """Results of other chains, by their folders.

    Raises:
        ConfigError: There are none in a folder, or of another metric.
    """
    found = {}
    for folder in map(Path.resolve, folders):
        rows = read_json(folder / 'chain.json')
        if not rows:
            raise ConfigError(
                f'--beside: there is no finished chain in {folder}',
                expected='a work dir of train_chain.py, with chain.json',
            )
        if rows[0]['metric'] != metric:
            raise ConfigError(
                f'--beside: {folder} counts another metric',
                expected=metric,
                actual=rows[0]['metric'],
            )
        found[folder] = rows
    return found


def labels(folders: Sequence[Path]) -> list[str]:
    """The last names of folders; the whole path where two have the same."""
    names = [folder.name for folder in folders]
    return [
        folder.name if names.count(folder.name) == 1 else os.path.relpath(folder)
        for folder in folders
    ]
