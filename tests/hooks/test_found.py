"""A hook is one file: it is found without a list."""

from __future__ import annotations

import pkgutil

import pytest
from mmengine.registry import HOOKS

from mkd_det import hooks

FILES = [m.name for m in pkgutil.iter_modules(hooks.__path__) if m.name[-5:] == '_hook']


@pytest.mark.parametrize('file', FILES)
def test_the_hook_of_every_file_is_registered(file: str) -> None:
    name = ''.join(part.title() for part in file.split('_'))
    assert HOOKS.get(name).__module__ == f'mkd_det.hooks.{file}'
