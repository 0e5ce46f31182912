"""Fixtures for the tests of chains."""

from __future__ import annotations

from pathlib import Path

import pytest

import chains


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three tiny classifiers and the chain of them."""
    return chains.write_members(tmp_path)
