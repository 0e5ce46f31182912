"""The doctor's findings as a table and for json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from .finding import OK, WARNING, WRONG, Finding

_COLOURS = {OK: 'green', WARNING: 'yellow', WRONG: 'bold red'}


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the table of findings: a row for each, with what to do.

    Args:
        findings: What `diagnose` returned.
    """
    out = Table(title='Doctor', title_justify='left')
    out.add_column('', no_wrap=True)
    for name in ('check', 'found', 'what to do'):
        out.add_column(name, overflow='fold')
    for one in findings:
        colour = _COLOURS[one.level]
        level = f'[{colour}]{one.level}[/]'
        texts = (one.check, one.message, one.fix or 'nothing')
        out.add_row(level, *map(escape, texts))
    return out


def summary(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each level, in a sentence."""
    counts = {n: sum(f.level == n for f in findings) for n in (WRONG, WARNING, OK)}
    return ', '.join(f'{count} {name}' for name, count in counts.items())


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return all findings, ready for json."""
    return dict(
        wrong=any(finding.level == WRONG for finding in findings),
        findings=[finding.to_dict() for finding in findings],
    )
