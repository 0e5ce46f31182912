"""The dataset of the demo: real images, exact boxes, reproducible files."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('sklearn', reason='needs the demo extra')
pytest.importorskip('skimage', reason='needs the demo extra')

from mkd_det.data import check_data
from mkd_det.data.digit_painter import CLASSES, Painter, _covered
from mkd_det.data.digits import DigitSettings, _painters, make_digits
from mkd_det.errors import DataError

SMALL = {'train': 4, 'val': 2, 'size': 96}


def fingerprints(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp('made') / 'digits', **SMALL)


def test_same_arguments_give_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    again = make_digits(tmp_path / 'again', **SMALL)
    assert fingerprints(again) == fingerprints(digits)
    assert len(fingerprints(digits)) == 4 + 2 + 3
    other = fingerprints(make_digits(tmp_path / 'other', **SMALL, seed=1))
    assert not set(other.values()) & set(fingerprints(digits).values())


def test_a_larger_dataset_begins_with_the_same_images(
    digits: Path, tmp_path: Path
) -> None:
    more = fingerprints(make_digits(tmp_path / 'more', train=5, val=2, size=96))
    assert fingerprints(digits)['train/00003.png'] == more['train/00003.png']


def test_the_dataset_passes_the_data_check(digits: Path) -> None:
    def loader(split: str) -> dict:
        dataset = {
            'type': 'CocoDataset',
            'data_root': str(digits),
            'ann_file': f'{split}.json',
            'data_prefix': {'img': f'{split}/'},
            'metainfo': {'classes': CLASSES},
        }
        return {'dataset': dataset}

    lines = check_data({f'{s}_dataloader': loader(s) for s in ('train', 'val')})
    assert '4 images' in lines[0]
    assert '2 images' in lines[1]
    assert not any('Warning' in line for line in lines)


def test_boxes_lie_in_the_picture_and_hardly_overlap(digits: Path) -> None:
    content = json.loads((digits / 'train.json').read_text())
    by_image: dict[int, list] = {}
    for box in content['annotations']:
        x, y, width, height = box['bbox']
        assert x >= 0
        assert y >= 0
        assert width > 4
        assert height > 4
        assert x + width <= 96
        assert y + height <= 96
        by_image.setdefault(box['image_id'], []).append(box['bbox'])
    assert len(by_image) == 4
    for boxes in by_image.values():
        assert all(_covered(a, b) <= 0.1 for a, b in combinations(boxes, 2))


def test_boxes_are_tight_around_the_digit() -> None:
    train, _ = _painters(DigitSettings(1, 1, 96, 0))
    grey = np.full((96, 96, 3), 128, np.uint8)
    painter = Painter(train.digits, train.labels, [grey], 96, overlap=0.0)
    seen = 0
    for seed in range(8):
        scene = painter.paint(seed)
        change = np.abs(scene.image.astype(float) - 128).max(axis=2)
        outside = change.copy()
        for x, y, width, height in scene.boxes:
            inside = change[y : y + height, x : x + width]
            drawn = inside > 0.45 * inside.max()  # 0.5 of the ink, rounded
            assert drawn[0].any()
            assert drawn[-1].any()
            assert drawn[:, 0].any()
            assert drawn[:, -1].any()
            outside[y : y + height, x : x + width] = 0
            seen += 1
        assert outside.max() == 0
    assert seen > 16


def test_training_and_validation_share_no_specimen() -> None:
    train, val = _painters(DigitSettings(1, 1, 96, 0))
    known = {digit.tobytes() for digit in train.digits}
    assert len(train.digits) + len(val.digits) == 1797
    assert not any(digit.tobytes() in known for digit in val.digits)
    for painter in (train, val):
        assert set(painter.labels) == set(range(10))


def test_labels_are_those_of_the_specimens() -> None:
    train, _ = _painters(DigitSettings(1, 1, 96, 0))
    rng = np.random.default_rng(0)
    # A zero has a hole in its middle, a one has not.
    hole = [train._ink(rng, 0) for _ in range(20)]
    full = [train._ink(rng, 1) for _ in range(20)]

    def middle(ink: np.ndarray) -> float:
        height, width = ink.shape
        return float(ink[height // 2, width // 3 : width - width // 3].mean())

    assert np.mean([middle(ink) for ink in hole]) < 0.3
    assert np.mean([middle(ink) for ink in full]) > 0.7


def test_a_complete_dataset_is_used_again(digits: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.rglob('*')}
    calls: list = []
    make_digits(digits, **SMALL, progress=lambda *args: calls.append(args))
    assert before == {path: path.stat().st_mtime_ns for path in digits.rglob('*')}
    assert not calls


def test_an_incomplete_dataset_is_made_again(digits: Path, tmp_path: Path) -> None:
    root = make_digits(tmp_path / 'digits', **SMALL)
    (root / 'train' / '00002.png').unlink()
    assert fingerprints(make_digits(root, **SMALL)) == fingerprints(digits)
    make_digits(root, **{**SMALL, 'val': 1})
    assert not (root / 'val' / '00001.png').exists()


def test_interrupted_making_leaves_nothing_and_starts_over(
    digits: Path, tmp_path: Path
) -> None:
    root = tmp_path / 'digits'

    def stop(done: int, total: int) -> None:
        assert total == 6
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_digits(root, **SMALL, progress=stop)
    assert not root.exists()
    assert fingerprints(make_digits(root, **SMALL)) == fingerprints(digits)
    assert [path.name for path in tmp_path.iterdir()] == ['digits']


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(DataError) as info:
        make_digits(tmp_path, **SMALL)
    assert info.value.available == ('thesis.txt',)
    assert (tmp_path / 'thesis.txt').read_text() == 'years of work'


def test_pictures_are_photographs_not_noise(digits: Path) -> None:
    image = np.asarray(Image.open(digits / 'train' / '00000.png'), float)
    assert image.shape == (96, 96, 3)
    assert image.std() > 20
    # Neighbours of a photograph resemble each other.
    assert np.abs(np.diff(image, axis=1)).mean() < image.std()


def test_files_of_somebody_else_are_not_deleted(tmp_path: Path) -> None:
    """Neither beside the dataset, nor in it when it is made anew."""
    beside = tmp_path / 'digits.partial' / 'thesis.txt'
    beside.parent.mkdir()
    beside.touch()
    root = make_digits(tmp_path / 'digits', train=2, val=1, size=64)
    inside = root / 'notes.txt'
    inside.touch()
    with pytest.raises(DataError):
        make_digits(root, train=3, val=1, size=64)
    assert beside.exists() and inside.exists()
    inside.unlink()
    make_digits(root, train=3, val=1, size=64)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['digits', 'digits.partial']
