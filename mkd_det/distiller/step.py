"""One training step: teachers, student, adapters, branches, terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..heads.ground_truth import image_sizes, read_truth
from ..plan.plan import Term
from ..plan.refs import SIDES, Ref
from ..structures import GroundTruth, Knowledge, Levels
from ..taps import capture
from ..weighting.gradient_share import TASK, shared_parameters
from ..weighting.schedules import Progress
from ..weighting.teacher_weights import as_mask

if TYPE_CHECKING:
    from .model import Distiller

# Logged and not trained on: losses and statistics whose name begins with it.
STATISTIC = 'stat_'
# Origin of the zero loss that gives idle modules a gradient.
IDLE = 'idle'

# Knowledge by owner ('student', a teacher, an adapter) and tap or side.
Known = dict[str, dict[str, Knowledge]]


class StepLosses(dict[str, Any]):
    """Losses and statistics of one step, by name.

    Args:
        task: The student's own losses.

    Attributes:
        origins: The term, adapter or branch of each loss that is not the student's.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        super().__init__(task)
        self.origins: dict[str, str] = {}

    def add(self, name: str, value: Tensor, origin: str) -> None:
        """Add a loss; never in the place of another one.

        Args:
            name: Its name.
            value: A scalar.
            origin: The term, adapter or branch it comes from.

        Raises:
            ConfigError: The name is taken.
        """
        if name in self:
            raise ConfigError(
                f'two losses are called {name!r}',
                available=sorted(self),
                fix='another name for the term, adapter or branch: the student has'
                ' losses of its own, and a term has one for each of its parts',
            )
        self[name], self.origins[name] = value, origin

    def totals(self) -> dict[str, Tensor]:
        """Sum the losses by origin; the student's own as 'task'."""
        parts: dict[str, list[Tensor]] = {}
        for name, value in self.items():
            if 'loss' in name and not name.startswith(STATISTIC):
                values = value if isinstance(value, list) else [value]
                part = parts.setdefault(self.origins.get(name, TASK), [])
                part += [v.mean() for v in values]
        parts.pop(IDLE, None)
        return {name: torch.stack(values).sum() for name, values in parts.items()}


def training_step(
    model: Distiller, inputs: Tensor, data_samples: list | None
) -> StepLosses:
    """Compute all losses of one training step.

    Args:
        model: The distiller.
        inputs: Preprocessed images (N, 3, H, W).
        data_samples: A data sample per image, with its ground truth.

    Returns:
        The student's own losses and those of the terms, each a scalar or a list of
        scalars.
    """
    model.teachers.load()
    progress, plan = Progress.now(), model.plan
    weights = _active_weights(model, progress)
    terms = {name: plan.terms[name] for name in weights}
    grad = torch.is_grad_enabled()

    # Teachers first, without gradient; then the student, once.
    known = _run_teachers(model, terms, inputs, data_samples)
    with capture(model.student, plan.taps.get('student', {}), grad) as seen:
        task = model.student(inputs, data_samples, mode='loss')
    known['student'] = _as_knowledge(model, 'student', seen)
    for observer in model.observers:
        teachers = {name: taps for name, taps in known.items() if name != 'student'}
        observer.on_knowledge(known['student'], teachers)

    # Each adapter runs once, whatever number of terms read it.
    losses = StepLosses(_weigh_task(task, model.config.task_weight))
    shares = model.weigher(known, data_samples)
    sizes = image_sizes(inputs, data_samples)
    for name, node in plan.adapters_read_by(terms).items():
        read = {side: plan.levels_at(known, ref) for side, ref in node.refs.items()}
        output = node(read, sizes)
        sides = {side: getattr(output, side) for side in node.adapter.yields}
        known[name] = _as_knowledge(model, name, sides)
        for key, value in output.losses.items():
            value = _mean_over_samples(value, shares.get(plan.teacher_of(node)))
            losses.add(f'loss_{name}_{key}', value, name)
    for name, branch in model.branches.items():
        refs = {key: Ref(name, key) for key in branch.taps()}
        levels = {key: plan.levels_at(known, ref) for key, ref in refs.items()}
        for key, value in branch.losses(levels).items():
            losses.add(f'loss_{name}_{key}', value, name)
    truths = _read_truths(terms, inputs, data_samples)
    for name, term in terms.items():
        for key, part in _term_parts(model, term, known, shares, truths).items():
            if grad and not part.requires_grad:
                raise ConfigError(
                    f'term {name!r} {key} has no gradient: it would train nothing',
                    fix='a loss that computes with what it gets of the student',
                )
            losses.add(f'{name}_{key}' if key else name, weights[name] * part, name)

    _balance_terms(model, losses, progress)
    _add_idle_loss(model, losses, terms)
    for observer in model.observers:
        observer.on_terms(losses)
    return losses


