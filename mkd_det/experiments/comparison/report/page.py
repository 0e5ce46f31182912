"""Writes the report of a comparison as html page, markdown and json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....io import markdown
from ....io.atomic import write_own
from ....io.json_files import finite, write_own_json
from ..results import Comparison
from ..summary import RowSummary
from .figures import draw_curves, draw_parts, draw_runs
from .tables import PARTS, has_parts
from .text import CURVES, JSON, RUNS, to_markdown

PAGE, MARKDOWN = 'index.html', 'report.md'


def write_report(comparison: Comparison, out: Path) -> None:
    """Write page, markdown, json and figures.

    Args:
        comparison: The results.
        out: Folder for the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, key = comparison.rows, comparison.key
    values = {row.name: [r.metrics[key] for r in row.results] for row in rows}
    references = {
        f'teacher {teacher.name}': teacher.metrics[key]
        for teacher in comparison.teachers
        if key in teacher.metrics
    }
    axis = f'{comparison.metric} ({comparison.split}), a dot for each seed'
    draw_runs(values, references, axis, out / RUNS)
    unit = comparison.unit.removesuffix('s')
    draw_curves(rows, comparison.metric, unit, out / CURVES)
    if has_parts(comparison):
        draw_parts(rows, out / PARTS)
    title = f'Compared with {comparison.base.name}: {_names(rows[1:])}'
    text = to_markdown(title, comparison)
    write_own(out / MARKDOWN, text.encode())
    markdown.write_page(out / PAGE, title, text)
    write_own_json(out / JSON, finite(comparison.entry()))


def _names(rows: Sequence[RowSummary], most: int = 4) -> str:
    """Return the names of the rows, shortened to the length of a title."""
    names = [row.name for row in rows]
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more or 'nothing yet'
