"""Function matching: strong augmentation that student and teacher see alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.transforms import MixUp
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes

from ..errors import ConfigError
from .datasets import dataset_class, has_no_labels, leaf_datasets
from .unlabeled import UNLABELED

# Those of PackDetInputs, and the mark of images without labels.
META_KEYS = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'flip',
    'flip_direction',
    UNLABELED,
)
PACK = 'PackDetInputs'


@TRANSFORMS.register_module()
class MixUpUnlabeled(MixUp):
    """mmdet's `MixUp` for images without labels, which that one leaves as they are."""

    def get_indexes(self, dataset: Any) -> int:
        """Choose an image; that of mmdet looks for one that has boxes.

        Args:
            dataset: The dataset.
        """
        return int(np.random.randint(len(dataset)))

    def transform(self, results: dict) -> dict:
        """Let another image shine through.

        Args:
            results: An image, with one other in `mix_results`.
        """
        (other,) = results['mix_results']
        height, width = other['img'].shape[:2]
        # mmdet takes an image without boxes for one that is not worth mixing.
        other['gt_bboxes'] = HorizontalBoxes(np.array([[0, 0, width, height]], 'f4'))
        other['gt_bboxes_labels'] = np.zeros(1, np.int64)
        other['gt_ignore_flags'] = np.zeros(1, bool)
        results = super().transform(results)
        for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'):
            results[key] = results[key][:0]
        return results


@DATASETS.register_module()
class PatientDataset(MultiImageMixDataset):
    """A dataset whose images are mixed, scaled, cropped, flipped and recoloured.

    Teachers always see the image that the student sees, so a mixed image is only one
    more question to them. Long trainings on strongly augmented images, called function
    matching, make the most of a good teacher (Beyer et al., "Knowledge distillation: A
    good teacher is patient and consistent", CVPR 2022, arXiv 2106.05237).

    The steps are mmdet's: `Mosaic`, `RandomAffine` (scale jitter and crop), `MixUp`,
    `YOLOXHSVRandomAug`, `RandomFlip`. They follow the pipeline of `dataset`, without
    its `PackDetInputs`.

    Images with labels are mixed with such, those without with others without: wrap each
    part of a `ConcatDataset` by itself.

    Args:
        dataset: Config of a dataset.
        size: (W, H) of the images, in pixels.
        mosaic: Whether an image is a cut of four.
        mixup: Whether another image shines through.
        scale: Range of the scale jitter.
        flip: Probability of a horizontal flip; 0 where a mirrored object is another.
        colour: Whether hue, saturation and brightness vary.
        **kwargs: Other arguments of `MultiImageMixDataset`, such as `skip_type_keys`.

    Raises:
        ConfigError: Some images of `dataset` have labels and others have none; or its
            pipeline has masks, or does not end in `PackDetInputs`.
    """

    def __init__(
        self,
        dataset: Mapping[str, Any],
        size: tuple[int, int],
        mosaic: bool = True,
        mixup: bool = True,
        scale: tuple[float, float] = (0.5, 1.5),
        flip: float = 0.5,
        colour: bool = True,
        **kwargs: Any,
    ) -> None:
        unlabelled = _has_no_labels(dataset)
        size = (size[0], size[1])  # a list, where it comes from json
        steps: list[dict[str, Any]] = []
        if mosaic:
            steps.append(dict(type='Mosaic', img_scale=size))
        # Cuts the mosaic, of twice the size, down to the size.
        border = (-(size[0] // 2), -(size[1] // 2)) if mosaic else (0, 0)
        affine = dict(scaling_ratio_range=tuple(scale), border=border)
        steps.append(dict(type='RandomAffine', border_val=(114,) * 3, **affine))
        if mixup:
            kind = 'MixUpUnlabeled' if unlabelled else 'MixUp'
            steps.append(dict(type=kind, img_scale=size))
        if colour:
            steps.append(dict(type='YOLOXHSVRandomAug'))
        steps.append(dict(type='RandomFlip', prob=flip))
        # Of boxes that were cut, slivers are left; an image may be without any.
        steps.append(dict(type='FilterAnnotations', keep_empty=False))
        steps.append(dict(type=PACK, meta_keys=META_KEYS))
        super().__init__(_without_packing(dataset), steps, **kwargs)


def _has_no_labels(dataset: Mapping[str, Any]) -> bool:
    leaves = leaf_datasets(dict(train_dataloader=dict(dataset=dataset)), 'train')
    kinds = {has_no_labels(dataset_class(leaf, 'train')) for leaf in leaves}
    if len(kinds) > 1:
        raise ConfigError(
            'PatientDataset would mix images without labels into labelled ones, whose'
            ' boxes would then be incomplete',
            fix="dict(type='ConcatDataset', datasets=[dict(type='PatientDataset',"
            " dataset=...), dict(type='PatientDataset', dataset=...)])",
        )
    return kinds.pop()


def _without_packing(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a dataset whose samples are not packed yet."""
    found = {key: value for key, value in dataset.items()}
    if 'dataset' in found:
        found['dataset'] = _without_packing(found['dataset'])
    elif 'datasets' in found:
        found['datasets'] = [_without_packing(part) for part in found['datasets']]
    else:
        found['pipeline'] = _unpacked(found.get('pipeline') or ())
    return found


def _unpacked(pipeline: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    steps = list(pipeline)
    names = [_name(step.get('type')) for step in steps]
    if PACK not in names[-1:] or 'LoadAnnotations' not in names:
        raise ConfigError(
            f'PatientDataset needs a pipeline with LoadAnnotations and {PACK} at its'
            ' end, also for images without labels',
            actual=', '.join(names) or 'no pipeline',
            fix="pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations',"
            f" with_bbox=True), dict(type='{PACK}')]",
        )
    if any(step.get('with_mask') for step in steps):
        raise ConfigError(
            'PatientDataset: mmdet cannot mix images that have masks',
            actual='with_mask=True',
            fix="dict(type='LoadAnnotations', with_bbox=True) and a student without"
            ' masks',
        )
    return steps[:-1]


def _name(kind: Any) -> str:
    """Return the name of a transform that a config gives by name or by class."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]
