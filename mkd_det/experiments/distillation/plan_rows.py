"""Rows on heads, images, levels and terms, for the table of `mkd-det distill`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ...distiller.model import Distiller
from ...heads.base import traits_of
from ...plan.plan import Plan

_HEADS = ('bbox_head', 'rpn_head', 'roi_head.bbox_head', 'mask_head', 'head')


def plan_rows(model: Distiller) -> list[tuple[str, str]]:
    """Return rows on heads, images, levels, terms, and what is left out.

    Args:
        model: The distiller, planned.
    """
    return list(_rows(model))


def _rows(model: Distiller) -> Iterator[tuple[str, str]]:
    plan = model.plan
    teachers = {name: teacher.model for name, teacher in model.teachers.items()}
    heads = {'student': model.student, **teachers}
    yield 'heads', '; '.join(f'{who}: {_heads(one)}' for who, one in heads.items())
    for name in teachers:
        yield f'images of {name}', str(model.renormalizers[name])
    for owner, taps in plan.taps.items():
        for tap in taps:
            if tap.partition('.')[0] not in plan.branches:
                levels = ' '.join(map(str, plan.specs[owner, tap]))
                yield f'levels of {owner}', f'{tap}: {levels} (channels/stride)'
    for name, node in plan.adapters.items():
        yield f'adapter {name}', str(node)
    for name, branch in plan.branches.items():
        yield f'branch {name}', type(branch).__name__
    kinds = {'outputs': 'outputs of heads', 'features': 'features'}
    for name, term in plan.terms.items():
        yield f'term {name}', f'{term}, on {kinds.get(term.loss.reads, "")}'
    yield from _left_out(plan)


def _left_out(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.off:
        yield 'left out', f'switched off: {", ".join(plan.off)}'
    for note in plan.notes:
        yield 'left out', note


def _heads(model: nn.Module) -> str:
    """Return the types of a model's heads, and what is known of their outputs."""
    modules = dict(model.named_modules())
    found = []
    for path in _HEADS:
        if path in modules:
            traits = ', '.join(sorted(traits_of(modules[path])))
            name = type(modules[path]).__name__
            found.append(f'{name} ({traits})' if traits else name)
    return ', '.join(found) or type(model).__name__
