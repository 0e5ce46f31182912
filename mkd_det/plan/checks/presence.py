"""Whether both models have what a term is only used with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ...config import DistillConfig, TermConfig
from ...errors import TapNotFoundError
from ...taps import Tap


def missing_modules(
    term: TermConfig, config: DistillConfig, model_of: Callable[[str], nn.Module]
) -> str:
    """Return what a term is only used with and a model does not have.

    Args:
        term: The term.
        config: The config.
        model_of: Returns the model of 'student' or of a teacher.

    Returns:
        The first such module, in words; empty if both models have all.
    """
    adapter = config.adapters.get(term.teacher.partition('.')[0])
    owner = (adapter.teacher if adapter else term.teacher).partition('.')[0]
    for name in ('student', owner):
        if name == 'student' or name in config.teachers:
            for given in term.only_with:
                if not _has_one(model_of(name), given.split('|')):
                    return f'{name} has no {given.replace("|", " or ")}'
    return ''


def _has_one(model: nn.Module, paths: Sequence[str]) -> bool:
    for path in paths:
        try:
            Tap((path,)).resolve(model)
        except TapNotFoundError:
            continue
        return True
    return False
