"""The plan in words: for people, and for comparing the plans of two runs."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from torch import nn

from .plan import AdapterNode, Plan, Term
from .refs import SIDES, Ref

COLUMNS = ('part', 'what', 'channels/stride', 'weight', 'parameters')


def describe(plan: Plan) -> dict[str, str]:
    """Return an entry in words for each part: equal for equal plans.

    Weights, schedules and speeds are left out: they may change when a run is resumed.

    Args:
        plan: The plan.
    """
    lines: dict[str, str] = {}
    for owner, taps in plan.taps.items():
        for name, tap in taps.items():
            ref = Ref(owner, name)
            lines[f'tap {ref}'] = f'{tap} [{_shape(plan, ref)}]'
    for kind, part in _parts(plan):
        yielded = _shape(plan, Ref(part.name, 'student'))  # empty for terms
        count = _parameters(part)
        words = [f'{part} [{yielded}]' if yielded else str(part)]
        words += [f'{count} parameters'] if count else []
        lines[f'{kind} {part.name}'] = ', '.join(words)
    for name, classes in plan.class_maps.items():
        if not classes.changes_nothing:
            lines[f'class map {name}'] = str(classes)
    for name, branch in plan.branches.items():
        paths = [path for paths in branch.taps().values() for path in paths]
        lines[f'branch {name}'] = f'{type(branch).__name__}: {", ".join(paths)}'
    return lines


def render(plan: Plan, width: int = 110) -> str:
    """Return the plan as a table for people.

    Args:
        plan: The plan.
        width: Width of the table, in characters.
    """
    table = Table(title='Distillation plan', title_justify='left')
    for column in COLUMNS:
        table.add_column(column, overflow='fold')
    for name, speed in plan.speeds.items():
        table.add_row(f'teacher {name}', speed, '', '', '')
    for name, classes in plan.class_maps.items():
        table.add_row(f'class map {name}', classes.summary(), '', '', '')
    for owner, taps in plan.taps.items():
        for name, tap in taps.items():
            ref = Ref(owner, name)
            grad = all(spec.grad for spec in plan.specs[owner, name])
            frozen = owner == 'student' and not tap.position and not grad
            shape = _shape(plan, ref) + (' (some frozen)' if frozen else '')
            table.add_row(f'tap {ref}', str(tap), shape, '', '')
    for kind, part in _parts(plan):
        shape = ' <- '.join(_shape(plan, part.refs[side]) for side in SIDES)
        weight = f'{part.loss.weight:g}' if isinstance(part, Term) else ''
        count = f'{_parameters(part):,}'
        table.add_row(f'{kind} {part.name}', str(part), shape, weight, count)
    for name, branch in plan.branches.items():
        keys = ', '.join(f'{name}.{key}' for key in branch.taps())
        table.add_row(f'branch {name}', f'{type(branch).__name__}: {keys}', '', '', '')
    if plan.off:
        table.add_row('off', ', '.join(plan.off), '', '', '')
    for note in plan.notes:
        table.add_row('note', note, '', '', '')
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue()


def _parts(plan: Plan) -> Iterator[tuple[str, AdapterNode | Term]]:
    for node in plan.adapters.values():
        yield 'adapter', node
    for term in plan.terms.values():
        yield 'term', term


def _parameters(part: AdapterNode | Term) -> int:
    module: nn.Module = part.loss if isinstance(part, Term) else part.adapter
    return sum(parameter.numel() for parameter in module.parameters())


def _shape(plan: Plan, ref: Ref) -> str:
    return ' '.join(map(str, plan.specs.get((ref.owner, ref.key), ())))
