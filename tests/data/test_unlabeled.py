"""Images without labels as data: lists of them, what is wrong with them, leaks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

import plans
import tiny
from mkd_det.data import check_data
from mkd_det.data.checks import overlap
from mkd_det.data.labels import compare_labels, read_labels
from mkd_det.errors import AnnotationError, ConfigError, DataError, ImageError
from mkd_det.preflight.images.unlabeled import check_infinite_sampler, check_unlabeled

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled data set, and other images without labels in `more`."""
    root = tiny.write_coco(tmp_path_factory.mktemp('data'), images=4)
    other = tiny.write_coco(tmp_path_factory.mktemp('other'), images=3, seed=1)
    shutil.copytree(other / 'images', root / 'more')
    return root


def dataset(**settings: Any) -> Any:
    init_default_scope('mmdet')
    return DATASETS.build({'type': 'UnlabeledImages', 'pipeline': PIPELINE, **settings})


def names(data: Any) -> list[str]:
    return [Path(path).name for path in data.paths]


def config(root: Path, tmp_path: Path, **settings: Any) -> Config:
    """A training on both, half of each in a batch."""
    cfg = tiny.runner_cfg(tiny.gfl(4, 8), root, tmp_path / 'run')
    labelled = cfg.train_dataloader.dataset.to_dict()
    cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='MultiSourceSampler', batch_size=2, source_ratio=[1, 1]),
        dataset=dict(
            type='ConcatDataset',
            ignore_keys=['classes', 'palette'],
            datasets=[
                labelled,
                {
                    'type': 'UnlabeledImages',
                    'images': str(root / 'more'),
                    'pipeline': PIPELINE,
                    **settings,
                },
            ],
        ),
    )
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
    return cfg


def test_samples_say_that_they_have_no_labels(root: Path) -> None:
    data = dataset(images=str(root / 'more'))
    sample = data[0]['data_samples']
    assert sample.metainfo['unlabeled'] is True
    assert len(sample.gt_instances) == 0 and len(data) == 3
    assert (data.get_data_info(0)['width'], data.get_data_info(0)['height']) == (96, 64)


def test_annotations_need_not_be_loaded(root: Path) -> None:
    pipeline = [one for one in PIPELINE if one['type'] != 'LoadAnnotations']
    sample = dataset(images=str(root / 'more'), pipeline=pipeline)[0]['data_samples']
    assert sample.gt_instances.bboxes.shape == (0, 4)
    assert sample.gt_instances.labels.shape == (0,)


def test_every_way_to_name_images(root: Path, tmp_path: Path) -> None:
    folder = names(dataset(images='more', data_root=str(root)))
    coco = tmp_path / 'coco.json'
    coco.write_text(json.dumps(dict(images=[dict(file_name=n) for n in folder])))
    listed = tmp_path / 'list.json'
    listed.write_text(json.dumps(folder))
    lines = tmp_path / 'list.txt'
    lines.write_text('\n'.join(folder) + '\n')
    for file in (coco, listed, lines):
        prefix = dict(data_root=str(root), data_prefix=dict(img='more'))
        assert names(dataset(images=str(file), **prefix)) == folder
    paths = [str(root / 'more' / name) for name in folder]
    assert names(dataset(images=paths)) == folder
    assert names(dataset(images=paths, exclude=paths[:2])) == folder[2:]


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    for images in (str(tmp_path / 'empty'), str(tmp_path / 'missing'), []):
        with pytest.raises(AnnotationError):
            dataset(images=images)
    (tmp_path / 'wrong.json').write_text('{"images": 3}')
    with pytest.raises(AnnotationError):
        dataset(images=str(tmp_path / 'wrong.json'))


