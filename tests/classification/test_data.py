"""Datasets of classifiers: subsets, checks and errors."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image

import tiny_images
from mkd_det.data import check_data
from mkd_det.data.datasets import dataset_classes
from mkd_det.errors import AnnotationError, ConfigError, ImageError


def build(root: Path, **more: Any) -> Any:
    return DATASETS.build(tiny_images.folder(root, **more))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with 8 images of each of three classes."""
    return tiny_images.write_folder(tmp_path / 'images', 8)


def write_mnist(root: Path, labels: bytes) -> Path:
    """Write the files of FashionMNIST with these labels."""
    raw = root / 'FashionMNIST' / 'raw'
    raw.mkdir(parents=True)
    count = len(labels)
    pixels = struct.pack('>4i', 2051, count, 28, 28) + bytes(range(256)) * (
        count * 28 * 28 // 256 + 1
    )
    for split in ('train', 't10k'):
        (raw / f'{split}-images-idx3-ubyte').write_bytes(pixels[: 16 + count * 784])
        (raw / f'{split}-labels-idx1-ubyte').write_bytes(
            struct.pack('>2i', 2049, count) + labels
        )
    return root


# ----------------------------------------------------------------- what it yields


def test_an_image_has_its_pixels_and_label(root: Path) -> None:
    data = build(root)
    assert len(data) == 24 and data.metainfo == dict(classes=tiny_images.CLASSES)
    assert data.counts == [8, 8, 8]
    item = data[9]  # the second of the second folder
    pixels = np.array(Image.open(root / 'green/1.png'))
    assert item['inputs'].dtype == torch.uint8
    assert torch.equal(item['inputs'], torch.from_numpy(pixels).permute(2, 0, 1))
    assert item['data_samples'].gt_label.tolist() == [1]


def test_transforms_are_torchvisions_and_drawn_anew(root: Path) -> None:
    crop = [dict(type='RandomCrop', size=8), dict(type='RandomHorizontalFlip')]
    data = build(root, transforms=crop)
    first, second = data[0]['inputs'], data[0]['inputs']
    assert first.shape == (3, 8, 8) and not torch.equal(first, second)


def test_a_cache_changes_nothing_and_reads_files_once(root: Path) -> None:
    flip = [dict(type='RandomHorizontalFlip')]
    plain, cached = (build(root, transforms=flip, cache=c) for c in (False, True))
    for _ in range(2):
        torch.manual_seed(1)
        wanted = [item['inputs'] for item in plain]
        torch.manual_seed(1)
        assert all(torch.equal(a, b['inputs']) for a, b in zip(wanted, cached))
    for file in root.rglob('*.png'):
        file.unlink()
    assert len([item for item in cached]) == 24


def test_grey_images_become_three_channels(tmp_path: Path) -> None:
    root = write_mnist(tmp_path, bytes(range(10)))
    data = DATASETS.build(
        dict(type='TorchvisionDataset', name='FashionMNIST', root=str(root))
    )
    assert data[3]['inputs'].shape == (3, 28, 28)
    assert data.metainfo['classes'][0] == 'T-shirt/top'
    assert data.counts == [1] * 10


# ----------------------------------------------------------------- what is drawn


def test_subsets_are_balanced_over_classes(tmp_path: Path) -> None:
    root = tiny_images.write_folder(tmp_path / 'images', (8, 2, 8))
    data = build(root, num_images=11, seed=3)
    assert sorted(data.counts) == [2, 4, 5] and data.counts[1] == 2
    again, other = build(root, num_images=11, seed=3), build(root, num_images=11)
    assert data.indices.tolist() == again.indices.tolist()
    assert data.indices.tolist() != other.indices.tolist()
    assert len(set(data.indices)) == 11
    # The label goes with the image.
    for index, number in enumerate(data.indices):
        label = data[index]['data_samples'].gt_label.item()
        assert (
            Path(data.data.samples[number][0]).parent.name
            == (data.metainfo['classes'][label])
        )


def test_a_part_of_the_images_may_lack_classes(tmp_path: Path) -> None:
    """Labels are those of all classes, whatever folders there are."""
    names = ('a', 'b', 'c', 'd')
    root = tiny_images.write_folder(
        tmp_path / 'val', (1, 2, 3), classes=('a', 'c', 'd')
    )
    data = build(root, classes=names)
    assert data.metainfo == dict(classes=names)
    assert data.labels.tolist() == [0, 2, 2, 3, 3, 3]
    assert data.counts == [1, 0, 2, 3]


def test_label_noise_replaces_a_fraction_of_the_labels(root: Path) -> None:
    clean, noisy = build(root), build(root, label_noise=0.25, seed=1)
    wrong = clean.labels != noisy.labels
    assert wrong.sum() == 6
    assert set(noisy.labels) <= {0, 1, 2}
    assert (
        noisy.labels.tolist() == build(root, label_noise=0.25, seed=1).labels.tolist()
    )
    assert (
        noisy.labels.tolist() != build(root, label_noise=0.25, seed=2).labels.tolist()
    )
    assert noisy[0]['data_samples'].gt_label.item() == noisy.labels[0]
    assert sum(noisy.counts) == 24


# --------------------------------------------------------------- what is refused


def loader(**dataset: Any) -> dict[str, Any]:
    return dict(dataset=dict(type='TorchvisionDataset', **dataset))


