"""Fixtures of the command tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from tooling import distiller_cfg, plain_dumps, run_command, write_config


@pytest.fixture(scope='session', autouse=True)
def _plain_dumps() -> Iterator[None]:
    with plain_dumps():
        yield


@pytest.fixture
def write(coco_root: Path, tmp_path: Path) -> Callable[..., str]:
    """Write a model as a config; the work dir is `tmp_path/run`."""

    def write(model: dict[str, Any], **changes: Any) -> str:
        path = tmp_path / 'config.py'
        return write_config(path, model, coco_root, tmp_path / 'run', **changes)

    return write


@pytest.fixture(scope='session')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of one epoch and its config; the teacher's file has
    been moved away since."""
    root = tmp_path_factory.mktemp('trained')
    data = tiny.write_coco(root / 'coco')
    teacher = tiny.write_checkpoint(tiny.gfl(16, 24), root / 'teacher.pth')
    config = write_config(
        root / 'config.py', distiller_cfg(teacher), data, root / 'run'
    )
    assert run_command('train', [config]) == 0
    teacher.rename(root / 'teacher_elsewhere.pth')
    return root
