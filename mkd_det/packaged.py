"""The configs that the package brings: `mkd_det::folder/name.py`.

An installed package has them in `mkd_det/.mim/configs`, where mmengine looks. In an
editable install they are the checkout's `configs/`, and only there: with a link in
`.mim` beside them, `mim train mkd_det NAME` would find every config twice and refuse
it. mmengine is told to look into the checkout instead.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def configs_folder() -> Path:
    """Return the folder that holds the packaged configs."""
    installed = PACKAGE / '.mim' / 'configs'
    return installed if installed.is_dir() else PACKAGE.parent / 'configs'


def find_configs_in_checkout() -> None:
    """Let mmengine look up packaged configs in `configs_folder()`.

    Changes nothing for other packages, nor for an installed mkd_det. Calling it again
    has no effect.
    """
    from mmengine.config import config
    from mmengine.hub import hub

    for module in (config, hub):
        find = module._get_external_cfg_base_path
        if not hasattr(find, '__wrapped__'):
            module._get_external_cfg_base_path = _with_checkout(find)


def _with_checkout(find: Callable[[str, str], str]) -> Callable[[str, str], str]:
    """Wrap mmengine's look-up of a config below the folder of a package."""

    @functools.wraps(find)
    def found(package_path: str, cfg_name: str) -> str:
        path = configs_folder() / cfg_name
        ours = os.path.realpath(package_path) == str(PACKAGE)
        return str(path) if ours and path.is_file() else find(package_path, cfg_name)

    return found
