"""What a label means is known from what the data yields, or said to be unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset

import tiny
from mkd_det.data.labels import Labels, agreed_names, compare_labels, read_labels
from mkd_det.errors import ClassOrderError

OTHER = ('blue', 'red', 'green')


def reorder(data: Path, names: tuple[str, ...], file: str) -> None:
    """Write the annotations of `tiny.write_coco` with categories in another order."""
    content = json.loads((data / 'annotations.json').read_text())
    content['categories'].sort(key=lambda category: names.index(category['name']))
    (data / file).write_text(json.dumps(content))


def coco(data: Path, file: str = 'annotations.json', **more: Any) -> dict[str, Any]:
    return dict(
        type='CocoDataset',
        metainfo=dict(classes=tiny.CLASSES),
        data_root=str(data),
        ann_file=file,
        data_prefix=dict(img='images/'),
        **more,
    )


def labels(dataset: dict[str, Any]) -> list[Labels]:
    return read_labels(dict(train_dataloader=dict(dataset=dataset)), 'train')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny.write_coco(tmp_path_factory.mktemp('labels'), images=2)
    reorder(root, OTHER, 'other.json')
    return root


@pytest.mark.parametrize(
    ('file', 'names'), [('annotations.json', tiny.CLASSES), ('other.json', OTHER)]
)
def test_labels_are_those_that_mmdet_yields(
    data: Path, file: str, names: tuple[str, ...]
) -> None:
    (found,) = labels(coco(data, file))
    assert found.names == names
    dataset = DATASETS.build(coco(data, file))
    dataset.full_init()
    categories = json.loads((data / file).read_text())['categories']
    name_of = {category['id']: category['name'] for category in categories}
    yielded = {label: name_of[id_] for id_, label in dataset.cat2label.items()}
    assert yielded == dict(enumerate(found.names))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    root = tiny.write_coco(tmp_path, images=1)
    assert agreed_names(labels(coco(root))) == tiny.CLASSES
    reorder(root, OTHER, 'annotations.json')
    assert agreed_names(labels(coco(root))) == OTHER


def test_pascal_voc_has_the_order_of_the_config(tmp_path: Path) -> None:
    meta = dict(classes=OTHER)
    (found,) = labels(dict(type='XMLDataset', ann_file='a.txt', metainfo=meta))
    assert found.names == OTHER


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ClassBalancedDataset'])
def test_parts_that_number_classes_differently_are_refused(
    data: Path, wrapper: str
) -> None:
    wrapped = dict(type=wrapper, dataset=coco(data, 'other.json'))
    parts = [coco(data), dict(type='ConcatDataset', datasets=[wrapped])]
    with pytest.raises(ClassOrderError) as info:
        compare_labels(labels(dict(type='ConcatDataset', datasets=parts)))
    assert info.value.expected == "('red', 'green', 'blue')"
    assert info.value.actual == "('blue', 'red', 'green')"
    assert "label 0 is 'red'" in info.value.message
    same = dict(type='ConcatDataset', datasets=[coco(data), coco(data)])
    assert compare_labels(labels(same)) == []


def test_what_is_not_known_is_said(data: Path) -> None:
    @DATASETS.register_module(force=True)
    class OwnFormat(BaseDataset):
        pass

    unknown = {
        'OwnFormat reads its files in its own way': dict(type='OwnFormat'),
        'its files are not on this disk': coco(data, backend_args=dict(backend='s3')),
        'MyWrapper around it may change labels': dict(
            type='MyWrapper', dataset=coco(data)
        ),
        'there is no annotation file': coco(data, 'missing.json'),
    }
    for words, dataset in unknown.items():
        found = labels(dataset)
        assert found[0].names == ()
        (line,) = compare_labels([Labels('a', tiny.CLASSES), *found])
        assert words in line


def test_a_renamed_class_is_said_and_a_swapped_one_refused() -> None:
    first = Labels('a', ('car', 'person'))
    (line,) = compare_labels([first, Labels('b', ('vehicle', 'person'))])
    assert "label 0 is 'car' in a, 'vehicle' in b" in line
    assert compare_labels([first, Labels('b', ('car',))]) == []
    with pytest.raises(ClassOrderError):
        compare_labels([first, Labels('b', ('person', 'bicycle'))])
