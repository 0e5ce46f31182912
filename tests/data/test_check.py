"""Invalid data is refused before training, with a fix."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmdet.registry import DATASETS
from PIL import Image

from mkd_det.data import check_data, checks
from mkd_det.errors import AnnotationError, ConfigError, ImageError

CLASSES = ('cup', 'plate')


def write_image(path: Path, side: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(path)


def coco(root: Path, images: int = 3) -> dict:
    """Write a tiny COCO dataset and return its content."""
    content: dict = {
        'images': [],
        'annotations': [],
        'categories': [{'id': 3, 'name': 'cup'}, {'id': 7, 'name': 'plate'}],
    }
    for i in range(images):
        name = f'{i}.jpg'
        write_image(root / 'images' / name)
        content['images'].append(dict(id=10 + i, file_name=name, width=48, height=48))
        content['annotations'].append(
            dict(
                id=i + 1,
                image_id=10 + i,
                category_id=(3, 7)[i % 2],
                bbox=[4, 5, 20, 10],
                area=200,
                iscrowd=0,
            )
        )
    (root / 'ann.json').write_text(json.dumps(content))
    return content


def edited(root: Path, change: Callable[[dict], Any], name: str = 'ann.json') -> dict:
    """Write a tiny COCO dataset with a change of its content; return the content."""
    content = coco(root)
    change(content)
    (root / name).write_text(json.dumps(content))
    return content


def voc(root: Path, boxes: dict[str, tuple], difficult: int = 0) -> None:
    """Write a tiny VOC dataset with one object per image."""
    (root / 'Annotations').mkdir(parents=True)
    for name, (label, *box) in boxes.items():
        write_image(root / 'JPEGImages' / f'{name}.jpg')
        keys = ('xmin', 'ymin', 'xmax', 'ymax')
        sides = ''.join(f'<{k}>{v}</{k}>' for k, v in zip(keys, box, strict=True))
        (root / 'Annotations' / f'{name}.xml').write_text(
            '<annotation><size><width>48</width><height>48</height></size><object>'
            f'<name>{label}</name><difficult>{difficult}</difficult>'
            f'<bndbox>{sides}</bndbox></object></annotation>'
        )
    (root / 'train.txt').write_text('\n'.join(boxes) + '\n')


def config(root: Path, kind: str = 'CocoDataset', **more) -> dict:
    files = (
        dict(ann_file='ann.json', data_prefix=dict(img='images/'))
        if kind == 'CocoDataset'
        else dict(ann_file='train.txt', data_prefix=dict(sub_data_root=''))
    )
    dataset = dict(
        type=kind,
        data_root=str(root),
        metainfo=dict(classes=CLASSES),
        pipeline=[dict(type='NoSuchTransform')],
        **files,
    )
    return dict(train_dataloader=dict(dataset={**dataset, **more}))


def test_good_data_passes_with_a_summary(tmp_path: Path) -> None:
    coco(tmp_path)
    (line,) = check_data(config(tmp_path))
    assert '3 images, 3 boxes, all images decoded' in line
    (line,) = check_data(config(tmp_path), images=2)
    assert '2 images decoded' in line


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (None, 'there is no annotation file'),
        ('', 'is empty'),
        ('{"images": [', 'no valid json'),
        ('[1, 2]', 'not in the COCO format'),
        ('{"pictures": []}', "no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', 'no images'),
    ],
)
def test_a_bad_annotation_file_is_refused(
    tmp_path: Path, content: str | None, words: str
) -> None:
    coco(tmp_path)
    (tmp_path / 'ann.json').unlink()
    if content is not None:
        (tmp_path / 'ann.json').write_text(content)
    with pytest.raises(AnnotationError, match=words):
        check_data(config(tmp_path))


def test_a_missing_file_lists_nearby_files(tmp_path: Path) -> None:
    coco(tmp_path)
    with pytest.raises(AnnotationError) as caught:
        check_data(config(tmp_path, ann_file='anno.json'))
    assert caught.value.available[0] == 'ann.json'
    with pytest.raises(AnnotationError) as caught:
        check_data(config(tmp_path / 'elsewhere'))
    assert 'ann.json' in caught.value.available


@pytest.mark.parametrize('key', ['id', 'image_id', 'category_id', 'bbox', 'area'])
def test_an_annotation_without_what_mmdet_reads_is_refused(
    tmp_path: Path, key: str
) -> None:
    content = coco(tmp_path)
    del content['annotations'][1][key]
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=rf"annotations\[1\] has no '{key}'"):
        check_data(config(tmp_path))


@pytest.mark.parametrize('side', [2, 3])
@pytest.mark.parametrize('value', [0, -3])
def test_coco_boxes_without_width_or_height_are_refused(
    tmp_path: Path, side: int, value: int
) -> None:
    content = coco(tmp_path)
    content['annotations'][1]['bbox'][side] = value
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    with pytest.raises(AnnotationError) as caught:
        check_data(config(tmp_path))
    assert "'11'" in caught.value.message
    # What the hint says to write, written:
    assert 'filter_cfg=dict(bbox_min_size=1)' in caught.value.fix
    check_data(config(tmp_path, filter_cfg=dict(bbox_min_size=1)))
    content['annotations'][1]['iscrowd'] = 1
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    check_data(config(tmp_path))


def test_bbox_min_size_of_a_coco_dataset_is_a_warning(tmp_path: Path) -> None:
    coco(tmp_path)
    (line,) = check_data(config(tmp_path, filter_cfg=dict(bbox_min_size=9)))
    assert ' 3 boxes' in line and 'ignores bbox_min_size' in line
    (line,) = check_data(config(tmp_path, filter_cfg=dict(bbox_min_size=1)))
    assert 'Warning' not in line


def test_the_fix_for_zero_size_coco_boxes_works_in_mmdet(
    tmp_path: Path,
) -> None:
    content = coco(tmp_path)
    content['annotations'][1]['bbox'][2] = 0
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    cfg = config(tmp_path, filter_cfg=dict(bbox_min_size=1), pipeline=[])
    dataset = DATASETS.build(cfg['train_dataloader']['dataset'])
    assert [len(info['instances']) for info in dataset] == [1, 0, 1]


def test_voc_boxes_without_width_pass_once_they_are_ignored(tmp_path: Path) -> None:
    voc(tmp_path, {'a': ('cup', 4, 4, 20, 20), 'b': ('plate', 9, 9, 9, 9)})
    with pytest.raises(AnnotationError, match=r'b\.xml') as caught:
        check_data(config(tmp_path, 'XMLDataset'))
    assert 'filter_cfg=dict(bbox_min_size=1)' in caught.value.fix
    ignoring = dict(filter_cfg=dict(bbox_min_size=1))
    check_data(config(tmp_path, 'XMLDataset', **ignoring))
    dataset = config(tmp_path, 'XMLDataset', pipeline=[], **ignoring)
    built = DATASETS.build(dataset['train_dataloader']['dataset'])
    assert [info['instances'][0]['ignore_flag'] for info in built] == [0, 1]


def test_voc_boxes_without_width_in_a_test_split_must_be_marked(
    tmp_path: Path,
) -> None:
    boxes = {'a': ('cup', 4, 4, 20, 20), 'b': ('plate', 9.2, 5, 9.8, 30)}
    voc(tmp_path / 'flat', boxes)
    with pytest.raises(AnnotationError) as caught:
        check_data(config(tmp_path / 'flat', 'XMLDataset', test_mode=True))
    assert '<difficult>1</difficult>' in caught.value.fix
    voc(tmp_path / 'marked', boxes, difficult=1)
    check_data(config(tmp_path / 'marked', 'XMLDataset', test_mode=True))


def test_a_misspelt_class_is_refused(tmp_path: Path) -> None:
    misspelt = dict(metainfo=dict(classes=('cup', 'Plate')))
    coco(tmp_path / 'coco')
    with pytest.raises(AnnotationError, match="'Plate'") as caught:
        check_data(config(tmp_path / 'coco', **misspelt))
    assert caught.value.available[0] == 'plate'
    boxes = {'a': ('cup', 4, 4, 20, 20), 'b': ('plate', 4, 5, 9, 30)}
    voc(tmp_path / 'voc', boxes)
    with pytest.raises(AnnotationError, match="'Plate'"):
        check_data(config(tmp_path / 'voc', 'XMLDataset', **misspelt))


def test_a_rare_class_may_be_absent_from_voc_files(tmp_path: Path) -> None:
    voc(tmp_path, {'a': ('cup', 4, 4, 20, 20)})
    check_data(config(tmp_path, 'XMLDataset'))


def test_a_subset_of_the_classes_is_valid(tmp_path: Path) -> None:
    coco(tmp_path)
    (line,) = check_data(config(tmp_path, metainfo=dict(classes=('plate',))))
    assert ' 1 boxes' in line


def test_data_without_boxes_is_refused(tmp_path: Path) -> None:
    content = coco(tmp_path)
    (tmp_path / 'ann.json').write_text(json.dumps({**content, 'annotations': []}))
    with pytest.raises(AnnotationError, match='no box to train on'):
        check_data(config(tmp_path))
    check_data(config(tmp_path, test_mode=True))


@pytest.mark.parametrize(
    ('files', 'words'),
    [
        ({'Annotations/b.xml': None}, 'there is no annotation file'),
        ({'Annotations/b.xml': '<annotation><obj'}, 'no valid Pascal VOC'),
        (
            {'Annotations/b.xml': '<a><object><name>cup</name></object></a>'},
            'no valid Pascal VOC',
        ),
        ({'train.txt': ''}, 'lists no images'),
        ({'train.txt': None}, 'there is no annotation file'),
    ],
)
def test_broken_voc_files_are_refused(
    tmp_path: Path, files: dict[str, str | None], words: str
) -> None:
    voc(tmp_path, {'a': ('cup', 4, 4, 20, 20), 'b': ('plate', 4, 4, 20, 20)})
    for name, content in files.items():
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=words):
        check_data(config(tmp_path, 'XMLDataset'))


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / 'images' / '1.jpg').unlink()
    with pytest.raises(ImageError, match='1 of 3 images are missing') as caught:
        check_data(config(tmp_path))
    assert caught.value.expected.endswith('1.jpg')


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('damage', ['empty', 'text', 'cut off'])
def test_an_unreadable_image_is_refused(
    tmp_path: Path, suffix: str, damage: str
) -> None:
    content = coco(tmp_path)
    path = tmp_path / 'images' / f'broken.{suffix}'
    write_image(path)
    whole = path.read_bytes()
    path.write_bytes(
        {'empty': b'', 'text': b'404: not found', 'cut off': whole[: len(whole) // 2]}[
            damage
        ]
    )
    content['images'][2]['file_name'] = path.name
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    with pytest.raises(ImageError, match=rf'broken\.{suffix} cannot be read'):
        check_data(config(tmp_path))


@pytest.mark.parametrize(
    'wrap',
    [
        lambda inner: dict(type='RepeatDataset', times=2, dataset=inner),
        lambda inner: dict(type='ConcatDataset', datasets=[inner, inner]),
        lambda inner: dict(
            type='ClassBalancedDataset', oversample_thr=0.1, dataset=inner
        ),
        lambda inner: dict(
            type='MultiImageMixDataset',
            pipeline=[],
            dataset=dict(type='RepeatDataset', times=2, dataset=inner),
        ),
    ],
    ids=['repeat', 'concat', 'balanced', 'mix'],
)
def test_datasets_in_wrappers_are_checked(tmp_path: Path, wrap) -> None:
    coco(tmp_path)
    cfg = config(tmp_path)
    inner = cfg['train_dataloader']['dataset']
    cfg['train_dataloader']['dataset'] = wrap(inner)
    assert all('3 images' in line for line in check_data(cfg))
    inner['ann_file'] = 'gone.json'
    with pytest.raises(AnnotationError):
        check_data(cfg)


def test_only_the_given_splits_are_checked(tmp_path: Path) -> None:
    coco(tmp_path / 'here')
    cfg = config(tmp_path / 'here')
    cfg['val_dataloader'] = config(tmp_path / 'gone')['train_dataloader']
    check_data(cfg, splits=('train',))
    with pytest.raises(AnnotationError):
        check_data(cfg)


def test_the_file_of_a_metric_must_be_there_too(tmp_path: Path) -> None:
    coco(tmp_path)
    cfg = config(tmp_path)
    cfg['val_dataloader'] = cfg['train_dataloader']
    cfg['val_evaluator'] = [dict(type='CocoMetric', ann_file='gone.json')]
    with pytest.raises(AnnotationError, match=r'gone\.json'):
        check_data(cfg)


def test_other_datasets_are_skipped_with_a_line(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg['train_dataloader']['dataset'] = dict(type='OpenImagesDataset')
    cfg['val_dataloader'] = dict(dataset=dict(type='LVISV1Dataset', ann_file='no'))
    lines = check_data(cfg)
    assert len(lines) == 2
    assert all('skipped' in line for line in lines)


def test_another_order_of_classes_is_a_warning(tmp_path: Path) -> None:
    coco(tmp_path)
    (line,) = check_data(config(tmp_path))
    assert 'Warning' not in line
    cfg = config(tmp_path, metainfo=dict(classes=CLASSES[::-1]), pipeline=[])
    (line,) = check_data(cfg)
    assert "in the order of the file, ('cup', 'plate')" in line
    # It is so: the box of a cup gets the number of the plate's name.
    built = DATASETS.build(cfg['train_dataloader']['dataset'])
    label = built[0]['instances'][0]['bbox_label']
    assert built.metainfo['classes'][label] == 'plate'


# ------------------------------------------------------------- what mmdet leaves out

LEFT_OUT: dict[str, dict[str, Any]] = {
    'outside': dict(bbox=[1000, 1000, 5, 5]),
    'outside ': dict(bbox=[-30, 5, 20, 10]),
    'of area 0': dict(area=0),
    'crowd': dict(iscrowd=1),
    'marked "ignore"': dict(ignore=1),
    'under 1 pixel': dict(bbox=[4, 5, 0.5, 10]),
    'of no image': dict(image_id=99),
    'of no category': dict(category_id=99),
}


@pytest.mark.parametrize('reason', LEFT_OUT)
def test_boxes_are_counted_as_in_mmdet(tmp_path: Path, reason: str) -> None:
    edited(tmp_path, lambda c: c['annotations'][1].update(LEFT_OUT[reason]))
    cfg = config(tmp_path, pipeline=[])
    (line,) = check_data(cfg)
    assert ' 2 boxes' in line
    assert f'Warning: 1 of 3 boxes are not used: 1 {reason.strip()}' in line
    built = DATASETS.build(cfg['train_dataloader']['dataset'])
    flags = [box['ignore_flag'] for info in built for box in info['instances']]
    assert flags.count(0) == 2


@pytest.mark.parametrize('reason', LEFT_OUT)
def test_data_without_usable_boxes_is_refused(tmp_path: Path, reason: str) -> None:
    edited(tmp_path, lambda c: [a.update(LEFT_OUT[reason]) for a in c['annotations']])
    with pytest.raises(AnnotationError, match='no box to train on') as caught:
        check_data(config(tmp_path))
    assert f'3 {reason.strip()}' in caught.value.actual
    (line,) = check_data(config(tmp_path, test_mode=True))
    assert 'no box to evaluate on' in line


NAN, INF = float('nan'), float('inf')
WRONG_KINDS = [
    *(('images', 'id', value) for value in ([1], None, NAN, True)),
    *(('images', 'file_name', value) for value in (3, None, ['a.jpg'], '')),
    *(('images', 'width', value) for value in ('48', None, 0, -48, NAN)),
    ('images', 'height', None),
    ('annotations', 'id', [1]),
    *(('annotations', 'image_id', value) for value in ([11], None, NAN)),
    *(('annotations', 'category_id', value) for value in ([3], {}, None)),
    ('annotations', 'bbox', [NAN, 5, 20, 10]),
    ('annotations', 'bbox', [4, NAN, 20, 10]),
    ('annotations', 'bbox', [4, 5, NAN, 10]),
    ('annotations', 'bbox', [4, 5, 20, NAN]),
    ('annotations', 'bbox', [INF, 5, 20, 10]),
    ('annotations', 'bbox', [4, 5, INF, 10]),
    *(('annotations', 'bbox', [value, 5, 20, 10]) for value in ('4', None, [4])),
    *(('annotations', 'bbox', value) for value in (None, [4, 5, 20], [1] * 5, {}, '4')),
    *(('annotations', 'area', value) for value in (None, '200', NAN, INF)),
    *(('annotations', 'iscrowd', value) for value in ('no', None, 2, [0])),
    ('annotations', 'ignore', 'no'),
    ('categories', 'id', [3]),
    *(('categories', 'name', value) for value in (3, ['cup'], None, '')),
]


@pytest.mark.parametrize('what, key, value', WRONG_KINDS)
def test_values_that_mmdet_cannot_use_are_refused_with_their_record(
    tmp_path: Path, what: str, key: str, value: Any
) -> None:
    edited(tmp_path, lambda c: c[what][1].update({key: value}))
    for test_mode in (False, True):
        with pytest.raises(AnnotationError) as caught:
            check_data(config(tmp_path, test_mode=test_mode))
        assert f"'{key}' of {what}[1], {{" in caught.value.message
        if key != 'id':
            number = {'images': 11, 'annotations': 2, 'categories': 7}[what]
            assert f"'id': {number}" in caught.value.message
        assert caught.value.actual == repr(value)


@pytest.mark.parametrize(
    'what, key',
    [(w, 'id') for w in ('images', 'annotations', 'categories')]
    + [('categories', 'name')],
)
def test_repeated_ids_are_refused(tmp_path: Path, what: str, key: str) -> None:
    edited(tmp_path, lambda c: c[what][1].update({key: c[what][0][key]}))
    with pytest.raises(AnnotationError, match=f'2 of its {what} have the same {key}'):
        check_data(config(tmp_path))


@pytest.mark.parametrize(
    'content, words',
    [('[' * 100000, 'no valid json'), ('\ufeff{}', 'no valid json'), ('NaN', 'format')],
)
def test_odd_json_is_refused(tmp_path: Path, content: str, words: str) -> None:
    coco(tmp_path)
    (tmp_path / 'ann.json').write_text(content, encoding='utf-8')
    with pytest.raises(AnnotationError, match=words) as caught:
        check_data(config(tmp_path))
    assert ('BOM' in caught.value.fix) == ('\ufeff' in content)


# ------------------------------------------------------------------------- images


def test_an_image_of_another_size_is_a_warning_and_most_are_an_error(
    tmp_path: Path,
) -> None:
    edited(tmp_path, lambda c: c['images'][1].update(width=47))
    (line,) = check_data(config(tmp_path))
    assert 'Warning: 1 images of another size' in line
    assert '1.jpg is 48x48, not 47x48' in line
    edited(tmp_path, lambda c: [image.update(height=96) for image in c['images']])
    with pytest.raises(AnnotationError, match='another size') as caught:
        check_data(config(tmp_path))
    assert '48x48, not 48x96' in caught.value.actual


def test_sizes_are_those_after_exif_rotation(tmp_path: Path) -> None:
    """A photograph with an EXIF rotation is rotated while it is read."""
    edited(tmp_path, lambda c: [i.update(width=32, height=64) for i in c['images']])
    exif = Image.Exif()
    exif[274] = 6
    for name in range(3):
        file = tmp_path / f'images/{name}.jpg'
        Image.new('RGB', (64, 32)).save(file, exif=exif)
    (line,) = check_data(config(tmp_path))
    assert 'Warning' not in line


def test_an_image_that_only_pil_reads_is_refused(tmp_path: Path) -> None:
    edited(tmp_path, lambda c: c['images'][1].update(file_name='cut.png'))
    path = tmp_path / 'images/cut.png'
    write_image(path)
    path.write_bytes(path.read_bytes()[:-12])  # PNG's last chunk, which PIL needs not
    Image.open(path).load()
    with pytest.raises(ImageError, match=r'cut\.png cannot be read'):
        check_data(config(tmp_path))


def test_images_without_labels_are_data_of_semi_supervised_training(
    tmp_path: Path,
) -> None:
    edited(tmp_path, lambda content: content.update(annotations=[]))
    with pytest.raises(AnnotationError, match='no box to train on'):
        check_data(config(tmp_path))
    cfg = config(tmp_path, filter_cfg=dict(filter_empty_gt=False))
    (line,) = check_data(cfg)
    assert 'Warning: no box to train on' in line


# --------------------------------------------------------------------- evaluators


def measured(root: Path, name: str = 'eval.json', **metric: Any) -> dict:
    """Return a config that validates on `ann.json` with the metric file `name`."""
    cfg = config(root, test_mode=True)
    path = str(root / name)
    metric = dict(type='CocoMetric', ann_file=path, **metric)
    return dict(val_dataloader=cfg['train_dataloader'], val_evaluator=metric)


def _other_ids(content: dict) -> None:
    for image in content['images']:
        image['id'] += 100
    for box in content['annotations']:
        box['image_id'] += 100


EVALUATORS: dict[str, tuple[Callable[[dict], Any], str]] = {
    'other ids': (_other_ids, 'other images'),
    'fewer': (lambda c: c['images'].pop(), 'other images'),
    'other names': (
        lambda c: [
            image.update(file_name=f'z{image["id"]}.png') for image in c['images']
        ],
        'other images under the ids',
    ),
    'no boxes': (lambda c: c.update(annotations=[]), 'no box to evaluate'),
    'classes': (lambda c: c['categories'][0].update(name='bowl'), 'has other classes'),
    'order': (lambda c: c['categories'].reverse(), 'another order'),
    'no iscrowd': (lambda c: c['annotations'][1].pop('iscrowd'), 'has no "iscrowd"'),
    'same id': (lambda c: c['images'][1].update(id=10), 'have the same id'),
    'NaN': (lambda c: c['annotations'][0].update(area=NAN), "'area' of annotations"),
}


@pytest.mark.parametrize('case', EVALUATORS)
def test_a_metric_must_have_the_images_of_its_dataset(
    tmp_path: Path, case: str
) -> None:
    change, words = EVALUATORS[case]
    edited(tmp_path, change, 'eval.json')
    with pytest.raises(AnnotationError, match=words):
        check_data(measured(tmp_path))
    cfg = measured(tmp_path)
    cfg['val_evaluator'] = dict(type='Evaluator', metrics=[cfg['val_evaluator']])
    with pytest.raises(AnnotationError, match=words):
        check_data(cfg)


def test_a_metric_with_the_images_of_its_dataset_passes(tmp_path: Path) -> None:
    coco(tmp_path)
    check_data(measured(tmp_path, 'ann.json'))
    edited(tmp_path, lambda c: c['images'].reverse(), 'eval.json')
    check_data(measured(tmp_path))
    edited(tmp_path, lambda c: c['categories'].reverse(), 'eval.json')
    check_data(measured(tmp_path, sort_categories=True))
    (tmp_path / 'eval.json').write_text('')
    with pytest.raises(AnnotationError, match='is empty'):
        check_data(measured(tmp_path))


def by_dataset(root: Path, *names: str) -> dict:
    """Return a config that validates on two data sets, each by a metric of its own."""
    parts = [measured(root / name, 'ann.json') for name in ('one', 'two')]
    datasets = [part['val_dataloader']['dataset'] for part in parts]
    metrics = [
        dict(type='CocoMetric', ann_file=str(root / name / 'ann.json'))
        for name in names
    ]
    return dict(
        val_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=datasets)),
        val_evaluator=dict(
            type='MultiDatasetsEvaluator',
            metrics=metrics,
            dataset_prefixes=['one', 'two'],
        ),
    )


def test_each_metric_of_several_data_sets_has_the_images_of_its_own(
    tmp_path: Path,
) -> None:
    coco(tmp_path / 'one', images=3)
    coco(tmp_path / 'two', images=2)
    assert len(check_data(by_dataset(tmp_path, 'one', 'two'), ('val',))) == 2
    with pytest.raises(AnnotationError) as caught:
        check_data(by_dataset(tmp_path, 'two', 'one'), ('val',))
    assert 'the annotations of another part' in caught.value.message
    # The same ids and the same names of images: only the figures would be wrong.
    coco(tmp_path / 'two', images=3)
    with pytest.raises(AnnotationError) as caught:
        check_data(by_dataset(tmp_path, 'two', 'one'), ('val',))
    assert caught.value.expected == str(tmp_path / 'one' / 'ann.json')
    # Without an evaluator by dataset, one file has the images of all of them.
    cfg = by_dataset(tmp_path, 'one', 'two')
    cfg['val_evaluator'] = cfg['val_evaluator']['metrics'][1]
    with pytest.raises(AnnotationError, match='share 3 image ids'):
        check_data(cfg, ('val',))


# ------------------------------------------------------------- the dataset's config


@pytest.mark.parametrize(
    'wrong',
    [
        dict(ann_file=None),
        dict(ann_file=3),
        dict(ann_file=['ann.json']),
        dict(data_root=3),
        dict(data_prefix='images/'),
        dict(data_prefix=dict(img=3)),
        dict(metainfo='cup'),
        dict(metainfo=dict(classes=3)),
        dict(metainfo=dict(classes=())),
        dict(metainfo=dict(classes='cup')),
        dict(metainfo=dict(classes=None)),
        dict(metainfo=dict(classes=('cup', 3))),
        dict(metainfo=dict(classes=('cup', 'cup'))),
        dict(anfile='ann.json'),
        dict(type='CocoDatset'),
        dict(type=None),
        dict(type=3),
    ],
    ids=str,
)
def test_a_dataset_that_cannot_be_built_is_refused(tmp_path: Path, wrong: dict) -> None:
    coco(tmp_path)
    with pytest.raises(ConfigError, match='train_dataloader'):
        check_data(config(tmp_path, **wrong))


@pytest.mark.parametrize('loader', ['x', [], dict(), dict(dataset=None)], ids=str)
def test_a_loader_without_a_dataset_is_refused(loader: Any) -> None:
    with pytest.raises(ConfigError, match='train_dataloader'):
        check_data(dict(train_dataloader=loader))


def test_a_misspelt_dataset_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_data(config(tmp_path, type='CocoDatset'))
    assert caught.value.available[0] == 'CocoDataset'


def test_unrelated_files_are_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco(tmp_path / 'data')
    (tmp_path / 'secret.txt').write_text('')
    monkeypatch.chdir(tmp_path)
    for name in ('nothing/here.json', '/no/such/folder.json', 'here.json', ''):
        with pytest.raises(AnnotationError) as caught:
            check_data(config(tmp_path, data_root='', ann_file=name))
        assert not {'secret.txt', *os.listdir('/')} & {*caught.value.available}
    with pytest.raises(AnnotationError) as caught:
        check_data(config(tmp_path, data_root='', ann_file='dat/ann.json'))
    assert caught.value.available == ('data',)


# ---------------------------------------------------------------------------- VOC

VOC = {'a': ('cup', 4, 4, 20, 20), 'b': ('plate', 4, 4, 20, 20)}
VOC_REMARKS = {
    '<name>plate</name>': ('<name>xplate</name>', "1 called 'xplate'"),
    'plate': ('', "1 called ''"),
    '<difficult>0': ('<difficult>1', '1 difficult'),
    'object': ('thing', '1 annotation files hold no object'),
    'annotation': ('html', ''),
    '<width>48': ('<width>47', '1 images of another size'),
}


@pytest.mark.parametrize('old', VOC_REMARKS)
def test_unused_objects_of_voc_files_are_a_warning(tmp_path: Path, old: str) -> None:
    voc(tmp_path, VOC)
    new, remark = VOC_REMARKS[old]
    file = tmp_path / 'Annotations/b.xml'
    file.write_text(file.read_text().replace(old, new))
    cfg = config(tmp_path, 'XMLDataset', metainfo=dict(classes=('cup', 'plate')))
    if 'plate' in old:
        cfg['train_dataloader']['dataset']['metainfo'] = dict(classes=('cup',))
    (line,) = check_data(cfg)
    assert ('Warning' in line) == bool(remark) and remark in line


def test_voc_images_that_are_listed_twice_are_a_warning(tmp_path: Path) -> None:
    voc(tmp_path, VOC)
    (tmp_path / 'train.txt').write_text('a\na\nb\n')
    (line,) = check_data(config(tmp_path, 'XMLDataset'))
    assert 'Warning: 1 images are listed twice' in line


def test_ignored_voc_boxes_are_not_counted(tmp_path: Path) -> None:
    voc(tmp_path, VOC, difficult=1)
    with pytest.raises(AnnotationError, match='no box to train on') as caught:
        check_data(config(tmp_path, 'XMLDataset'))
    assert '2 difficult' in caught.value.actual
    voc(tmp_path / 'small', {'a': VOC['a'], 'b': ('plate', 4, 4, 9, 20)})
    small = dict(filter_cfg=dict(bbox_min_size=6))
    (line,) = check_data(config(tmp_path / 'small', 'XMLDataset', **small))
    assert ' 1 boxes' in line and '1 under 6 pixels' in line


@pytest.mark.parametrize(
    'old, new',
    [
        ('<xmin>4', '<xmin>inf'),
        ('<xmin>4', '<xmin>1e400'),
        ('<xmin>4', '<xmin>nan'),
        ('<annotation>', '<?xml version="1.0" encoding="nobody"?><annotation>'),
        ('<difficult>0', '<difficult>no'),
        ('<difficult>0', '<difficult>'),
        ('<width>48', '<width>abc'),
        ('<width>48</width>', ''),
    ],
)
def test_voc_values_that_mmdet_cannot_read_are_refused(
    tmp_path: Path, old: str, new: str
) -> None:
    voc(tmp_path, VOC)
    file = tmp_path / 'Annotations/b.xml'
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(AnnotationError, match=r'b\.xml is no valid Pascal VOC'):
        check_data(config(tmp_path, 'XMLDataset'))


@pytest.mark.parametrize(
    'content, words',
    [
        (b'a\nb\n\n', 'line 3 of|line 3 is no image id'),
        (b'\xef\xbb\xbfa\nb\n', 'line 1 is no image id'),
        (b'a \nb\n', 'line 1 is no image id'),
        (b'a\nb.jpg\n', 'line 2 of'),
        (b'a\nb 1\n', 'line 2 of'),
        (b'{"images": 1}' * 99, 'line 1 is no image id'),
        (b'\xff\xfe\x00', 'no UTF-8 text'),
    ],
)
def test_a_list_of_images_is_refused_by_line(
    tmp_path: Path, content: bytes, words: str
) -> None:
    voc(tmp_path, VOC)
    (tmp_path / 'train.txt').write_bytes(content)
    with pytest.raises(AnnotationError, match=words) as caught:
        check_data(config(tmp_path, 'XMLDataset'))
    assert len(str(caught.value)) < 1000


# -------------------------------------------------------------------- checks by file


def test_a_check_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'checks'
    folder.mkdir()
    (folder / 'many_images.py').write_text(
        'def check(data):\n    return f"found {len(data.annotations.images)} images"\n'
    )
    monkeypatch.setattr(checks, '__path__', [*checks.__path__, str(folder)])
    coco(tmp_path)
    (line,) = check_data(config(tmp_path))
    assert 'Warning: found 3 images' in line
