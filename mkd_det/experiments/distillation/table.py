"""The table of what `mkd-det distill` has chosen."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from .prepare import PreparedDistillation


def choice_table(prepared: PreparedDistillation) -> Table:
    """Return the table of what was chosen, and why.

    Args:
        prepared: What `prepare` returned.
    """
    table = Table(title='Distillation', title_justify='left')
    table.add_column('part')
    table.add_column('what', overflow='fold')
    for side, count in prepared.sizes.items():
        table.add_row(side, f'{count / 1e6:.2f} M parameters')
    for note in prepared.notes:
        table.add_row('chosen', escape(note))
    for part, what in prepared.rows:
        table.add_row(escape(part), escape(what))
    unfit: dict[str, list[str]] = {}
    for name, reason in prepared.choice.reasons.items():
        unfit.setdefault(reason, []).append(name)
    for reason, names in unfit.items():
        table.add_row('left out', escape(f'{", ".join(names)}: {reason}'))
    return table
