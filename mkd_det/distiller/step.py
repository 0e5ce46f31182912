"""One training step: teachers, student, adapters, branches, terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..heads.ground_truth import image_sizes, read_truth
from ..plan.plan import AdapterNode, Term
from ..plan.refs import SIDES, Ref
from ..structures import GroundTruth, Knowledge, Levels, tensors_in
from ..weighting.gradient_share import TASK, shared_parameters
from ..weighting.schedules import Progress
from ..weighting.teacher_weights import as_mask
from .images import Group, Images, plan_groups, run_student
from .losses import IDLE, STATISTIC, StepLosses

if TYPE_CHECKING:
    from .model import Distiller


# Knowledge by owner ('student', a teacher, an adapter) and tap or side.
Known = dict[str, dict[str, Knowledge]]


def training_step(
    model: Distiller, inputs: Tensor, data_samples: list | None
) -> StepLosses:
    """Compute all losses of one training step.

    Args:
        model: The distiller.
        inputs: Preprocessed images (N, 3, H, W).
        data_samples: A data sample per image, with its ground truth; images whose
            sample says `unlabeled` in its metainfo need none.

    Returns:
        The student's own losses and those of the terms, each a scalar or a list of
        scalars.
    """
    model.teachers.load()
    progress, plan = Progress.now(), model.plan
    weights = _active_weights(model, progress)
    terms = {name: plan.terms[name] for name in weights}
    grad = torch.is_grad_enabled()

    images = Images.of(inputs, data_samples)
    if images.labelled and not model.config.unlabeled.weight:
        images, _ = images.split()
    groups = plan_groups(model, images, terms)

    # Teachers first, without gradient; then the student, once if its heads allow it.
    known = [_run_teachers(model, group) for group in groups]
    task, seen = run_student(model, images, groups, grad)
    own = task if images.labelled else {}
    losses = StepLosses(_weigh_task(own, model.config.task_weight))
    for teachers, student in zip(known, seen, strict=True):
        teachers['student'] = _as_knowledge(model, 'student', student)
    parts = [
        _distill(model, group, one, weights, grad)
        for group, one in zip(groups, known, strict=True)
    ]
    losses.add_means([group.weight for group in groups], parts)
    model.saw_unlabelled = model.saw_unlabelled or images.unlabelled > 0
    if model.saw_unlabelled:
        losses.update(_count_images(images))

    _balance_terms(model, losses, progress)
    _add_idle_loss(model, losses, groups, None if images.labelled else task)
    for observer in model.observers:
        observer.on_terms(losses)
    return losses


def _distill(
    model: Distiller,
    group: Group,
    known: Known,
    weights: Mapping[str, float],
    grad: bool,
) -> StepLosses:
    """Return the losses of adapters, branches and terms on a group of images."""
    plan, terms = model.plan, group.terms
    data_samples = group.images.samples
    for observer in model.observers:
        teachers = {name: taps for name, taps in known.items() if name != 'student'}
        observer.on_knowledge(known['student'], teachers)

    losses = StepLosses({})
    shares = model.weigher(known, data_samples) if group.images.labelled else {}
    # Each adapter runs once, whatever number of terms read it.
    nodes = plan.adapters_read_by(terms)
    of_images = _known_of_images(group, nodes.values())
    for name, node in nodes.items():
        read = {side: plan.levels_at(known, ref) for side, ref in node.refs.items()}
        output = node(read, **of_images)
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
    truths = _read_truths(model, group, known)
    for name, term in terms.items():
        for key, part in _term_parts(model, term, known, shares, truths).items():
            if grad and not part.requires_grad:
                raise ConfigError(
                    f'term {name!r} {key} has no gradient: it would train nothing',
                    fix='a loss that computes with what it gets of the student',
                )
            losses.add(f'{name}_{key}' if key else name, weights[name] * part, name)
    return losses


def _known_of_images(group: Group, nodes: Iterable[AdapterNode]) -> dict[str, Any]:
    """Return what probes take besides levels; the truth of images with labels alone."""
    images = group.images
    known: dict[str, Any] = {'image_sizes': image_sizes(images.inputs, images.samples)}
    if any('truth' in node.takes for node in nodes):
        labelled, _ = images.split()
        known['truth'] = read_truth('boxes', labelled.inputs, labelled.samples)
    return known


def _active_weights(model: Distiller, progress: Progress) -> dict[str, float]:
    """Return the weights of the terms that take part in this step."""
    picked = model.sampler.pick(progress.iter)
    weights = {
        name: term.loss.weight_at(progress)
        for name, term in model.plan.terms.items()
        if model.plan.teachers_of(term) <= picked
    }
    return {name: weight for name, weight in weights.items() if weight}


def _run_teachers(model: Distiller, group: Group) -> Known:
    """Run the teachers of a group, each on images normalised as it is used to."""
    needed = set().union(*map(model.plan.teachers_of, group.terms.values()))
    inputs, data_samples = group.images.inputs, group.images.samples
    if _needs_teacher_truth(model, group):
        assert model.plan.truth is not None
        needed.add(model.plan.truth.ref.owner)
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


def _needs_teacher_truth(model: Distiller, group: Group) -> bool:
    """Return whether a teacher's boxes stand for the ground truth of a group."""
    asked = any(term.loss.truth for term in group.terms.values())
    return asked and not group.images.labelled


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
    model: Distiller, group: Group, known: Known
) -> dict[str, GroundTruth]:
    """Return the ground truth that terms ask for, by its kind."""
    kinds = {term.loss.truth for term in group.terms.values()} - {''}
    images = group.images
    if _needs_teacher_truth(model, group):
        height, width = images.inputs.shape[-2:]
        score_thr = model.config.unlabeled.score_thr
        truth = model.plan.teacher_truth(
            known, (height, width), model.teachers, score_thr
        )
        return {'boxes': truth}
    return {kind: read_truth(kind, images.inputs, images.samples) for kind in kinds}


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
        # A rank without labels takes part in the mean over the ranks.
        totals.setdefault(TASK, on[0].sum() * 0.0)
        model.balance.measure(totals, on)
    factors = model.balance.factors()
    for name in list(losses):
        term = losses.origins.get(name, TASK)
        if term in factors:
            losses[name] = losses[name] * factors[term]
            losses[f'{STATISTIC}{term}_factor'] = factors[term]


def _add_idle_loss(
    model: Distiller,
    losses: StepLosses,
    groups: Sequence[Group],
    unused: Mapping[str, Any] | None,
) -> None:
    """Add a zero with a zero gradient for every module that sat out.

    An adapter of which one side is read counts as well, and the student in a step
    without labels, whose own losses are `unused`. DDP then needs no
    `find_unused_parameters`.
    """
    terms = {name: term for group in groups for name, term in group.terms.items()}
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
    values = [parameter.sum() for parameter in parameters]
    if unused is not None:
        values += [p.sum() for p in model.student.parameters() if p.requires_grad]
        values += [v.sum() for name in unused for v in tensors_in([unused[name]])]
    if values:
        losses.add('loss_idle', torch.stack(values).sum() * 0.0, IDLE)


def _count_images(images: Images) -> dict[str, Tensor]:
    counts = {'labelled': images.labelled, 'unlabelled': images.unlabelled}
    return {
        f'{STATISTIC}{name}': images.inputs.new_tensor(float(count))
        for name, count in counts.items()
    }