def test_a_file_that_is_no_image(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / 'more', tmp_path / 'more')
    broken = tmp_path / 'more' / 'broken.png'
    broken.write_bytes(b'no image')
    with pytest.raises(ImageError) as caught:
        dataset(images=str(tmp_path / 'more'))
    assert str(broken) in caught.value.message
    assert len(dataset(images=str(tmp_path / 'more'), exclude=[str(broken)])) == 3
    whole = (root / 'more' / '000.png').read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError):
        dataset(images=str(tmp_path / 'more')).check(10)


def test_the_data_check_reads_them(root: Path, tmp_path: Path) -> None:
    lines = check_data(config(root, tmp_path))
    assert any('3 images without labels, all images decoded' in line for line in lines)
    assert not [line for line in lines if 'Warning' in line]


def test_images_that_are_labelled_or_measured_on_are_told(
    root: Path, tmp_path: Path
) -> None:
    """Val is the labelled data here, so a labelled image is both."""
    (tmp_path / 'copies').mkdir()
    shutil.copy(root / 'images' / '001.png', tmp_path / 'copies' / 'renamed.png')
    cfg = config(root, tmp_path, images=str(tmp_path / 'copies'))
    warnings = [line for line in check_data(cfg) if 'Warning' in line]
    assert len(warnings) == 2
    cfg = config(root, tmp_path, images=str(tmp_path / 'copies'), strict=True)
    with pytest.raises(DataError) as caught:
        check_data(cfg)
    # Its copy is left out as well, and is all there is.
    assert str(tmp_path / 'copies' / 'renamed.png') in caught.value.fix
    images = str(tmp_path / 'copies')
    with pytest.raises(AnnotationError, match='no images'):
        dataset(images=images, exclude=str(root / 'images'))


def test_test_images_are_told(root: Path, tmp_path: Path) -> None:
    """The validation data is another. Without test data there is nothing to tell."""
    test = tiny.write_coco(tmp_path / 'test', images=2, seed=7)
    cfg = config(root, tmp_path, images=str(test / 'images'), strict=True)
    assert check_data(cfg)
    cfg.test_dataloader = cfg.val_dataloader.to_dict()
    cfg.test_dataloader.dataset.data_root = str(test)
    with pytest.raises(DataError, match='2 images without labels are images that'):
        check_data(cfg)
    cfg.test_dataloader.dataset.ann_file = 'missing.json'
    assert check_data(cfg)


def test_what_is_to_be_left_out_must_exist(root: Path) -> None:
    more = str(root / 'more')
    with pytest.raises(AnnotationError, match='no image that is to be left out'):
        dataset(images=more, exclude=[str(root / 'none.png')])
    data = dataset(images=Path(more), exclude=[f'{more}/000.png'])
    assert '2 images without labels (1 excluded), all' in data.check(5)
    data = dataset(images=more, exclude=[f'{more}/000.png', f'{more}/gone.png'])
    assert '1 that are to be excluded do not exist' in data.check(5)


def test_rotated_and_hidden_files(root: Path, tmp_path: Path) -> None:
    """As mmdet loads them: EXIF rotates; macOS leaves files that are no images."""
    turned = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / 'turned.jpg', exif=exif)
    (tmp_path / '._turned.jpg').write_bytes(b'no image')
    data = dataset(images=str(tmp_path))
    [info] = [data.get_data_info(i) for i in range(len(data))]
    assert (info['width'], info['height']) == (40, 60)


def test_an_image_that_breaks_later_is_named(tmp_path: Path, root: Path) -> None:
    shutil.copytree(root / 'more', tmp_path / 'more')
    data = dataset(images=str(tmp_path / 'more'))
    (tmp_path / 'more' / '001.png').write_bytes(b'no image')
    with pytest.raises(ImageError, match='001.png') as caught:
        data[1]
    assert 'exclude=' in caught.value.fix


def test_the_order_of_classes_is_that_of_labelled_data(
    root: Path, tmp_path: Path
) -> None:
    found = read_labels(config(root, tmp_path), 'train')
    assert [labels.names for labels in found] == [tuple(tiny.CLASSES)]
    assert compare_labels(found) == []


