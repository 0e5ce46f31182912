"""A few training steps, and how hard each term pulls on the student in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from mmengine.logging import MessageHub
from torch import Tensor

from ...distiller.model import Distiller
from ...weighting.gradient_share import (
    TASK,
    counted_module,
    gradient_norms,
    shared_parameters,
)
from ...weighting.schedules import Progress
from .examination import Examination

# The training rate in the warm-up, as a part of the config's: it has no schedule here.
SLOWER = 0.1
# Steps that are tried, so that each teacher has taken part.
TRIES = 12


@dataclass
class Steps:
    """What was measured in some training steps.

    Attributes:
        on: Module of the student whose parameters counted for `shares`.
        values: Loss of the task and of each term, by step.
        shares: Gradient of each term, in parts of the task's, by step.
        reach: Gradient of each term on all of the student, where it has none on `on`
            or the task has none.
    """

    on: str
    values: dict[str, list[float]] = field(default_factory=dict)
    shares: dict[str, list[float]] = field(default_factory=dict)
    reach: dict[str, float] = field(default_factory=dict)


def training_steps(case: Examination) -> Steps:
    """Return what some training steps have shown, which are run once.

    Args:
        case: What is examined.

    Raises:
        MkdError: A step has failed: a tap did not fire, say.
    """
    known = case.__dict__.get('_steps')
    if known is None:
        known = case.__dict__['_steps'] = _run(case)
    return known


def _run(case: Examination) -> Steps:
    model = case.model
    torch.manual_seed(0)
    supply = case.batch_copies()
    if case.settings.warmup:
        wrapper = case.optimizer(model, SLOWER)
        for i in range(case.settings.warmup):
            set_progress(case, i)
            model.train_step(next(supply), wrapper)
    found = Steps(_counting(model))
    wanted = set(model.plan.terms)
    starts = _live_iterations(case, model)
    for i in range(TRIES):
        set_progress(case, starts[i % len(starts)] + i // len(starts))
        data = model.data_preprocessor(next(supply), True)
        losses = model(**data, mode='loss').totals()
        _note(model, losses, found)
        enough = i + 1 >= max(len(starts), case.settings.batches - 1)
        if enough and wanted <= set(found.values):
            break
    return found


def _note(model: Distiller, losses: Mapping[str, Tensor], found: Steps) -> None:
    """Note the values and gradients of one step."""
    progress = Progress.now()
    for name, loss in losses.items():
        found.values.setdefault(name, []).append(float(loss.detach()))
    norms = gradient_norms(losses, shared_parameters(model.student, found.on))
    task = float(norms.pop(TASK, torch.tensor(0.0)))
    trained = [p for p in model.student.parameters() if p.requires_grad]
    for name, norm in norms.items():
        term = model.plan.terms.get(name)
        factor = term.loss.schedule.factor(progress) if term else 1.0
        if task:
            share = float(norm) / task / factor
            found.shares.setdefault(name, []).append(share)
        if not task or float(norm) == 0:
            everywhere = gradient_norms({name: losses[name]}, trained)
            reach = max(found.reach.get(name, 0.0), float(everywhere[name]))
            found.reach[name] = reach


def _counting(model: Distiller) -> str:
    """Return the module whose parameters count: as the balance has it, or backbone."""
    if model.balance is not None:
        return counted_module(model.student, str(model.balance.on))
    has_backbone = hasattr(model.student, 'backbone')
    return counted_module(model.student, 'backbone') if has_backbone else ''


def _live_iterations(case: Examination, model: Distiller) -> list[int]:
    """Return iterations at which, together, each term has a weight."""
    total = max(case.iterations, 1)
    candidates = [total // 2, total // 10, total // 4, 3 * total // 4, 0, total - 1]
    chosen: list[int] = []
    left = set(model.plan.terms)
    for start in candidates:
        progress = _progress(case, start)
        live = {
            n for n in left if model.plan.terms[n].loss.schedule.factor(progress) > 0
        }
        if live:
            chosen.append(start)
            left -= live
    return chosen or [0]


def _progress(case: Examination, iteration: int) -> Progress:
    epoch = iteration // max(len(case.train_loader), 1)
    return Progress(iteration, max(case.iterations, 1), epoch)


def set_progress(case: Examination, iteration: int) -> None:
    """Tell schedules and the sampler where in the training a step is.

    Args:
        case: What is examined.
        iteration: The iteration.
    """
    hub, progress = MessageHub.get_current_instance(), _progress(case, iteration)
    for key in ('iter', 'max_iters', 'epoch'):
        hub.update_info(key, getattr(progress, key))
