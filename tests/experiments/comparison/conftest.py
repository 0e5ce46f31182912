"""Fixtures for the tests of comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

import comparisons


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A student alone, a teacher, a recipe and a config; image classifiers."""
    return comparisons.write_classifiers(tmp_path)


@pytest.fixture
def detectors(tmp_path: Path, coco_root: Path) -> Path:
    """A tiny detector alone, its teacher, and a recipe."""
    return comparisons.write_detectors(tmp_path, coco_root)
