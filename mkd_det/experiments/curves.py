"""Draws curves of trainings, in panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Args:
        label: Its name in the legend.
        points: Value by epoch or iteration.
        style: Arguments of matplotlib's `plot`.
        band: Lowest and highest value by epoch or iteration; empty for none.
    """

    label: str
    points: Mapping[Any, float]
    style: Mapping[str, Any] = field(default_factory=dict)
    band: Mapping[Any, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """Curves in one diagram.

    Args:
        title: Its title.
        axis: Label of the horizontal axis.
        curves: The curves.
        references: Values drawn as horizontal lines, by label.
        whole_axis: Whether the vertical axis begins at 0.
        log: Whether the vertical axis is logarithmic.
    """

    title: str
    axis: str
    curves: Sequence[Curve]
    references: Mapping[str, float] = field(default_factory=dict)
    whole_axis: bool = True
    log: bool = False


def draw_panels(panels: Sequence[Panel], path: Path, legends: bool = False) -> None:
    """Draw panels side by side.

    Args:
        panels: The panels.
        path: The PNG file.
        legends: Whether each panel has a legend of its own; else the first one's
            stands below all.
    """
    figure = Figure(figsize=(5.5 * len(panels), 4.4), layout='constrained')
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(drawn, panels, strict=True):
        for curve in panel.curves:
            _draw_curve(axes, curve)
        for label, value in panel.references.items():
            axes.axhline(value, color='0.5', ls='--', label=as_label(label))
        axes.set(title=panel.title, xlabel=panel.axis)
        if panel.log:
            axes.set_yscale('log')
        elif panel.whole_axis:
            axes.set_ylim(0, None)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if legends and (panel.curves or panel.references):
            axes.legend(frameon=False, fontsize='small')
    if not legends:
        add_legend(figure, drawn[0])
    figure.savefig(path, dpi=130)


def _draw_curve(axes: Any, curve: Curve) -> None:
    if not curve.points:
        return
    steps = sorted(curve.points)
    values = [curve.points[step] for step in steps]
    (line,) = axes.plot(steps, values, label=as_label(curve.label), **curve.style)
    if curve.band:
        low, high = zip(*(curve.band[step] for step in steps))
        colour = line.get_color()
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)


def add_legend(figure: Any, axes: Any) -> None:
    """Add a legend below the axes, where it hides nothing.

    Args:
        figure: The figure.
        axes: Whose curves it names.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    position = {'loc': 'outside lower center', 'ncols': min(len(labels), 5)}
    figure.legend(handles, labels, frameon=False, fontsize='small', **position)


def as_label(text: str) -> str:
    r"""Return a label that matplotlib shows as it is.

    A `$` would begin mathematics, and a leading `_` would hide the label.

    Args:
        text: The text.
    """
    shown = text.replace('$', r'\$')
    return f' {shown}' if shown.startswith('_') else shown
