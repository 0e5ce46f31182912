"""Registration with mmengine: the scope `mkd_det` and names of packaged configs.

mmengine requires the name of this module and of `register_all_modules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry
from mmengine.utils import manager

from .packaged import find_configs_in_checkout

SCOPE = 'mkd_det'


def register_scope() -> None:
    """Register the scope 'mkd_det' and the prefix 'mkd_det::' of config names.

    Parts of a config that come from a `mkd_det::` base are built in this scope. Each
    registry of the scope is a child of mmdet's registry, and so finds mmdet's classes
    and those of mmengine's registries, which include ours. Calling it again has no
    effect.
    """
    if SCOPE in MODULE2PACKAGE:
        return
    MODULE2PACKAGE[SCOPE] = SCOPE
    _name_forks()
    find_configs_in_checkout()
    for parent in list(vars(mmdet.registry).values()):
        if isinstance(parent, Registry) and parent.scope == 'mmdet':
            # With the parent's locations: mmengine does not import the locations of a
            # parent when it looks a class up there.
            Registry(
                parent.name, parent=parent, scope=SCOPE, locations=parent._locations
            )


def _name_forks() -> None:
    """Let mmengine find packages whose forks have a name that it does not know.

    `mmseg::...` asks for the distribution mmsegmentation; onedl-mmsegmentation has the
    same module. By its module's name mmengine finds both.
    """
    for module, package in MODULE2PACKAGE.items():
        if module == package or find_spec(module) is None:
            continue
        try:
            version(package)
        except PackageNotFoundError:
            MODULE2PACKAGE[module] = module


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register mmdet's modules; importing mkd_det has registered its own.

    mmengine's `get_model` calls this function.

    Args:
        init_default_scope: Make 'mmdet' the default scope, as configs expect.
    """
    from mmdet.utils import register_all_modules as register_mmdet

    register_mmdet(init_default_scope)


def release_instance_lock() -> None:
    """Release mmengine's lock of named instances, if this thread still holds it.

    An exception inside of `get_instance` (a logger whose file cannot be written, a
    scope that is no name) leaves it held, and another thread would wait for ever.
    """
    while True:
        try:
            manager._lock.release()
        except RuntimeError:  # this thread does not hold it
            return


@contextmanager
def releasing_instance_lock() -> Iterator[None]:
    """Release mmengine's lock of named instances after an error, for other threads."""
    try:
        yield
    except BaseException:
        release_instance_lock()
        raise
