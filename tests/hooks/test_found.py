"""A hook is one file: it is found without a list."""

from __future__ import annotations

import pkgutil

import pytest
from mmengine.registry import HOOKS

from mkd_det import hooks

FILES = [
    module.name
    for module in pkgutil.walk_packages(hooks.__path__, 'mkd_det.hooks.')
    if module.name.endswith('_hook')
]


@pytest.mark.parametrize('file', FILES)
def test_the_hook_of_every_file_is_registered(file: str) -> None:
    stem = file.rpartition('.')[2]
    name = ''.join(part.title() for part in stem.split('_'))
    assert HOOKS.get(name).__module__ == file