def test_other_metainfo_is_refused(root: Path, tmp_path: Path) -> None:
    """A checkpoint would hold a list, which mmdet cannot read."""
    init_default_scope('mmdet')

    def built(settings: dict, **more: Any) -> Any:
        cfg = config(root, tmp_path, **settings)
        cfg.train_dataloader.dataset.update(**more)
        return DATASETS.build(cfg.train_dataloader.dataset)

    check_unlabeled(built({}))
    with pytest.raises(ConfigError) as caught:
        check_unlabeled(built({}, ignore_keys=[]))
    assert "ignore_keys=['classes', 'palette']" in caught.value.fix
    others = dict(metainfo=dict(classes=('a', 'b', 'c')))
    with pytest.raises(ConfigError) as caught:
        check_unlabeled(built(others, ignore_keys=['palette']))
    assert 'without metainfo' in caught.value.fix


def test_a_wrapper_that_loses_the_mark_is_refused(root: Path) -> None:
    init_default_scope('mmdet')
    inner = dict(
        type='UnlabeledImages',
        images=str(root / 'more'),
        pipeline=PIPELINE[:2],
    )
    wrapped = dict(type='MultiImageMixDataset', dataset=inner, pipeline=PIPELINE[2:])
    with pytest.raises(ConfigError) as caught:
        check_unlabeled(DATASETS.build(wrapped))
    keys = eval(caught.value.fix)['meta_keys']  # noqa: S307  what it says to write
    wrapped['pipeline'] = [PIPELINE[2], dict(type='PackDetInputs', meta_keys=keys)]
    check_unlabeled(DATASETS.build(wrapped))


def kinds(root: Path, wrap: Any) -> dict[str, Any]:
    """Labelled and other images in a `ConcatDataset`, each part wrapped."""
    labelled = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=tiny.CLASSES),
        pipeline=PIPELINE[:3],
    )
    other = dict(
        type='UnlabeledImages', images=str(root / 'more'), pipeline=PIPELINE[:3]
    )
    return dict(
        type='ConcatDataset',
        ignore_keys=['classes', 'palette'],
        datasets=[wrap(labelled), wrap(other)],
    )


def mixed(data: dict[str, Any], *steps: dict[str, Any]) -> dict[str, Any]:
    return dict(type='MultiImageMixDataset', dataset=data, pipeline=list(steps))


PACK = dict(type='PackDetInputs')
SOFT = dict(type='SoftOutputKD', student='head', teacher='t.head')
MARKING = dict(type='PackDetInputs', meta_keys=('img_id', 'unlabeled'))


def test_nested_wrappers_that_lose_the_mark_are_refused(root: Path) -> None:
    init_default_scope('mmdet')
    for pack in (PACK, MARKING):
        inside = kinds(root, lambda data: mixed(data, pack))  # noqa: B023
        for data in (
            dict(type='RepeatDataset', times=2, dataset=inside),
            mixed(kinds(root, dict), pack),
        ):
            built = DATASETS.build(data)
            if pack is MARKING:
                check_unlabeled(built)
                continue
            with pytest.raises(ConfigError) as caught:
                check_unlabeled(built)
            assert 'meta_keys' in caught.value.fix


