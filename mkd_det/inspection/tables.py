"""Tables of what `survey` and `pair_modules` have found."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from .pairing import Pair
from .survey import ModuleOutput


def outputs_table(outputs: Sequence[ModuleOutput], title: str) -> Table:
    """Return the listing of one model."""
    table = Table(title=title, title_justify='left')
    for name in ('tap', 'type', 'levels (C, H, W)', 'stride', 'note'):
        table.add_column(name, overflow='fold')
    table.add_column('calls', justify='right')
    table.add_column('parameters', justify='right')
    for output in outputs:
        table.add_row(
            output.path,
            output.type,
            _shapes(output),
            ' '.join('-' if s is None else str(s) for s in output.strides),
            output.note,
            str(output.calls),
            f'{output.parameters:,}',
            style='dim' if output.note else None,
        )
    return table


def pairs_table(pairs: Sequence[Pair], title: str) -> Table:
    """Return the listing of two models side by side."""
    table = Table(title=title, title_justify='left')
    specs = 'channels/stride'
    for name in ('student', specs, 'teacher', specs, 'channels'):
        table.add_column(name, overflow='fold')
    for pair in pairs:
        student, teacher = pair.student, pair.teacher
        if teacher is None:
            table.add_row(student.path, _specs(student), '-', '', '', style='dim')
            continue
        table.add_row(
            student.path,
            _specs(student),
            '(same)' if pair.same_path else teacher.path,
            _specs(teacher),
            '[green]match[/]' if pair.same_channels else '[yellow]differ: adapter[/]',
        )
    return table


def _shapes(output: ModuleOutput) -> str:
    """Return the shapes; equal ones once, with their number."""
    counts = {shape: output.shapes.count(shape) for shape in output.shapes}
    return ' '.join(f'{n} x {s}' if n > 1 else str(s) for s, n in counts.items())


def _specs(output: ModuleOutput) -> str:
    return ' '.join(
        f'{c}/{s}' if s else str(c)
        for c, s in zip(output.channels, output.strides, strict=True)
    )
