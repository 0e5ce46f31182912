"""What a data.yaml of YOLO says is followed, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv import imread
from PIL import Image

from mkd_det.data.layouts import find_layout
from mkd_det.errors import AnnotationError, DataError, ImageError

LINE = '0 0.25 0.25 0.5 0.5'


def write(folder: Path, count: int = 4, line: str = LINE, **saved: object) -> None:
    """Write images of 64 x 48 into a folder, and their label files."""
    labels = Path(str(folder).replace('/images', '/labels'))
    for place in (folder, labels):
        place.mkdir(parents=True)
    for index in range(count):
        Image.new('RGB', (64, 48)).save(folder / f'{index}.jpg', **saved)
        (labels / f'{index}.txt').write_text(line)


def dataset(root: Path, text: str, sub: str = '', **given: object) -> Path:
    for split in ('train', 'val'):
        write(root / 'images' / split / sub, **given)  # type: ignore[arg-type]
    (root / 'data.yaml').write_text(text)
    return root


@pytest.mark.parametrize(
    ('names', 'classes'),
    [
        ('{1: dog, 0: cat}', ('cat', 'dog')),
        ("{'1': dog, '0': cat}", ('cat', 'dog')),
        ('[7, 1]', ('7', '1')),
    ],
)
def test_classes_are_numbered_by_their_keys(
    tmp_path: Path, names: str, classes: tuple
) -> None:
    assert find_layout(dataset(tmp_path, f'names: {names}')).classes == classes


@pytest.mark.parametrize(
    ('names', 'fix'),
    [
        ('{0: a, 3: b}', '1: unused_1, 2: unused_2'),
        ('[yes, no]', 'in quotes'),
        ('{a: 0}', ''),
        ('{}', ''),
        ('coco.names', 'names: ["first", "second"]'),
    ],
)
def test_names_that_are_not_clear_are_refused(
    tmp_path: Path, names: str, fix: str
) -> None:
    with pytest.raises(AnnotationError) as caught:
        find_layout(dataset(tmp_path, f'names: {names}'))
    assert fix in caught.value.fix


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match='same name'):
        find_layout(dataset(tmp_path, 'names: [a, a]'))


def test_images_in_folders_inside_the_folder_of_a_split(tmp_path: Path) -> None:
    root = dataset(tmp_path, 'names: [a]', sub='cam1')
    write(root / 'images/train/cam2', 2)
    layout = find_layout(root)
    names = [image['file_name'] for image in layout.train.content['images']]
    assert len(names) == 6 and 'cam2/0.jpg' in names
    assert len(layout.train.content['annotations']) == 6
    assert all((layout.train.images / name).is_file() for name in names)


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    (tmp_path / 'images/test').mkdir(parents=True)
    with pytest.raises(AnnotationError) as caught:
        find_layout(dataset(tmp_path, 'names: [a]'))
    assert str(tmp_path / 'images/test') in caught.value.message


def test_lists_of_folders_and_files_are_followed(tmp_path: Path) -> None:
    text = 'path: .\ntrain: [images/train, images/more]\nval: val.txt\nnames: [a]'
    root = dataset(tmp_path, text)
    write(root / 'images/more', 2)
    (root / 'val.txt').write_text('./images/val/1.jpg\nimages/val/3.jpg\n\n')
    layout = find_layout(root)
    assert len(layout.train.content['images']) == 6 and not layout.notes
    assert {Path(path).name for path in layout.val.paths} == {'1.jpg', '3.jpg'}
    assert len(layout.val.content['annotations']) == 2


@pytest.mark.parametrize('setting', ['train: gone', 'val: gone.txt', 'val: [gone]'])
def test_settings_that_cannot_be_followed_are_refused(
    tmp_path: Path, setting: str
) -> None:
    root = dataset(tmp_path, f'{setting}\nnames: [a]')
    with pytest.raises(DataError) as caught:
        find_layout(root)
    assert 'gone' in caught.value.message
    # The fix can be followed as it is.
    (root / 'data.yaml').write_text(f'{caught.value.fix}\nnames: [a]')
    assert find_layout(root).val.content['annotations']


def test_a_list_with_an_image_that_is_not_there(tmp_path: Path) -> None:
    root = dataset(tmp_path, 'train: train.txt\nnames: [a]')
    (root / 'train.txt').write_text('images/train/0.jpg\nimages/train/9.jpg\n')
    with pytest.raises(AnnotationError, match='line 2'):
        find_layout(root)


def test_validation_images_without_labels(tmp_path: Path) -> None:
    root = dataset(tmp_path, 'val: images/val\nnames: [a]')
    for file in (root / 'labels/val').iterdir():
        file.unlink()
    with pytest.raises(AnnotationError, match='val') as caught:
        find_layout(root)
    assert caught.value.fix.endswith(str(root / 'labels/val'))


def test_a_test_split_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    layout = find_layout(dataset(tmp_path, 'test: ../test/images\nnames: [a]'))
    assert layout.test is None and 'no test split' in layout.notes[0]


def test_validation_on_training_images_is_told(tmp_path: Path) -> None:
    text = 'train: images/train\nval: images/train\nnames: [a]'
    (note,) = find_layout(dataset(tmp_path, text)).notes
    assert note.startswith('4 of the 4 val images are training images too')


def test_photos_are_as_large_as_mmdet_reads_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    layout = find_layout(dataset(tmp_path, 'names: [a]', exif=exif))
    image = layout.train.content['images'][0]
    read = imread(str(layout.train.images / image['file_name']))
    assert (image['height'], image['width']) == read.shape[:2] == (64, 48)
    assert layout.train.content['annotations'][0]['bbox'] == [0, 0, 24, 32]


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    root = dataset(tmp_path, 'names: [a]')
    (root / 'images/train/2.jpg').write_text('none')
    with pytest.raises(ImageError, match=r'train/2\.jpg'):
        find_layout(root)


def test_boxes_of_zero_size_are_left_out(tmp_path: Path) -> None:
    root = dataset(tmp_path, 'names: [a]')
    (root / 'labels/val/0.txt').write_text(f'{LINE}\n0 0.5 0.5 0 0')
    layout = find_layout(root)
    assert len(layout.val.content['annotations']) == 4
    assert any(note.startswith('val: boxes without width') for note in layout.notes)


def test_a_dataset_without_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match='no boxes'):
        find_layout(dataset(tmp_path, 'names: [a]', line=''))


def test_polygons_are_masks(tmp_path: Path) -> None:
    line = '0 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5'
    layout = find_layout(dataset(tmp_path, 'names: [a]', line=line))
    found = layout.train.content['annotations'][0]
    assert found['bbox'] == [16, 12, 32, 12] and found['area'] == 32 * 12
    corners = np.array(found['segmentation'][0], np.float32).reshape(-1, 2)
    assert cv2.contourArea(corners) == 32 * 12
    assert not layout.train.without_mask
    (tmp_path / 'labels/train/0.txt').write_text(f'{line}\n{LINE}')
    assert find_layout(tmp_path).train.without_mask == 1


def test_the_yaml_itself_is_a_dataset(tmp_path: Path) -> None:
    root = dataset(tmp_path, 'names: [a]')
    assert find_layout(root / 'data.yaml') == find_layout(root)
    for text in ('other: 1', '[', 'names: [a]'):
        (tmp_path / 'other').mkdir(exist_ok=True)
        (tmp_path / 'other/data.yaml').write_text(text)
        with pytest.raises(DataError) as caught:
            find_layout(tmp_path / 'other/data.yaml')
        assert 'names' in caught.value.expected


@pytest.mark.parametrize('names', ['classes.txt', 'labels/classes.txt'])
def test_a_flat_folder_of_images_and_labels(tmp_path: Path, names: str) -> None:
    write(tmp_path / 'images')
    (tmp_path / names).write_text('cat\n')
    layout = find_layout(tmp_path)
    assert layout.classes == ('cat',) and len(layout.train.content['images']) == 3
