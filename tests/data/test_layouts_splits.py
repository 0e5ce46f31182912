"""Splits of COCO and VOC: which images train, and that no other split has them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mkd_det.data.layouts import Layout, find_layout
from mkd_det.data.layouts.coco import split_of
from mkd_det.errors import AnnotationError, DataError


def write_image(file: Path, **saved: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (64, 48)).save(file, **saved)


def write_coco(root: Path, **splits: Sequence[int]) -> Path:
    """Write a json for each split, with an image and a box for each number."""
    for name, numbers in splits.items():
        images, boxes = [], []
        for number in numbers:
            write_image(root / f'images/{number}.jpg')
            file = dict(file_name=f'{number}.jpg', width=64, height=48)
            images.append(dict(id=number, **file))
            box = dict(bbox=[1, 1, 20, 20], area=400, iscrowd=0)
            boxes.append(dict(id=number, image_id=number, category_id=1, **box))
        content = dict(images=images, annotations=boxes)
        content['categories'] = [dict(id=1, name='a')]
        (root / f'{name}.json').write_text(json.dumps(content))
    return root


def change(file: Path, key: str, **values: Any) -> None:
    """Change the first entry of a list in a json; None removes a field."""
    content = json.loads(file.read_text())
    entry = {**content[key][0], **values}
    content[key][0] = {k: v for k, v in entry.items() if v is not None}
    file.write_text(json.dumps(content))


def write_voc(root: Path, count: int = 6, suffix: str = '.jpg', **lists: str) -> Path:
    """Write images of which every second has a difficult object; and lists of them."""
    (root / 'Annotations').mkdir(parents=True)
    (root / 'ImageSets/Main').mkdir(parents=True)
    for number in range(count):
        name = f'{number}{suffix}'
        write_image(root / 'JPEGImages' / name)
        (root / 'Annotations' / f'{number}.xml').write_text(
            f'<annotation><filename>{name}</filename><object><name>cat</name>'
            f'<difficult>{number % 2}</difficult><bndbox><xmin>5</xmin><ymin>5</ymin>'
            '<xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>'
        )
    for split, numbers in lists.items():
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join(numbers))
    return root


def numbers(layout: Layout) -> dict[str, str]:
    """The numbers of the images of each split."""
    return {
        name: ''.join(sorted(Path(path).stem for path in split.paths))
        for name, split in layout.splits.items()
    }


@pytest.mark.parametrize(
    ('file', 'split'),
    [
        ('instances_train2017.json', 'train'),
        ('instancesVal.json', 'val'),
        ('instances_trainval.json', 'trainval'),
        ('train_val.json', 'trainval'),
        ('train_latest.json', 'train'),
        ('contest.json', ''),
        ('train_test.json', ''),
        ('valid/_annotations.coco.json', 'val'),
        ('train/val.json', 'val'),
    ],
)
def test_splits_are_whole_words_of_names(file: str, split: str) -> None:
    assert split_of(Path(file)) == split


def test_one_json_is_one_split(tmp_path: Path) -> None:
    given = dict(instances_trainval=range(6), instances_test=(6, 7))
    found = numbers(find_layout(write_coco(tmp_path / 'a', **given)))
    assert len(found['train']) == 5 and len(found['val']) == 1
    assert sorted(found['train'] + found['val']) == list('012345')
    assert found['test'] == '67'
    layout = find_layout(write_coco(tmp_path / 'b', train_latest=range(6)))
    assert layout.test is None


def test_trainval_trains_on_what_is_in_no_other_split(tmp_path: Path) -> None:
    root = write_coco(tmp_path, trainval=range(6), val=(4, 5), test=(0, 9))
    layout = find_layout(root)
    assert numbers(layout) == {'train': '123', 'val': '45', 'test': '09'}
    assert layout.notes == ('training images: 3 of trainval, in no other split',)
    write_coco(root, val=range(6))
    with pytest.raises(AnnotationError, match='no image is left'):
        find_layout(root)


def test_a_second_json_of_a_split_is_told(tmp_path: Path) -> None:
    layout = find_layout(write_coco(tmp_path, train=range(4), train_b=(4, 5), val=(6,)))
    assert numbers(layout)['train'] == '0123'
    assert layout.notes == ('train: train.json is used, not train_b.json',)


def test_images_in_two_splits_are_told(tmp_path: Path) -> None:
    root = write_coco(tmp_path, train=range(6), val=(5, 6), test=(7,))
    (note,) = find_layout(root).notes
    assert note.startswith('1 of the 2 val images are training images too')


@pytest.mark.parametrize(
    ('key', 'field'),
    [('categories', 'name'), ('images', 'id'), ('annotations', 'image_id')],
)
def test_a_json_without_a_field_is_refused(
    tmp_path: Path, key: str, field: str
) -> None:
    file = write_coco(tmp_path, all=range(4)) / 'all.json'
    change(file, key, **{field: None})
    with pytest.raises(AnnotationError) as caught:
        find_layout(file)
    assert field in caught.value.fix


def test_boxes_of_zero_size_are_not_measured(tmp_path: Path) -> None:
    root = write_coco(tmp_path, train=range(4), val=(4, 5))
    for name in ('train', 'val'):
        change(root / f'{name}.json', 'annotations', bbox=[1, 1, 0, 20])
    layout = find_layout(root)
    assert layout.train.file == root / 'train.json'  # mmdet drops them in training
    file, _ = layout.write(tmp_path / 'written')['val']
    assert len(json.loads(file.read_text())['annotations']) == 1
    assert layout.notes == ('val: boxes without width or height are left out: 1',)


@pytest.mark.parametrize(
    ('lists', 'expected'),
    [
        (dict(trainval='012345', val='45'), {'train': '0123', 'val': '45'}),
        (dict(trainval='0123', val='3', test='45'), {'train': '012', 'val': '3'}),
        (dict(val='45'), {'train': '0123', 'val': '45'}),
        (dict(train='01', val='2'), {'train': '01', 'val': '2'}),
    ],
)
def test_voc_trains_on_what_is_in_no_other_list(
    tmp_path: Path, lists: dict[str, str], expected: dict[str, str]
) -> None:
    found = numbers(find_layout(write_voc(tmp_path, **lists)))
    assert {name: found[name] for name in expected} == expected


def test_test_images_of_voc_are_not_trained_on(tmp_path: Path) -> None:
    found = numbers(find_layout(write_voc(tmp_path, test='45')))
    assert sorted(found['train'] + found['val']) == list('0123')
    shutil.rmtree(tmp_path)
    with pytest.raises(AnnotationError, match='no training images'):
        find_layout(write_voc(tmp_path, test='012345'))


@pytest.mark.parametrize('suffix', ['.JPEG', '.PNG', '.bmp'])
def test_images_of_voc_may_have_any_suffix(tmp_path: Path, suffix: str) -> None:
    assert len(find_layout(write_voc(tmp_path, suffix=suffix)).train.paths) == 5


def test_an_image_of_voc_is_found_by_the_name_in_its_xml(tmp_path: Path) -> None:
    root = write_voc(tmp_path, train='0123', val='45')
    (root / 'Annotations/0.xml').rename(root / 'Annotations/a.xml')
    (root / 'ImageSets/Main/train.txt').write_text('a\n1')
    assert numbers(find_layout(root))['train'] == '01'
    (root / 'JPEGImages/0.jpg').unlink()
    with pytest.raises(AnnotationError) as caught:
        find_layout(root)
    assert caught.value.expected == str(root / 'JPEGImages/0.jpg')


def test_photos_of_voc_are_as_large_as_mmdet_reads_them(tmp_path: Path) -> None:
    root = write_voc(tmp_path, train='0', val='1')
    exif = Image.Exif()
    exif[274] = 8
    write_image(root / 'JPEGImages/0.jpg', exif=exif)
    image = find_layout(root).train.content['images'][0]
    assert (image['width'], image['height']) == (48, 64)


def test_difficult_objects_of_voc_are_ignored(tmp_path: Path) -> None:
    layout = find_layout(write_voc(tmp_path, train='012', val='345'))
    crowd = [box['iscrowd'] for box in layout.train.content['annotations']]
    assert crowd == [0, 1, 0] and '3 objects marked difficult' in layout.notes[0]


def test_one_of_two_years_of_voc_must_be_named(tmp_path: Path) -> None:
    for year in ('VOC2007', 'VOC2012'):
        write_voc(tmp_path / year)
    with pytest.raises(DataError) as caught:
        find_layout(tmp_path)
    assert caught.value.fix == f'--data {tmp_path / "VOC2007"}'
    assert find_layout(tmp_path / 'VOC2007')
