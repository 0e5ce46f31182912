"""Results of a chain: a table, and a figure of the metric over size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from ...errors import ConfigError
from ...io.json_files import read_json
from ..runs import TrainingResult
from .member_runs import MemberRun

RESULTS, FIGURE = 'chain.json', 'chain.png'

# One dict for each member, as in RESULTS.
ChainResults = Sequence[Mapping[str, Any]]


def chain_results(
    runs: Sequence[MemberRun], results: Sequence[TrainingResult]
) -> list[dict[str, Any]]:
    """Return the results of a chain, one dict for each member."""
    return [
        {
            **result.entry(),
            'params': run.params,
            'guides': list(run.member.guides),
            'lam': run.member.lam if run.member.guides else None,
            'sampling': dict(run.member.sampling),
            'metric': run.metric[0],
        }
        for run, result in zip(runs, results, strict=True)
    ]


def results_table(results: ChainResults) -> Table:
    """Return a table for the terminal."""
    table = Table('member', 'parameters', results[0]['metric'], 'seconds', 'taught by')
    for column in table.columns[1:4]:
        column.justify = 'right'
    for result in results:
        given = result['command'] == 'given'
        table.add_row(
            result['name'],
            f'{result["params"] / 1e6:.2f} M',
            f'{result[result["metric"]]:.3f}',
            'given' if given else f'{result["seconds"]:.0f}',
            ', '.join(result['guides']) or '-',
        )
    return table


def draw_sizes(chains: Mapping[str, ChainResults], path: Path, metric: str) -> None:
    """Draw the metric over size: a line for each chain, a star for its student.

    Args:
        chains: Results of chains, by label.
        path: The PNG file.
        metric: Name of the metric.
    """
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    labelled: set[str] = set()
    for label, results in chains.items():
        sizes = [result['params'] / 1e6 for result in results]
        values = [result[metric] for result in results]
        (line,) = axes.plot(sizes, values, 'o-', label=label, alpha=0.8)
        axes.plot(sizes[-1], values[-1], '*', ms=15, color=line.get_color())
        for result, size, value in zip(results, sizes, values):
            if result['name'] in labelled:
                continue  # other chains have the same member at the same size
            labelled.add(result['name'])
            axes.annotate(
                result['name'],
                (size, value),
                xytext=(4, 4),
                size=8,
                textcoords='offset points',
            )
    axes.set(xlabel='parameters, millions', ylabel=metric, xscale='log')
    ticks = sorted({r['params'] / 1e6 for results in chains.values() for r in results})
    axes.set_xticks(ticks, [f'{tick:.2f}' for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.margins(x=0.12, y=0.1)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def read_other_chains(
    folders: Sequence[Path], metric: str
) -> dict[Path, list[dict[str, Any]]]:
    """Read the results of other chains, by their folders.

    Args:
        folders: Work dirs of chains.
        metric: Name of the metric that they must have.

    Raises:
        ConfigError: A folder has no results, or those of another metric.
    """
    found = {}
    for folder in map(Path.resolve, folders):
        results = read_json(folder / RESULTS)
        if not results:
            raise ConfigError(
                f'--beside: there is no finished chain in {folder}',
                expected=f'a work dir of mkd-det chain, with {RESULTS}',
            )
        if results[0]['metric'] != metric:
            raise ConfigError(
                f'--beside: {folder} has another metric',
                expected=metric,
                actual=results[0]['metric'],
            )
        found[folder] = results
    return found


def chain_labels(folders: Sequence[Path]) -> list[str]:
    """Return the last name of each folder; its path where two have the same."""
    names = [folder.name for folder in folders]
    return [
        folder.name if names.count(folder.name) == 1 else os.path.relpath(folder)
        for folder in folders
    ]