def test_a_pipeline_that_fails_without_labels_is_named(root: Path) -> None:
    """Labelled images come first, and pass."""
    init_default_scope('mmdet')
    crop = dict(type='RandomCrop', crop_size=(32, 32))
    for step in (crop, dict(type='RandomApply', transforms=[crop])):
        data = DATASETS.build(mixed(kinds(root, dict)['datasets'][1], step, MARKING))
        with pytest.raises(ConfigError) as caught:
            check_unlabeled(data)
        assert 'allow_negative_crop=True' in caught.value.fix
        crop = dict(crop, allow_negative_crop=True)
    check_unlabeled(DATASETS.build(mixed(kinds(root, dict), crop, MARKING)))
    fails = dict(type='Resize', scale='a', keep_ratio=True)
    with pytest.raises(ConfigError, match='UnlabeledImages: the pipeline: Resize'):
        check_unlabeled(
            DATASETS.build(mixed(kinds(root, dict)['datasets'][1], fails, MARKING))
        )


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'CMYK', 'I;16'])
def test_images_of_other_modes_have_three_channels(tmp_path: Path, mode: str) -> None:
    size = (96, 64)
    suffix = 'jpg' if mode == 'CMYK' else 'png'
    Image.new(mode, size).save(tmp_path / f'one.{suffix}')
    data = dataset(images=str(tmp_path))
    assert data[0]['inputs'].shape == (3, 64, 96)
    check_unlabeled(data, plans.build(terms=dict(loss_soft=SOFT)))


def test_other_channels_than_the_model_sees_are_refused(tmp_path: Path) -> None:
    Image.new('L', (96, 64)).save(tmp_path / 'gray.png')
    load = dict(type='LoadImageFromFile', color_type='unchanged')
    data = dataset(images=str(tmp_path), pipeline=[load, PACK])
    with pytest.raises(ConfigError, match='channels') as caught:
        check_unlabeled(data, plans.build(terms=dict(loss_soft=SOFT)))
    assert caught.value.expected == '3 channels'
    assert "color_type='color'" in caught.value.fix


def test_equal_files_are_found_once_however_many_have_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncompressed pictures all have one size: each is read once."""
    first = [tmp_path / f'a{number}' for number in range(6)]
    second = [tmp_path / f'b{number}' for number in range(4)]
    for number, path in enumerate([*first, *second]):
        path.write_bytes(bytes([number % 6]) * 8)
    read: list[str] = []
    own = overlap._digest
    monkeypatch.setattr(overlap, '_digest', lambda p: read.append(p) or own(p))
    found = overlap.same_images(map(str, first), map(str, second))
    assert found == [(str(first[i]), str(second[i])) for i in range(4)]
    assert sorted(read) == sorted(map(str, [*first, *second]))


def test_images_of_other_sizes_are_learned_from(tmp_path: Path) -> None:
    for number, size in enumerate([(20, 300), (300, 20), (64, 64)]):
        Image.new('RGB', size).save(tmp_path / f'{number}.png')
    data = dataset(images=str(tmp_path))
    shapes = {tuple(data[i]['inputs'].shape) for i in range(3)}
    assert shapes == {(3, 6, 96), (3, 96, 6), (3, 64, 64)}


@pytest.mark.parametrize('step', ['Mosaic', 'CachedMosaic'])
def test_mixing_both_kinds_is_refused(root: Path, step: str) -> None:
    """An object of an unlabelled image would be background in a labelled one."""
    init_default_scope('mmdet')
    mosaic = dict(type=step, img_scale=(96, 64))
    both = mixed(kinds(root, dict), mosaic, MARKING)
    inside = dict(type='RandomApply', transforms=[mosaic])
    for data in (
        mixed(kinds(root, dict), inside, MARKING),
        both,
        dict(type='RepeatDataset', times=2, dataset=both),
    ):
        with pytest.raises(ConfigError) as caught:
            check_unlabeled(DATASETS.build(data))
        assert step in caught.value.message
        assert 'ConcatDataset' in caught.value.fix
    check_unlabeled(
        DATASETS.build(kinds(root, lambda data: mixed(data, mosaic, MARKING)))
    )


def test_images_that_no_term_reads_are_refused(root: Path, tmp_path: Path) -> None:
    data = DATASETS.build(config(root, tmp_path).train_dataloader.dataset)
    fgd = dict(type='FGD', student='fpn', teacher='t.fpn')
    soft = dict(type='SoftOutputKD', student='head', teacher='t.head')
    student = tiny.gfl(4, 16)
    alone = plans.build(student, terms=dict(loss_fgd=fgd))
    with pytest.raises(ConfigError) as caught:
        check_unlabeled(data, alone)
    assert "unlabeled=dict(truth='t.head')" in caught.value.fix
    nothing = plans.build(terms=dict(loss_soft=soft), unlabeled=dict(weight=0.0))
    check_unlabeled(data, nothing)  # they are left out of batches with labels
    with pytest.raises(ConfigError, match='weight is 0'):
        check_unlabeled(data.datasets[1], nothing)
    for given in (dict(truth='t.head'), dict(weight=0.0)):
        model = plans.build(student, terms=dict(loss_fgd=fgd), unlabeled=given)
        check_unlabeled(data, model)
    both = plans.build(student, terms=dict(loss_fgd=fgd, loss_soft=soft))
    assert not both.plan.notes
    for _ in range(2):  # it is said once
        check_unlabeled(data, both)
        assert both.plan.notes == ['images without labels are not read by loss_fgd']


def test_a_share_of_the_own_loss_needs_labels(root: Path, tmp_path: Path) -> None:
    init_default_scope('mmdet')
    soft = dict(type='SoftOutputKD', student='head', teacher='t.head', share=0.5)
    model = plans.build(terms=dict(loss_soft=soft), balance=dict(type='GradientShare'))
    data = DATASETS.build(config(root, tmp_path).train_dataloader.dataset)
    check_unlabeled(data, model)
    with pytest.raises(ConfigError) as caught:
        check_unlabeled(data.datasets[1], model)
    assert '`weight` instead of `share`' in caught.value.fix


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_crop_needs_no_box(root: Path, wrapped: bool) -> None:
    """RTMDet's crop looks for boxes: here it would look a thousand times."""
    crop = dict(type='RandomCrop', crop_size=(32, 32))
    if wrapped:
        crop = dict(type='RandomApply', transforms=crop, prob=1.0)
    steps = [*PIPELINE[:3], crop, PIPELINE[3]]
    sample = dataset(images=str(root / 'more'), pipeline=steps)[0]
    assert sample['inputs'].shape[-2:] == (32, 32)
    assert sample['data_samples'].metainfo['unlabeled'] is True


