"""Checks of hooks that run before anything is trained or written."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.registry import HOOKS
from torch import nn

from ..errors import as_config_error

# A hook class may have `check_before_start(cfg, model)`, which raises what would
# stop the training later. It gets the config and the model that the checks have built.
METHOD = 'check_before_start'


def check_hooks(cfg: Config, model: nn.Module) -> None:
    """Build the hooks that can check themselves, and let them.

    Args:
        cfg: Config of the training.
        model: Its model.

    Raises:
        MkdError: A hook does not fit the config or the model.
    """
    for hook in hooks_of(cfg):
        cls = hook.get('type')
        cls = cls if isinstance(cls, type) else HOOKS.get(str(cls))
        if hasattr(cls, METHOD):
            with as_config_error(f'hook {cls.__name__}'):
                getattr(HOOKS.build(deepcopy(hook)), METHOD)(cfg, model)


def hooks_of(cfg: Config) -> Iterator[Any]:
    """Yield the configs of all hooks of a training.

    Args:
        cfg: Config of the training.
    """
    hooks = [*(cfg.get('default_hooks') or {}).values()]
    for hook in [*hooks, *(cfg.get('custom_hooks') or [])]:
        if isinstance(hook, dict):
            yield hook