@pytest.mark.parametrize(
    'wrong, available',
    [
        (dict(name='CIFAR-10'), 'CIFAR10'),
        (dict(name='Imagefolder'), 'ImageFolder'),
        (dict(transforms=[dict(type='RandomCorp', size=8)]), 'RandomCrop'),
        (dict(transforms=[dict(type='RandomCrop')]), None),
        (dict(transforms=['RandomCrop']), None),
        (dict(train=True), None),
        (dict(num_images=0), None),
        (dict(num_images=25), None),
        (dict(num_images=2.5), None),
        (dict(label_noise=1.0), None),
        (dict(label_noise=-0.1), None),
        (dict(label_noise='much'), None),
    ],
)
def test_impossible_arguments(root: Path, wrong: dict, available: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        build(root, **wrong)
    assert available is None or caught.value.available[0] == available


def test_missing_data_lists_the_files_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / 'CIFAR100').mkdir()
    for name in ('CIFAR10', 'ImageFolder'):
        cfg = dict(type='TorchvisionDataset', name=name)
        with pytest.raises(AnnotationError, match=f'{name}: no dataset') as caught:
            DATASETS.build(dict(**cfg, root=str(tmp_path)))
        assert 'CIFAR100' in caught.value.available
        with pytest.raises(AnnotationError):
            DATASETS.build(dict(**cfg, root=str(tmp_path / 'elsewhere')))
    assert 'download' not in caught.value.fix  # of image folders


@pytest.mark.parametrize(
    'classes', [('green', 'blue', 'red'), ('blue', 'green'), ('blue', 'green', 'Red')]
)
def test_other_classes_or_another_order_are_refused(
    root: Path, classes: tuple[str, ...]
) -> None:
    with pytest.raises(AnnotationError, match='other classes') as caught:
        build(root, classes=classes)
    # What the hint says to write, written:
    assert caught.value.fix == f'classes={tiny_images.CLASSES}'
    build(root, classes=list(tiny_images.CLASSES))


@pytest.mark.parametrize('labels', [bytes([0, 1, 10]), bytes([255, 2, 3])])
def test_labels_of_no_class_are_refused(tmp_path: Path, labels: bytes) -> None:
    root = write_mnist(tmp_path, labels)
    cfg = loader(name='FashionMNIST', root=str(root))
    with pytest.raises(AnnotationError, match='1 of 3 labels') as error:
        check_data(dict(train_dataloader=cfg))
    assert error.value.expected == '0 to 9, for 10 classes'
    assert 'image' in error.value.actual


def test_a_negative_label_is_refused(root: Path) -> None:
    data = build(root)
    with pytest.raises(AnnotationError) as caught:
        data._check_labels(np.array([0, 1, -1]), tiny_images.CLASSES)
    assert caught.value.actual.startswith('-1: ')


# --------------------------------------------------------------- before training


def config(root: Path, **more: Any) -> dict[str, Any]:
    return dict(train_dataloader=dict(dataset=tiny_images.folder(root, **more)))


def test_the_check_returns_a_summary(root: Path) -> None:
    (line,) = check_data(config(root))
    assert '24 images of 3 classes, 8 of each, all images decoded' in line
    (line,) = check_data(config(root, num_images=10), images=4)
    assert '10 images of 3 classes, 3 to 4 of each, 4 images decoded' in line
    (line,) = check_data(config(root, num_images=2))
    assert 'Warning: no image of ' in line


@pytest.mark.parametrize('damage', ['empty', 'text', 'cut off', 'another format'])
def test_an_unreadable_image_is_refused(root: Path, damage: str) -> None:
    path = root / 'red/7.png'  # the last: a sample of two looks at it
    whole = path.read_bytes()
    path.write_bytes(
        {
            'empty': b'',
            'text': b'404: not found',
            'cut off': whole[: len(whole) // 2],
            'another format': b'\x89PNG\r\n\x1a\n' + whole[40:],
        }[damage]
    )
    with pytest.raises(ImageError, match=r'red/7\.png cannot be read'):
        check_data(config(root), images=2)
    with pytest.raises(ImageError, match=r'red/7\.png cannot be read'):
        build(root)[23]


def test_transforms_that_fail_are_found_before_training(root: Path) -> None:
    state = torch.random.get_rng_state()
    check_data(config(root, transforms=[dict(type='RandomCrop', size=8)]))
    assert torch.equal(torch.random.get_rng_state(), state)
    crop = [dict(type='RandomCrop', size=32)]  # of images of 16x16, without padding
    with pytest.raises(ConfigError) as caught:
        check_data(config(root, transforms=crop))
    assert '16x16' in caught.value.expected


def test_classes_are_known_before_training(root: Path, tmp_path: Path) -> None:
    cfg = config(root)
    assert dataset_classes(cfg) == tiny_images.CLASSES
    assert dataset_classes(cfg, 'val') is None
    cfg['val_dataloader'] = cfg['train_dataloader']
    assert dataset_classes(cfg, 'val') == tiny_images.CLASSES
    other = tiny_images.write_folder(tmp_path / 'other', classes=('a', 'b', 'c'))
    both = [cfg['train_dataloader']['dataset'], tiny_images.folder(other)]
    cfg['train_dataloader'] = dict(dataset=dict(type='ConcatDataset', datasets=both))
    assert dataset_classes(cfg) is None