def _active_weights(model: Distiller, progress: Progress) -> dict[str, float]:
    """Return the weights of the terms that take part in this step."""
    picked = model.sampler.pick(progress.iter)
    weights = {
        name: term.loss.weight_at(progress)
        for name, term in model.plan.terms.items()
        if model.plan.teachers_of(term) <= picked
    }
    return {name: weight for name, weight in weights.items() if weight}


def _run_teachers(
    model: Distiller,
    terms: Mapping[str, Term],
    inputs: Tensor,
    data_samples: list | None,
) -> Known:
    """Run the teachers of `terms`, each on images normalised as it is used to."""
    needed = set().union(*map(model.plan.teachers_of, terms.values()))
    shown: dict[tuple, Tensor] = {}
    known: Known = {}
    for name in (name for name in model.teachers if name in needed):
        renormalize = model.renormalizers[name]
        if renormalize.key not in shown:
            shown[renormalize.key] = renormalize(inputs, data_samples)
        images = shown[renormalize.key]
        levels = model.teachers.run(name, images, model.plan.reads[name], data_samples)
        known[name] = _as_knowledge(model, name, levels)
    return known


def _as_knowledge(
    model: Distiller, owner: str, levels: Mapping[str, Levels]
) -> dict[str, Knowledge]:
    """Return what an owner's taps or sides have yielded, with its strides."""
    return {
        key: Knowledge(
            owner, key, value, tuple(s.stride for s in model.plan.specs[owner, key])
        )
        for key, value in levels.items()
    }


def _weigh_task(losses: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """Return the student's own losses times `weight`; statistics stay."""
    if weight == 1:
        return dict(losses)
    weighed = dict(losses)
    for name, value in losses.items():
        if 'loss' in name and isinstance(value, Tensor):
            weighed[name] = weight * value
        elif 'loss' in name:
            weighed[name] = [weight * part for part in value]
    return weighed


def _read_truths(
    terms: Mapping[str, Term], inputs: Tensor, data_samples: list | None
) -> dict[str, GroundTruth]:
    """Return the ground truth that terms ask for, by its kind."""
    kinds = {term.loss.truth for term in terms.values()} - {''}
    return {kind: read_truth(kind, inputs, data_samples) for kind in kinds}


def _term_parts(
    model: Distiller,
    term: Term,
    known: Known,
    shares: Mapping[str, Tensor],
    truths: Mapping[str, GroundTruth],
) -> dict[str, Tensor]:
    """Return the parts of a term's loss, without its weight; '' is the only part.

    Args:
        model: The distiller.
        term: The term.
        known: Knowledge of this step.
        shares: Weight of each sample, by teacher.
        truths: Ground truth by kind.
    """
    sides = model.plan.read(term, known, model.student, model.teachers)
    kind = term.loss.truth
    more: dict[str, Any] = {'truth': truths[kind]} if kind else {}
    share = shares.get(model.plan.teacher_of(term))
    if share is not None:
        more['mask'] = [as_mask(share, level) for level in sides['student']]
    value = term(sides, **more)
    parts = value if isinstance(value, dict) else {'': value}
    if share is None:
        return parts
    # A loss divides by the sum of its mask.
    return {key: part * share.mean() for key, part in parts.items()}


def _mean_over_samples(value: Tensor, share: Tensor | None) -> Tensor:
    """Average a per-sample loss (N,), weighted by each sample's share."""
    if value.dim() == 0:
        return value
    return value.mean() if share is None else (value * share).mean()


def _balance_terms(model: Distiller, losses: StepLosses, progress: Progress) -> None:
    """Scale the terms to their share of the task's gradient, in place."""
    if model.balance is None:
        return
    totals = losses.totals()
    if torch.is_grad_enabled() and model.balance.is_due(progress.iter, totals):
        # What a schedule takes away is not to be given back.
        for name in totals.keys() & model.plan.terms.keys():
            factor = model.plan.terms[name].loss.schedule.factor(progress)
            totals[name] = totals[name] / factor
        on = shared_parameters(model.student, model.balance.on)
        model.balance.measure(totals, on)
    factors = model.balance.factors()
    for name in list(losses):
        term = losses.origins.get(name, TASK)
        if term in factors:
            losses[name] = losses[name] * factors[term]
            losses[f'{STATISTIC}{term}_factor'] = factors[term]


def _add_idle_loss(
    model: Distiller, losses: StepLosses, terms: Mapping[str, Term]
) -> None:
    """Add a zero with a zero gradient for every module that sat out.

    An adapter of which one side is read counts as well. DDP then needs no
    `find_unused_parameters`.
    """
    read = {(r.owner, r.key) for term in terms.values() for r in term.refs.values()}
    used = {n for n in model.adapters if {(n, side) for side in SIDES} <= read}
    used |= set(terms)
    parameters = [
        parameter
        for modules in (model.adapters, model.losses)
        for name, module in modules.items()
        if name not in used
        for parameter in module.parameters()
    ]
    if parameters:
        zero = torch.stack([p.sum() for p in parameters]).sum() * 0.0
        losses.add('loss_idle', zero, IDLE)
