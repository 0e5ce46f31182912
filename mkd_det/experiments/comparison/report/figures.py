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

from ...curves import Curve, Panel, add_legend, as_label, draw_panels
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
    axes.set_yticks(range(len(rows)), [as_label(row) for row in rows])
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
    of_all = [result for summary in summaries for result in summary.results]
    metrics, losses = [], []
    for number, summary in enumerate(summaries):
        style = {'color': _colour(number)}
        incomplete = with_incomplete_log(summary.results, of_all)
        shown = [result for result in summary.results if result not in incomplete]
        curves = [result.curve for result in shown]
        metrics.append(_mean_curve(summary.name, curves, marker='o', ms=4, **style))
        curves = [result.losses for result in shown]
        losses.append(_mean_curve(summary.name, curves, **style))
    loss = "the student's own loss, in training"
    panels = [
        Panel(f'{metric} in validation', unit, metrics, whole_axis=False),
        Panel(loss, 'iteration', losses),
    ]
    draw_panels(panels, path)


def _mean_curve(
    label: str, curves: Sequence[Mapping[int, float]], **style: Any
) -> Curve:
    """Return mean and band at the steps that all curves have."""
    common = [set(curve) for curve in curves]
    steps = sorted(set.intersection(*common)) if common else []
    values = {step: [curve[step] for curve in curves] for step in steps}
    mean = {step: statistics.fmean(each) for step, each in values.items()}
    band = {step: (min(each), max(each)) for step, each in values.items()}
    return Curve(label, mean, style, band if len(curves) > 1 else {})


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
                label=as_label(summary.name),
                error_kw={'lw': 0.8},
            )
        rotation = 60 if len(names) > 12 else 0
        labels = [as_label(name) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=rotation)
        axes.set_title(f'AP by {kind}')
        axes.grid(axis='y', alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0][0].set_ylim(0, None)  # error bars may reach below 0
    add_legend(figure, panels[0][0])
    figure.savefig(path, dpi=130)


def _part_names(summaries: Sequence[RowSummary], kind: str) -> list[str]:
    names = (name for row in summaries for name in row.parts.get(kind, {}))
    return list(dict.fromkeys(names))


def _colour(number: int) -> Any:
    """Return black for the base, then ten colours, then their light shades."""
    if number == 0:
        return '#222222'
    shade, hue = divmod((number - 1) % 20, 10)
    return colormaps['tab20'](2 * hue + shade)
