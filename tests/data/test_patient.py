"""Function matching: mixed images, with labels or without, each with its mark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

import tiny
from mkd_det.data import check_data
from mkd_det.data.patient import PatientDataset
from mkd_det.errors import ConfigError
from mkd_det.preflight.images.unlabeled import check_unlabeled

SIZE = (96, 64)
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=SIZE, keep_ratio=True),
    dict(type='PackDetInputs'),
]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny.write_coco(tmp_path_factory.mktemp('data'), images=4)
    other = tiny.write_coco(tmp_path_factory.mktemp('other'), images=4, seed=1)
    shutil.copytree(other / 'images', root / 'more')
    return root


def labelled(root: Path) -> dict[str, Any]:
    return dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=tiny.CLASSES),
        pipeline=PIPELINE,
    )


def unlabelled(root: Path) -> dict[str, Any]:
    return dict(type='UnlabeledImages', images=str(root / 'more'), pipeline=PIPELINE)


def patient(dataset: dict[str, Any], **settings: Any) -> Any:
    init_default_scope('mmdet')
    given = dict(type='PatientDataset', size=SIZE, dataset=dataset, **settings)
    return DATASETS.build(given)


def drawn(data: Any, count: int = 6) -> list[dict]:
    np.random.seed(0)
    return [data[index % len(data)] for index in range(count)]


def test_labelled_images_keep_boxes_inside_of_the_mixed_image(root: Path) -> None:
    samples = drawn(patient(labelled(root)))
    boxes = [s['data_samples'].gt_instances.bboxes.tensor for s in samples]
    assert {s['inputs'].shape for s in samples} == {(3, 64, 96)}
    assert sum(map(len, boxes)) > 0
    together = torch.cat(boxes)
    assert (together >= 0).all() and (together <= torch.tensor([96, 64, 96, 64])).all()
    assert not any(s['data_samples'].metainfo.get('unlabeled') for s in samples)


def test_images_without_labels_are_mixed_and_keep_their_mark(root: Path) -> None:
    data = patient(unlabelled(root))
    for sample in drawn(data):
        assert sample['data_samples'].metainfo['unlabeled'] is True
        assert len(sample['data_samples'].gt_instances) == 0
        assert sample['inputs'].shape == (3, 64, 96)
    check_unlabeled(data)


def test_another_image_shines_through_where_there_are_no_labels(root: Path) -> None:
    """mmdet's own MixUp would leave such an image as it is."""
    still = dict(mosaic=False, colour=False, flip=0.0, scale=(1.0, 1.0))
    plain = drawn(patient(unlabelled(root), mixup=False, **still))
    mixed = drawn(patient(unlabelled(root), mixup=True, **still))
    for one, other in zip(plain, mixed, strict=True):
        assert (one['inputs'] != other['inputs']).any()


def test_equal_seeds_draw_equal_images(root: Path) -> None:
    first, second = (drawn(patient(unlabelled(root))) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one['inputs'], other['inputs'])


def test_steps_can_be_left_out(root: Path) -> None:
    data = patient(labelled(root), mosaic=False, mixup=False, colour=False)
    assert data.pipeline_types == [
        'RandomAffine',
        'RandomFlip',
        'FilterAnnotations',
        'PackDetInputs',
    ]


def test_the_data_check_looks_through(root: Path) -> None:
    data = dict(type='PatientDataset', size=SIZE, dataset=labelled(root))
    (line,) = check_data(dict(train_dataloader=dict(dataset=data)), ('train',))
    assert 'CocoDataset' in line and '4 images' in line


def test_labelled_images_are_not_mixed_with_others(root: Path) -> None:
    both = dict(type='ConcatDataset', datasets=[labelled(root), unlabelled(root)])
    with pytest.raises(ConfigError) as error:
        patient(both)
    assert 'incomplete' in error.value.message and 'ConcatDataset' in error.value.fix
    fixed = dict(
        type='ConcatDataset',
        ignore_keys=['classes', 'palette'],
        datasets=[
            dict(type='PatientDataset', size=SIZE, dataset=part)
            for part in both['datasets']
        ],
    )
    marks = [
        bool(DATASETS.build(fixed)[i]['data_samples'].metainfo.get('unlabeled'))
        for i in (0, 4)
    ]
    assert marks == [False, True]


@pytest.mark.parametrize(
    ('pipeline', 'wanted'),
    [
        (PIPELINE[:1], 'LoadImageFromFile'),
        ([PIPELINE[0], PIPELINE[-1]], 'LoadImageFromFile, PackDetInputs'),
        ([], 'no pipeline'),
        (
            [PIPELINE[0], dict(type='LoadAnnotations', with_mask=True), PIPELINE[-1]],
            'with_mask=True',
        ),
    ],
)
def test_a_pipeline_that_cannot_be_mixed_is_refused(
    root: Path, pipeline: list, wanted: str
) -> None:
    with pytest.raises(ConfigError) as error:
        PatientDataset({**labelled(root), 'pipeline': pipeline}, SIZE)
    assert error.value.actual == wanted
