"""Checks of settings that a model reads long after it is built.

mmengine reads `init_cfg` when the work dir is made, `test_cfg` at the first detection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from importlib import import_module
from typing import Any

from mmengine.model import BaseModule, initialize
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from ..distiller.model import Distiller
from ..errors import ConfigError, as_config_error, is_number, nearest_names
from ..io.random_state import preserved_random_state

# Keys of `test_cfg` whose values are compared with numbers.
_NUMBERS = (
    'score_thr',
    'iou_threshold',
    'iou_thr',
    'min_score',
    'max_per_img',
    'max_num',
    'nms_pre',
    'nms_post',
    'min_bbox_size',
    'mask_thr_binary',
)


def check_initializers(model: nn.Module) -> None:
    """Raise ConfigError for an `init_cfg` that fails; files are not read.

    Args:
        model: The model, or a distiller. It is not changed.
    """
    student = model.student if isinstance(model, Distiller) else model
    for path, module in _initialised(student):
        given = getattr(module, 'init_cfg', None)
        where = f'init_cfg of {path or "the model"}'
        for cfg in given if isinstance(given, (list, tuple)) else [given or {}]:
            if not isinstance(cfg, Mapping):
                raise ConfigError(
                    f'{where} must be a dict, or a list of dicts',
                    actual=repr(given),
                    fix="init_cfg=dict(type='Pretrained', checkpoint='...')",
                )
            if not cfg or _reads_file(cfg):
                continue
            kind = cfg.get('type')
            if isinstance(kind, str) and WEIGHT_INITIALIZERS.get(kind) is None:
                raise ConfigError(
                    f'{where}: there is no initializer {kind!r}',
                    actual=kind,
                    available=nearest_names(kind, WEIGHT_INITIALIZERS.module_dict),
                )
            with preserved_random_state(), as_config_error(where):
                _try_initializer(module, dict(cfg))


def _initialised(module: nn.Module, path: str = '') -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules whose `init_weights` mmengine calls, and where they are.

    It does not look into modules without one, such as torch's `Sequential`, in which
    TridentNet has an `init_cfg` that would fail.
    """
    yield path, module
    for name, child in module.named_children():
        if hasattr(child, 'init_weights'):
            yield from _initialised(child, f'{path}.{name}' if path else name)


def _try_initializer(module: nn.Module, cfg: dict[str, Any]) -> None:
    """Raise what a part of an `init_cfg` raises where the module reads it.

    A class with `init_weights` of its own may not read what it inherits: RTMDet's head
    has the `init_cfg` of ATSS, which names a layer that it lacks.
    """
    try:
        initialize(deepcopy(module), cfg)
    except Exception:
        copy: Any = deepcopy(module)
        own = getattr(type(copy), 'init_weights', None)
        if own in (None, BaseModule.init_weights):
            raise
        for part in copy.modules():
            given = getattr(part, 'init_cfg', None)
            many = given if isinstance(given, (list, tuple)) else [given or {}]
            if any(_reads_file(one) for one in many):
                part.init_cfg = None
        copy._is_init = False
        copy.init_weights()


def _reads_file(cfg: Mapping[str, Any]) -> bool:
    """Return whether an `init_cfg` is a file; PVT's has no type."""
    return cfg.get('type', 'Pretrained') == 'Pretrained' and 'checkpoint' in cfg


def check_test_settings(model: Mapping[str, Any]) -> None:
    """Raise ConfigError for values of a `test_cfg` that fail at the first detection.

    Args:
        model: Config of the model.
    """
    for where, test_cfg in _test_cfgs(model, 'model'):
        _check_values(test_cfg, where)


def _test_cfgs(part: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each `test_cfg` below a part of the config, and where it stands."""
    if isinstance(part, (list, tuple)):
        for index, one in enumerate(part):
            yield from _test_cfgs(one, f'{where}[{index}]')
    elif isinstance(part, Mapping):
        for key, value in part.items():
            if key == 'test_cfg' and isinstance(value, Mapping):
                yield f'{where}.test_cfg', value
            else:
                yield from _test_cfgs(value, f'{where}.{key}')


def _check_values(given: Mapping[str, Any], where: str) -> None:
    for key, value in given.items():
        if isinstance(value, Mapping):
            _check_values(value, f'{where}.{key}')
        elif key in _NUMBERS and value is not None and not is_number(value):
            raise ConfigError(f'{where}: {key} must be a number', actual=repr(value))
    nms = given.get('nms')
    kind = nms.get('type', 'nms') if isinstance(nms, Mapping) else None
    # mmcv takes it for a name in this module.
    known = vars(import_module('mmcv.ops.nms'))
    if isinstance(kind, str) and kind not in known:
        names = [n for n, v in known.items() if 'nms' in n and callable(v)]
        raise ConfigError(
            f'{where}.nms: there is no {kind!r}',
            actual=kind,
            available=nearest_names(kind, names),
        )
