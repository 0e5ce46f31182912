"""Names of losses: a term must not have the name of a loss of the student."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator

from torch import nn

from ..errors import ConfigError
from ..plan.plan import Plan


def check_loss_names(plan: Plan, student: nn.Module) -> None:
    """Raise where two losses of the first step would have one name.

    What the student logs is read from the source of its heads. A name that is made
    at run time is refused in the first step.

    Args:
        plan: The plan, with the parts of each term.
        student: The student.

    Raises:
        ConfigError: Two losses have one name.
    """
    owners = dict.fromkeys(_losses_of(student), 'the student')
    for name, term in plan.terms.items():
        for part in term.parts:
            full = f'{name}_{part}' if part else name
            if full in owners:
                raise ConfigError(
                    f'two losses are called {full!r}: one of term {name!r}, one of'
                    f' {owners[full]}',
                    available=sorted(owners),
                    fix=f'another name for the term: loss_kd_{name[len("loss_") :]}',
                )
            owners[full] = f'term {name!r}'


def _losses_of(student: nn.Module) -> set[str]:
    """Return the names of losses that stand in the methods of a model's modules."""
    names: set[str] = set()
    for cls in {type(module) for module in student.modules()}:
        names |= _losses_in_class(cls)  # type: ignore[arg-type]
    return names


@functools.cache
def _losses_in_class(cls: type) -> frozenset[str]:
    """Return the keys with `loss` of dicts that methods with `loss` in the name make.

    Of a method that several bases have, the one counts that is called.
    """
    if cls.__module__.startswith(('torch.', 'mmengine.', 'mmcv.')):
        return frozenset()
    found: set[str] = set()
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if 'loss' not in name:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
        except (OSError, SyntaxError, TypeError):  # no source: made at run time
            continue
        found.update(_keys(tree))
    return frozenset(key for key in found if key.startswith('loss'))


def _keys(tree: ast.AST) -> Iterator[str]:
    """Yield the constant keys of `dict(key=...)`, `{'key': ...}`, `x['key'] = ...`."""
    for node in ast.walk(tree):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == 'dict':
                yield from (k.arg for k in node.keywords if k.arg)
        elif isinstance(node, ast.Dict):
            keys = node.keys
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        for key in keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value
