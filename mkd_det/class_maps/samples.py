"""Predictions of a teacher as those of a model of the shared classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from .class_map import ClassMap


def shared_metainfo(meta: Any, classes: ClassMap) -> Any:
    """Return the metainfo of a dataset with the shared classes alone.

    Args:
        meta: The metainfo, or a list of them for a dataset of several.
        classes: The class map.
    """
    if isinstance(meta, Mapping):
        names = classes.ours.names or tuple(meta.get('classes') or ())
        return {**meta, 'classes': tuple(names[index] for index in classes.shared)}
    return [shared_metainfo(part, classes) for part in meta or ()]


def shared_samples(samples: Sequence[Any], classes: ClassMap) -> list[Any]:
    """Return samples with predictions and ground truth of the shared classes alone.

    A metric that is told `shared_metainfo` then measures what the teacher knows: the
    student's classes that it lacks are not missed, and what it finds of its own other
    classes is no false alarm. Images whose only label is not shared are left out.

    Args:
        samples: Samples with predictions of the teacher, and ground truth with labels
            of the student's data.
        classes: The class map.
    """
    shared = [_shared_sample(sample, classes) for sample in samples]
    return [sample for sample in shared if sample is not None]


def _shared_sample(sample: Any, classes: ClassMap) -> Any | None:
    ours, theirs = (classes.labels_of(whose) for whose in ('student', 'teacher'))
    for labels, count in ((ours, classes.ours.count), (theirs, classes.theirs.count)):
        labels.pop(count)  # the background is no label of data
    sample = copy(sample)
    for field, labels in (
        ('pred_instances', theirs),
        ('gt_instances', ours),
        ('ignored_instances', ours),
    ):
        if field in sample and 'labels' in sample.get(field):
            setattr(sample, field, _shared_instances(sample.get(field), labels))
    if isinstance(sample.get('instances'), list):
        instances = [
            {**one, 'bbox_label': ours[one['bbox_label']]}
            for one in sample.get('instances')
            if one.get('bbox_label') in ours
        ]
        sample.set_metainfo({'instances': instances})
    if 'gt_label' in sample and 'pred_score' in sample:
        label = ours.get(int(sample.gt_label))
        if label is None:
            return None
        _share_scores(sample, label, classes)
    return sample


def _shared_instances(instances: Any, labels: Mapping[int, int]) -> Any:
    """Return the instances whose label is shared, with the label among those."""
    found = [labels.get(label, -1) for label in instances.labels.tolist()]
    new = torch.tensor(found, dtype=torch.long, device=instances.labels.device)
    kept = instances[new >= 0]
    kept.labels = new[new >= 0]
    return kept


def _share_scores(sample: Any, label: int, classes: ClassMap) -> None:
    """Give the sample of a classifier the probabilities of the shared classes."""
    given: Tensor = sample.pred_score
    groups = classes.groups('teacher', False)
    scores = torch.stack([given[list(group)].sum() for group in groups])
    sample.pred_score = scores / scores.sum().clamp_min(1e-12)
    sample.pred_label = scores.argmax().view(1)
    sample.gt_label = torch.full_like(sample.gt_label, label)
