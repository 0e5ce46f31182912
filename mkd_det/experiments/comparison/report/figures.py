"""Figures of a comparison."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ..judging.statistics import Spread
from ..summary import RowSummary, with_incomplete_log


def draw_runs(
    rows: Mapping[str, Sequence[float]],
    references: Mapping[str, float],
    axis: str,
    path: Path,
) -> None:
    """Draw a dot for each training, and a stroke for the mean of each row.

    Args:
        rows: Values of the trainings, by row.
        references: Values to compare with, drawn as vertical lines, by label.
        axis: Label of the axis.
        path: The PNG file.
    """
    height = 1 + 0.36 * max(len(rows), 3)
    figure = Figure(figsize=(7, height), layout='constrained')
    axes = figure.subplots()
    for index, values in enumerate(rows.values()):
        axes.plot(values, [index] * len(values), 'o', color='C0', alpha=0.6)
        axes.plot([statistics.mean(values)], [index], '|', color='C3', ms=20, mew=2.5)
    for label, value in references.items():
        axes.axvline(value, color='0.5', ls='--', label=label)
    if references:
        axes.legend(loc='lower right')
    axes.set_yticks(range(len(rows)), [_as_label(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(axis)
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=150)


def draw_curves(
    summaries: Sequence[RowSummary], metric: str, unit: str, path: Path
) -> None:
    """Draw the metric and the student's own loss over the training.

    Lines are means over the seeds; bands reach from the smallest to the largest value.

    Args:
        summaries: The rows.
        metric: Name of the metric that counts.
        unit: Unit of the budget: 'epoch' or 'iteration'.
        path: The PNG file.
    """
    figure = Figure(figsize=(11, 4.4), layout='constrained')
    left, right = figure.subplots(1, 2)
    of_all = [result for summary in summaries for result in summary.results]
    for number, summary in enumerate(summaries):
        style = {'color': _colour(number), 'label': _as_label(summary.name)}
        incomplete = with_incomplete_log(summary.results, of_all)
        shown = [result for result in summary.results if result not in incomplete]
        _draw_band(left, [result.curve for result in shown], marker='o', ms=4, **style)
        _draw_band(right, [result.losses for result in shown], **style)
    left.set(title=f'{metric} in validation', xlabel=unit)
    right.set(title="the student's own loss, in training", xlabel='iteration')
    right.set_ylim(0, None)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    left.xaxis.get_major_locator().set_params(integer=True)
    _add_legend(figure, left)
    figure.savefig(path, dpi=130)


def _draw_band(axes: Any, curves: Sequence[Mapping[int, float]], **style: Any) -> None:
    """Draw mean and band at the steps that all curves have."""
    if not curves:
        return
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not steps:
        return
    values = np.array([[curve[step] for step in steps] for curve in curves])
    axes.plot(steps, values.mean(0), **style)
    if len(curves) > 1:
        low, high = values.min(0), values.max(0)
        axes.fill_between(steps, low, high, color=style['color'], alpha=0.15, lw=0)


def draw_parts(summaries: Sequence[RowSummary], path: Path) -> None:
    """Draw AP by size and by class: a bar for each row, with its deviation.

    Args:
        summaries: The rows.
        path: The PNG file.
    """
    kinds = list(dict.fromkeys(kind for row in summaries for kind in row.parts))
    names_by_kind = [_part_names(summaries, kind) for kind in kinds]
    width = max(7.0, 0.16 * len(summaries) * sum(map(len, names_by_kind)) + 3)
    figure = Figure(figsize=(min(width, 40), 4.2), layout='constrained')
    panels = figure.subplots(
        1,
        len(kinds),
        sharey=True,
        squeeze=False,
        width_ratios=[max(len(names), 2) for names in names_by_kind],
    )
    for axes, kind, names in zip(panels[0], kinds, names_by_kind):
        bar = 0.8 / len(summaries)
        for number, summary in enumerate(summaries):
            found = [summary.parts.get(kind, {}).get(name) for name in names]
            values = [one or Spread(math.nan, None, 0) for one in found]
            axes.bar(
                np.arange(len(names)) + (number - (len(summaries) - 1) / 2) * bar,
                [value.mean for value in values],
                bar,
                yerr=[value.deviation or 0.0 for value in values],
                color=_colour(number),
                label=_as_label(summary.name),
                error_kw={'lw': 0.8},
            )
        rotation = 60 if len(names) > 12 else 0
        labels = [_as_label(name) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=rotation)
        axes.set_title(f'AP by {kind}')
        axes.grid(axis='y', alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0][0].set_ylim(0, None)  # error bars may reach below 0
    _add_legend(figure, panels[0][0])
    figure.savefig(path, dpi=130)


def _add_legend(figure: Any, axes: Any) -> None:
    """Add a legend below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    position = {'loc': 'outside lower center', 'ncols': min(len(labels), 5)}
    figure.legend(handles, labels, frameon=False, fontsize='small', **position)


def _part_names(summaries: Sequence[RowSummary], kind: str) -> list[str]:
    names = (name for row in summaries for name in row.parts.get(kind, {}))
    return list(dict.fromkeys(names))


def _colour(number: int) -> Any:
    """Return black for the base, then ten colours, then their light shades."""
    if number == 0:
        return '#222222'
    shade, hue = divmod((number - 1) % 20, 10)
    return colormaps['tab20'](2 * hue + shade)


def _as_label(text: str) -> str:
    r"""Return a label that matplotlib shows as it is.

    A `$` would begin mathematics, and a leading `_` would hide the label.
    """
    shown = text.replace('$', r'\$')
    return f' {shown}' if shown.startswith('_') else shown
