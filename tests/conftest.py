"""Fixtures that all tests share. The things themselves are made in `tiny.py`."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: two tests at once must not fight for the cores, and
# a process that a test starts inherits it.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')

import pytest
import torch

import tiny

ROOT = Path(__file__).resolve().parents[1]


# Files that take longest. They come first, so that no
# process is left alone with one of them at the end (`pytest -n`).
LONGEST = ('test_prepare.py', 'test_configs.py')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by how long they take, as far as that is known."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope='session', autouse=True)
def _registered() -> None:
    """mmdet's and our modules stand in the registries; torch takes one thread."""
    from mmdet.utils import register_all_modules

    import mkd_det  # noqa: F401

    torch.set_num_threads(1)
    register_all_modules(init_default_scope=True)
    # mmengine collects garbage whenever it builds a dataset: half a second each time
    # unless the objects of all imported modules are left out.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Each test starts from seed 0 and leaves no runner's globals behind."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope, init_default_scope
    from mmengine.utils import manager as manager_module
    from mmengine.visualization import Visualizer

    init_default_scope('mmdet')
    # `torch.manual_seed` formats the stack once for each kind of device, for an error
    # that may come: a tenth of the time of a small test.
    torch.default_generator.manual_seed(0)
    yield
    # An exception inside mmengine's `get_instance` leaves its lock held, and another
    # thread (a training of a chain) would wait for ever.
    while manager_module._lock._is_owned():
        manager_module._lock.release()
    for manager in (MessageHub, Visualizer, MMLogger, DefaultScope):
        # mmengine keeps instances by name for the life of the process.
        for kind in (manager, *manager.__subclasses__()):
            instances = kind.__dict__.get('_instance_dict')
            if instances is not None:
                instances.clear()


@pytest.fixture(scope='session')
def root() -> Path:
    """Folder of the repository."""
    return ROOT


@pytest.fixture
def student_cfg() -> dict[str, Any]:
    """A tiny GFL: ResNet-18 with 8 base channels, FPN 16, 1 head conv."""
    return tiny.gfl(base_channels=8, neck=16)


@pytest.fixture
def teacher_cfg() -> dict[str, Any]:
    """The same with 16 base channels and FPN 24: other widths at every tap."""
    return tiny.gfl(base_channels=16, neck=24)


@pytest.fixture
def teacher_file(teacher_cfg: dict[str, Any], tmp_path: Path) -> Path:
    """A complete checkpoint of `teacher_cfg` with random weights."""
    return tiny.write_checkpoint(teacher_cfg, tmp_path / 'teacher.pth')


@pytest.fixture
def batch() -> dict[str, list]:
    """Two images of 64x64 with two boxes each, as a dataloader yields them."""
    return tiny.batch()


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """A COCO data set of 8 images with coloured rectangles (3 classes)."""
    return tiny.write_coco(tmp_path / 'coco')
