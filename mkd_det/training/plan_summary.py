"""The plan of a distillation in a few lines, for the log of a training."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..distiller.model import Distiller
from ..weighting.gradient_share import counted_module


def summarize_plan(model: Distiller) -> str:
    """Return who teaches whom what, a line for each teacher and term.

    Args:
        model: The distiller, with loaded teachers.
    """
    # The distiller's state dict has the keys of the plain student, without branches.
    lines = [f'student {_title(model.student, model)}']
    for name, teacher in model.teachers.items():
        source = teacher.config.stored or teacher.config.checkpoint
        weights = f'{teacher.weights} of {source}' if source else 'random weights'
        lines.append(
            f'teacher {name} {_title(teacher.model, teacher.model)}, {weights}'
        )
    for name, classes in model.plan.class_maps.items():
        lines.append(f'class map of {name}: {classes}')
    for name, term in model.plan.terms.items():
        lines.append(f'{name} {term}, weight {term.loss.weight:g}')
    if model.balance is not None:
        lines.append(_balance_in_words(model.balance, model.student))
    if model.plan.off:
        lines.append(f'off: {", ".join(model.plan.off)}')
    return '\n  '.join(['Plan (whole: mkd-det plan CONFIG)', *lines])


def _balance_in_words(balance: Any, student: nn.Module) -> str:
    """Return what the balance does, and where it measures if that is frozen."""
    asked = balance.on
    counted = counted_module(student, asked)
    instead = f'; {asked} is frozen, so on {counted or "the whole student"}'
    return str(balance) + instead * (counted != asked)


def _title(model: nn.Module, holder: nn.Module) -> str:
    """Return the type of a model, and the number of its parameters.

    Args:
        model: The model.
        holder: The module whose state dict has its weights.
    """
    weights = holder.state_dict().items()
    count = sum(value.numel() for key, value in weights if not _is_statistic(key))
    return f'{type(model).__name__}, {count / 1e6:.2f} M parameters'


def _is_statistic(key: str) -> bool:
    return key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
