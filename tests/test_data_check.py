"""Bad data is refused before training, with what to write instead."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from PIL import Image

from mkd_det.data import check_data
from mkd_det.errors import AnnotationError, ImageError

CLASSES = ('cup', 'plate')


def write_image(path: Path, side: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(path)


def coco(root: Path, images: int = 3) -> dict:
    """Write a tiny COCO data set; returns its content."""
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


def voc(root: Path, boxes: dict[str, tuple], difficult: int = 0) -> None:
    """Write a tiny VOC data set with one object an image."""
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


def test_good_data_passes_and_says_what_was_looked_at(tmp_path: Path) -> None:
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


def test_a_missing_file_shows_what_lies_beside_it(tmp_path: Path) -> None:
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
    assert 'filter_cfg=dict(bbox_min_size=1)' in caught.value.hint
    check_data(config(tmp_path, filter_cfg=dict(bbox_min_size=1)))
    content['annotations'][1]['iscrowd'] = 1
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    check_data(config(tmp_path))


def test_mmdet_leaves_flat_coco_boxes_out_with_the_hinted_switch(
    tmp_path: Path,
) -> None:
    content = coco(tmp_path)
    content['annotations'][1]['bbox'][2] = 0
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    cfg = config(tmp_path, filter_cfg=dict(bbox_min_size=1), pipeline=[])
    register_all_modules()
    dataset = DATASETS.build(cfg['train_dataloader']['dataset'])
    assert [len(info['instances']) for info in dataset] == [1, 0, 1]


def test_voc_boxes_without_width_pass_once_they_are_ignored(tmp_path: Path) -> None:
    voc(tmp_path, {'a': ('cup', 4, 4, 20, 20), 'b': ('plate', 9, 9, 9, 9)})
    with pytest.raises(AnnotationError, match=r'b\.xml') as caught:
        check_data(config(tmp_path, 'XMLDataset'))
    assert 'filter_cfg=dict(bbox_min_size=1)' in caught.value.hint
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
    assert '<difficult>1</difficult>' in caught.value.hint
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


def test_a_subset_of_the_classes_is_no_mistake(tmp_path: Path) -> None:
    coco(tmp_path)
    (line,) = check_data(config(tmp_path, metainfo=dict(classes=('plate',))))
    assert ' 1 boxes' in line


def test_data_without_any_box_to_learn_from_is_refused(tmp_path: Path) -> None:
    content = coco(tmp_path)
    (tmp_path / 'ann.json').write_text(json.dumps({**content, 'annotations': []}))
    with pytest.raises(AnnotationError, match='no box to learn from'):
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
def test_wrappers_are_looked_into(tmp_path: Path, wrap) -> None:
    coco(tmp_path)
    cfg = config(tmp_path)
    inner = cfg['train_dataloader']['dataset']
    cfg['train_dataloader']['dataset'] = wrap(inner)
    assert all('3 images' in line for line in check_data(cfg))
    inner['ann_file'] = 'gone.json'
    with pytest.raises(AnnotationError):
        check_data(cfg)


def test_only_the_asked_splits_are_looked_at(tmp_path: Path) -> None:
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


def test_another_order_of_classes_is_told(tmp_path: Path) -> None:
    coco(tmp_path)
    (line,) = check_data(config(tmp_path))
    assert 'Beware' not in line
    cfg = config(tmp_path, metainfo=dict(classes=CLASSES[::-1]), pipeline=[])
    (line,) = check_data(cfg)
    assert "as this file does, ('cup', 'plate')" in line
    # It is so: the box of a cup gets the number of the plate's name.
    built = DATASETS.build(cfg['train_dataloader']['dataset'])
    label = built[0]['instances'][0]['bbox_label']
    assert built.metainfo['classes'][label] == 'plate'
