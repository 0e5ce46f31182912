"""Pictures of a comparison."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from .runs import Outcome, cut_off
from .statistics import Spread


def draw_runs(
    rows: Mapping[str, Sequence[float]],
    lines: Mapping[str, float],
    axis: str,
    path: Path,
) -> None:
    """Every run as a dot, every mean as a stroke.

    Args:
        rows: Values of the runs, by row.
        lines: Values to compare with, drawn across.
        axis: Label of the axis.
        path: Of the PNG.
    """
    height = 1 + 0.36 * max(len(rows), 3)
    figure = Figure(figsize=(7, height), layout='constrained')
    axes = figure.subplots()
    for place, values in enumerate(rows.values()):
        axes.plot(values, [place] * len(values), 'o', color='C0', alpha=0.6)
        axes.plot([statistics.mean(values)], [place], '|', color='C3', ms=20, mew=2.5)
    for label, value in lines.items():
        axes.axvline(value, color='0.5', ls='--', label=label)
    if lines:
        axes.legend(loc='lower right')
    axes.set_yticks(range(len(rows)), [_plain(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(axis)
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=150)


def draw_curves(
    outcomes: Sequence[Outcome], metric: str, unit: str, path: Path
) -> None:
    """What counts, and the student's own loss, while it is trained: the mean over the
    seeds, and a band from the least to the largest.

    Args:
        outcomes: The rows.
        metric: What counts.
        unit: Of the budget: 'epoch' or 'iteration'.
        path: Of the PNG.
    """
    figure = Figure(figsize=(11, 4.4), layout='constrained')
    left, right = figure.subplots(1, 2)
    every = [run for outcome in outcomes for run in outcome.runs]
    for number, outcome in enumerate(outcomes):
        style = {'color': _colour(number), 'label': _plain(outcome.name)}
        lost = cut_off(outcome.runs, every)
        whole = [run for run in outcome.runs if run not in lost]
        _band(left, [run.curve for run in whole], marker='o', ms=4, **style)
        _band(right, [run.losses for run in whole], **style)
    left.set(title=f'{metric} in validation', xlabel=unit)
    right.set(title="the student's own loss, in training", xlabel='iteration')
    right.set_ylim(0, None)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    left.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, left)
    figure.savefig(path, dpi=130)


def _band(axes: Any, curves: Sequence[Mapping[int, float]], **style: Any) -> None:
    """At the steps that all curves have."""
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


def draw_parts(outcomes: Sequence[Outcome], path: Path) -> None:
    """AP by size and by class, a bar for each row, with its standard deviation."""
    kinds = list(dict.fromkeys(kind for outcome in outcomes for kind in outcome.parts))
    counts = [_names(outcomes, kind) for kind in kinds]
    width = max(7.0, 0.16 * len(outcomes) * sum(map(len, counts)) + 3)
    figure = Figure(figsize=(min(width, 40), 4.2), layout='constrained')
    panels = figure.subplots(
        1,
        len(kinds),
        sharey=True,
        squeeze=False,
        width_ratios=[max(len(names), 2) for names in counts],
    )
    for axes, kind, names in zip(panels[0], kinds, counts):
        bar = 0.8 / len(outcomes)
        for number, outcome in enumerate(outcomes):
            found = [outcome.parts.get(kind, {}).get(name) for name in names]
            known = [one or Spread(math.nan, None, 0) for one in found]
            axes.bar(
                np.arange(len(names)) + (number - (len(outcomes) - 1) / 2) * bar,
                [one.mean for one in known],
                bar,
                yerr=[one.deviation or 0.0 for one in known],
                color=_colour(number),
                label=_plain(outcome.name),
                error_kw={'lw': 0.8},
            )
        turned = 60 if len(names) > 12 else 0
        axes.set_xticks(range(len(names)), [_plain(n) for n in names], rotation=turned)
        axes.set_title(f'AP by {kind}')
        axes.grid(axis='y', alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0][0].set_ylim(0, None)  # a deviation may reach below
    _legend(figure, panels[0][0])
    figure.savefig(path, dpi=130)


def _legend(figure: Any, axes: Any) -> None:
    """Below, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    place = {'loc': 'outside lower center', 'ncols': min(len(labels), 5)}
    figure.legend(handles, labels, frameon=False, fontsize='small', **place)


def _names(outcomes: Sequence[Outcome], kind: str) -> list[str]:
    return list(dict.fromkeys(n for o in outcomes for n in o.parts.get(kind, {})))


def _colour(number: int) -> Any:
    """Black for the base, then ten colours, then their light shades."""
    if number == 0:
        return '#222222'
    shade, hue = divmod((number - 1) % 20, 10)
    return colormaps['tab20'](2 * hue + shade)


def _plain(text: str) -> str:
    """Without what matplotlib would take for mathematics; nor does it leave out of the
    legend what begins with _."""
    shown = text.replace('$', r'\$')
    return f' {shown}' if shown.startswith('_') else shown