@pytest.mark.parametrize('sampler', ['MultiSourceSampler', 'InfiniteSampler'])
def test_an_epoch_without_end_is_refused(
    root: Path, tmp_path: Path, sampler: str
) -> None:
    cfg = config(root, tmp_path)
    check_infinite_sampler(cfg)
    cfg.train_dataloader.sampler['type'] = sampler
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
    with pytest.raises(ConfigError) as caught:
        check_infinite_sampler(cfg)
    assert 'IterBasedTrainLoop' in caught.value.fix


def test_a_list_may_leave_out_the_endings(root: Path) -> None:
    """As the lists of Pascal VOC do."""
    (root / 'split.txt').write_text('000\n002\n')
    given = dict(data_root=str(root), data_prefix=dict(img='more'))
    data = dataset(images='split.txt', **given)
    assert names(data) == ['000.png', '002.png']
    assert names(dataset(images='split.txt', indices=[1], **given)) == ['002.png']


def test_indices_of_labelled_data_leave_the_rest_unlabelled(
    root: Path, tmp_path: Path
) -> None:
    """A quarter of the labels; the other images are no labelled ones."""
    cfg = config(root, tmp_path, images='annotations.json', data_root=str(root))
    labelled, rest = cfg.train_dataloader.dataset.datasets
    rest.update(data_prefix=dict(img='images'), indices=[0, 1, 3])
    labelled.indices = [2]
    assert not any('labelled training' in line for line in check_data(cfg, ('train',)))
    labelled.indices = [1, 2]
    (told,) = [x for x in check_data(cfg, ('train',)) if 'labelled training' in x]
    assert '1 of 3 images' in told
    labelled.indices = [9]
    with pytest.raises(ConfigError):
        check_data(cfg, ('train',))
