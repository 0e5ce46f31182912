"""Datasets of every layout become the same COCO annotations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import tiny
from mkd_det.data.layouts import Layout, find_layout
from mkd_det.errors import AnnotationError, DataError


@pytest.fixture(scope='module')
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_coco(tmp_path_factory.mktemp('coco'), images=10)


def boxes(layout: Layout, split: str = 'train') -> dict[str, list]:
    """Name and box of each object, by image."""
    content = getattr(layout, split).content
    names = {c['id']: c['name'] for c in content['categories']}
    files = {i['id']: i['file_name'] for i in content['images']}
    found: dict[str, list] = {name: [] for name in files.values()}
    for one in content['annotations']:
        box = [round(v) for v in one['bbox']]
        found[files[one['image_id']]].append((names[one['category_id']], box))
    return {name: sorted(many) for name, many in found.items()}


def write_voc(coco: Path, root: Path) -> Path:
    content = json.loads((coco / 'annotations.json').read_text())
    names = {c['id']: c['name'] for c in content['categories']}
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    for image in content['images']:
        stem = Path(image['file_name']).stem
        shutil.copy(coco / 'images' / image['file_name'], root / 'JPEGImages')
        objects = ''
        for one in content['annotations']:
            if one['image_id'] == image['id']:
                x, y, w, h = one['bbox']
                objects += (
                    f'<object><name>{names[one["category_id"]]}</name><bndbox>'
                    f'<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w + 1}</xmax>'
                    f'<ymax>{y + h + 1}</ymax></bndbox></object>'
                )
        xml = f'<annotation>{objects}</annotation>'
        (root / 'Annotations' / f'{stem}.xml').write_text(xml)
    stems = [Path(i['file_name']).stem for i in content['images']]
    (root / 'ImageSets/Main/train.txt').write_text('\n'.join(stems[:7]))
    (root / 'ImageSets/Main/val.txt').write_text('\n'.join(stems[7:]))
    return root


def write_yolo(coco: Path, root: Path) -> Path:
    content = json.loads((coco / 'annotations.json').read_text())
    for split in ('train', 'val'):
        for folder in ('images', 'labels'):
            (root / folder / split).mkdir(parents=True)
    for index, image in enumerate(content['images']):
        split = 'train' if index < 7 else 'val'
        shutil.copy(coco / 'images' / image['file_name'], root / 'images' / split)
        lines = []
        for one in content['annotations']:
            if one['image_id'] == image['id']:
                x, y, w, h = one['bbox']
                width, height = image['width'], image['height']
                lines.append(
                    f'{one["category_id"] - 1} {(x + w / 2) / width}'
                    f' {(y + h / 2) / height} {w / width} {h / height}'
                )
        stem = Path(image['file_name']).stem
        (root / 'labels' / split / f'{stem}.txt').write_text('\n'.join(lines))
    names = ', '.join(tiny.CLASSES)
    (root / 'data.yaml').write_text(f'train: images/train\nnames: [{names}]\n')
    return root


def test_a_single_json_is_split(coco: Path, tmp_path: Path) -> None:
    layout = find_layout(coco / 'annotations.json')
    train, val = boxes(layout), boxes(layout, 'val')
    assert len(train) == 8 and len(val) == 2 and not train.keys() & val.keys()
    assert layout.train.images == coco / 'images'
    assert layout.classes == tuple(tiny.CLASSES) and layout.notes
    files = layout.write(tmp_path / 'written')
    assert json.loads(files['val'][0].read_text()) == layout.val.content
    assert boxes(find_layout(coco / 'annotations.json'), 'val') == val


def test_numbers_that_pandas_has_written_are_integers(
    coco: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(coco, tmp_path / 'data')
    content = json.loads((data / 'annotations.json').read_text())
    for one in content['annotations']:
        one['category_id'], one['image_id'] = (
            1.0 * one['category_id'],
            1.0 * one['image_id'],
        )
    (data / 'annotations.json').write_text(json.dumps(content))
    layout = find_layout(data / 'annotations.json')
    assert boxes(layout) == boxes(find_layout(coco / 'annotations.json'))
    content['annotations'][3]['bbox'] = None
    (data / 'annotations.json').write_text(json.dumps(content))
    with pytest.raises(AnnotationError) as caught:
        find_layout(data / 'annotations.json')
    assert 'annotations[3]: bbox is None' in str(caught.value.actual)
    assert 'repair that entry' in caught.value.fix


@pytest.mark.parametrize('write', [write_voc, write_yolo])
def test_other_layouts_have_the_same_boxes(
    coco: Path, tmp_path: Path, write: object
) -> None:
    layout = find_layout(write(coco, tmp_path / 'data'))  # type: ignore[operator]
    whole = json.loads((coco / 'annotations.json').read_text())
    known = find_layout(coco / 'annotations.json')
    expected = {**boxes(known), **boxes(known, 'val')}
    found = {**boxes(layout), **boxes(layout, 'val')}
    assert found == expected and len(boxes(layout)) == 7
    assert set(layout.classes) == {c['name'] for c in whole['categories']}
    for split in (layout.train, layout.val):
        for image in split.content['images']:
            with Image.open(split.images / image['file_name']) as opened:
                assert opened.size == (image['width'], image['height'])


def test_a_folder_of_coco_has_its_splits(coco: Path, tmp_path: Path) -> None:
    (tmp_path / 'annotations').mkdir()
    for name in ('instances_train2017', 'instances_val2017', 'captions_train2017'):
        shutil.copy(coco / 'annotations.json', tmp_path / f'annotations/{name}.json')
    shutil.copytree(coco / 'images', tmp_path / 'train2017')
    shutil.copytree(coco / 'images', tmp_path / 'val2017')
    layout = find_layout(tmp_path)
    assert layout.train.images.name == 'train2017'
    assert layout.val.images.name == 'val2017'
    assert layout.test is None and not layout.notes
    assert layout.write(tmp_path / 'none')['train'][0].parent.name == 'annotations'
    assert not (tmp_path / 'none').exists()


def test_splits_of_other_classes_are_refused(coco: Path, tmp_path: Path) -> None:
    shutil.copytree(coco / 'images', tmp_path / 'images')
    content = json.loads((coco / 'annotations.json').read_text())
    (tmp_path / 'train.json').write_text(json.dumps(content))
    content['categories'].reverse()
    (tmp_path / 'val.json').write_text(json.dumps(content))
    with pytest.raises(AnnotationError) as caught:
        find_layout(tmp_path)
    assert caught.value.fix


@pytest.mark.parametrize('line', ['9 0 0 1 1', '0 0 0 1', 'cat 0 0 1 1'])
def test_lines_of_yolo_that_cannot_be_read(
    coco: Path, tmp_path: Path, line: str
) -> None:
    root = write_yolo(coco, tmp_path / 'data')
    file = sorted((root / 'labels/train').iterdir())[0]
    file.write_text(line)
    with pytest.raises(AnnotationError) as caught:
        find_layout(root)
    assert str(file) in caught.value.message


def test_nothing_known(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / 'missing', tmp_path / 'missing.json'):
        with pytest.raises(DataError) as caught:
            find_layout(path)
        assert 'YOLO' in caught.value.expected
    (tmp_path / 'wrong.json').write_text('[]')
    with pytest.raises(AnnotationError):
        find_layout(tmp_path / 'wrong.json')
    shutil.rmtree(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_data(coco: Path, tmp_path: Path) -> None:
    marked = shutil.copytree(coco, tmp_path / 'marked')
    file = marked / 'annotations.json'
    file.write_text(file.read_text(), encoding='utf-8-sig')
    layout, plain = find_layout(file), find_layout(coco / 'annotations.json')
    assert boxes(layout) == boxes(plain)
    # pycocotools cannot read the file: what is trained on is another one.
    written = layout.write(tmp_path / 'written')
    assert written['train'][0] != file and json.loads(written['train'][0].read_text())
    yolo = write_yolo(coco, tmp_path / 'yolo')
    wanted = find_layout(yolo)
    for one in [*yolo.rglob('*.txt'), *yolo.rglob('*.yaml')]:
        one.write_text(one.read_text(), encoding='utf-8-sig')
    assert find_layout(yolo).classes == wanted.classes
    assert boxes(find_layout(yolo)) == boxes(wanted)
