"""Images with and without labels in one step: who sees which, and what counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdet.models.detectors import BaseDetector
from mmengine.dist import get_world_size
from torch import Tensor, nn

from ..errors import ConfigError
from ..heads.labelled import counts_first, first_images
from ..heads.running import run_features
from ..plan.plan import Term
from ..plan.unlabeled import (
    is_second_stage,
    reads_second_stage,
    terms_without_labels,
)
from ..structures import Level, Levels
from ..taps import Tap, capture, norms_as_they_are

if TYPE_CHECKING:
    from .model import Distiller

# Key of a data sample's metainfo: the image has no labels.
UNLABELED = 'unlabeled'


@dataclass(frozen=True)
class Images:
    """Some images of a batch, those with labels first.

    Args:
        inputs: Preprocessed images (N, C, H, W).
        samples: A data sample for each image.
        labelled: Number of images that have labels.
    """

    inputs: Tensor
    samples: list | None
    labelled: int

    @classmethod
    def of(cls, inputs: Tensor, samples: list | None) -> Images:
        """Return the images of a batch, in another order if need be."""
        marks = [is_unlabeled(sample) for sample in _each(samples)]
        if not any(marks):
            return cls(inputs, samples, len(inputs))
        order = sorted(range(len(marks)), key=marks.__getitem__)
        if order != list(range(len(marks))):
            assert samples is not None
            inputs, samples = inputs[order], [samples[i] for i in order]
        return cls(inputs, samples, marks.count(False))

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def unlabelled(self) -> int:
        """Number of images that have no labels."""
        return len(self) - self.labelled

    def split(self) -> list[Images]:
        """Return the images with labels, and those without."""
        cut = self.labelled
        parts = [(slice(cut), cut), (slice(cut, None), 0)]
        return [
            Images(self.inputs[s], self.samples and self.samples[s], count)
            for s, count in parts
        ]


def is_unlabeled(sample: Any) -> bool:
    """Return whether a data sample says that nobody has labelled its image."""
    metainfo = getattr(sample, 'metainfo', None)
    return isinstance(metainfo, Mapping) and bool(metainfo.get(UNLABELED))


def _each(samples: Any) -> Sequence[Any]:
    """Return the data samples; none where a model has targets of another kind."""
    return samples if isinstance(samples, (list, tuple)) else ()


@dataclass(frozen=True)
class Group:
    """Images that are distilled together.

    Args:
        images: The images.
        terms: The terms that read them, by name.
        weight: Weight of the group in the means over groups; the factor on its losses
            if it is the only one.
    """

    images: Images
    terms: dict[str, Term]
    weight: float = 1.0


def plan_groups(
    model: Distiller, images: Images, terms: Mapping[str, Term]
) -> list[Group]:
    """Divide the images of a step into groups.

    One group, unless terms treat images without labels in another way, or the student
    needs a run of its own for them. A loss is then the mean over the groups that have
    it, weighted by their images.

    Args:
        model: The distiller.
        images: The images of the step.
        terms: The terms of the step, by name.

    Raises:
        ConfigError: Nothing is learned from a batch without labels.
    """
    if not images.unlabelled:
        return [Group(images, dict(terms))]
    without = terms_without_labels(model.config, model.plan, terms)
    weight = model.config.unlabeled.weight
    if not images.labelled:
        if not weight or not (without or model.plan.branches):
            raise _nothing_to_learn(terms, weight)
        return [Group(images, without, weight)]
    if counts_first(model.student) and _share_terms(model, terms, without):
        return [Group(images, dict(terms))]
    first, second = images.split()
    return [
        Group(first, dict(terms), float(len(first))),
        Group(second, without, weight * len(second)),
    ]


def run_student(
    model: Distiller, images: Images, groups: Sequence[Group], grad: bool
) -> tuple[dict[str, Any], list[dict[str, Levels]]]:
    """Run the student on all images, and its loss on those with labels.

    Once, where its heads allow it; else twice.

    Args:
        model: The distiller.
        images: The images of the step.
        groups: Their groups.
        grad: Whether the taps must yield gradients.

    Returns:
        The student's own losses, which are to be left out where no image has labels;
        and what its taps have yielded, for each group.
    """
    student, taps = model.student, model.plan.taps.get('student', {})
    once, several = counts_first(student), get_world_size() > 1
    if not images.labelled and not (once and several):
        # Heads of detectors average over ranks in their loss: all ranks must call it.
        averages = several and isinstance(student, BaseDetector)
        task = _loss_of_one(student, images) if averages else {}
        return task, [_run_unlabelled(model, images, taps, grad)]
    if images.labelled and images.unlabelled and not once:
        first, second = images.split()
        task, seen = run_student(model, first, [], grad)
        return task, [*seen, _run_unlabelled(model, second, taps, grad)]
    with ExitStack() as stack:
        captured = stack.enter_context(capture(student, taps, grad))
        if images.unlabelled:
            count = max(images.labelled, 1)
            stack.enter_context(first_images(student, count, len(images)))
        task = student(images.inputs, images.samples, mode='loss')
    if len(groups) < 2:
        return task, [dict(captured)]
    return task, [
        _rows(captured, taps, slice(images.labelled), False),
        _rows(captured, taps, slice(images.labelled, None), True),
    ]


def _loss_of_one(student: nn.Module, images: Images) -> dict[str, Any]:
    """Return the loss of one image; batch norms learn nothing of it."""
    samples = images.samples and images.samples[:1]
    with norms_as_they_are(student):
        return student(images.inputs[:1], samples, mode='loss')


def _nothing_to_learn(terms: Mapping[str, Term], weight: float) -> ConfigError:
    """Return the error of a step without labels from which nothing is learned.

    Args:
        terms: The terms of the step.
        weight: Weight of images without labels.
    """
    mixed = "sampler=dict(type='MultiSourceSampler', batch_size=8, source_ratio=[1, 1])"
    mixed += ' in train_dataloader, for some of each in every batch'
    if not weight:
        return ConfigError(
            'a batch has no image with labels, and unlabeled.weight is 0',
            expected='labelled images in every batch, or a weight above 0',
            actual='weight=0',
            fix=f'unlabeled=dict(weight=1.0); or {mixed}',
        )
    return ConfigError(
        'a batch has no image with labels, and no term of this step reads images'
        ' without',
        expected='labelled images in every batch, or a term that needs no labels and'
        ' that no schedule or sampling of teachers has switched off',
        actual=', '.join(terms) or 'no term in this step',
        fix=f'{mixed}; or a term such as SoftOutputKD; or'
        " unlabeled=dict(truth='t.head')",
    )


def _share_terms(
    model: Distiller, terms: Mapping[str, Term], without: Mapping[str, Term]
) -> bool:
    """Return whether all images can be read together.

    Terms on the second stage read the regions of labelled images in any case.
    """
    left_out = [name for name in terms if name not in without]
    return (
        model.config.unlabeled.weight == 1
        and model.plan.truth is None
        and not model.weigher.taps
        and all(reads_second_stage(model.plan, terms[name]) for name in left_out)
        and not any(terms[name].loss.truth for name in left_out)
    )


def _run_unlabelled(
    model: Distiller, images: Images, taps: Mapping[str, Tap], grad: bool
) -> dict[str, Levels]:
    """Run the student up to its heads, without its loss."""
    first = {name: tap for name, tap in taps.items() if not is_second_stage(tap)}
    with capture(model.student, first, grad) as seen:
        run_features(model.student, images.inputs, images.samples)
    return dict(seen)


def _rows(
    seen: Mapping[str, Levels], taps: Mapping[str, Tap], rows: slice, unlabelled: bool
) -> dict[str, Levels]:
    """Return what was captured of some images; the second stage has labelled ones."""
    found = {}
    for name, levels in seen.items():
        if not is_second_stage(taps[name]):
            found[name] = tuple(_rows_of(level, rows) for level in levels)
        elif not unlabelled:
            found[name] = levels
    return found


def _rows_of(level: Level, rows: slice) -> Level:
    if isinstance(level, tuple):
        return tuple(part[rows] for part in level)
    return level[rows]
