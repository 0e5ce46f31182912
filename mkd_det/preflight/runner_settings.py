"""Checks of what a config tells the runner itself: loops, seeds, launcher, logging.

mmengine finds these mistakes after it has created the work dir, some of them after the
first epoch, and some never: a training of 0 epochs ends at once.
"""

from __future__ import annotations

import inspect
import logging
import multiprocessing
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.registry import LOOPS, MODEL_WRAPPERS, MODELS, RUNNERS, Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    TestLoop,
    ValLoop,
)

from ..errors import ConfigError, is_integer, nearest_names
from ..registry import type_name
from ..training.runtime import is_distill
from .launchers import check_launcher
from .strategies import check_strategy

# What numpy takes as a seed.
_LARGEST_SEED = 2**32 - 1
# More epochs or iterations than Python can tell the remaining time of.
_LONGEST = 10**9
# Parts that a runner needs together.
_PARTS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
_RUNNERS = ('Runner', 'FlexibleRunner')


def check_runner_settings(cfg: Config) -> None:
    """Raise ConfigError for settings that a runner cannot use.

    Args:
        cfg: Config of a training or a test, with `work_dir`.

    Raises:
        ConfigError: A setting is of a wrong type, or out of range.
    """
    _check_runner_type(cfg)
    _check_types(cfg)
    check_launcher(cfg)
    check_strategy(cfg)
    if not has_stock_runner(cfg):
        return
    _check_compile(cfg)
    _check_resume(cfg)
    _check_randomness(cfg.get('randomness'))
    _check_log_level(cfg.get('log_level', 'INFO'))
    _check_environment(cfg.get('env_cfg') or {})
    _check_auto_scale_lr(cfg.get('auto_scale_lr'))
    for split, parts in _PARTS.items():
        _check_complete(cfg, split, parts)
    for split, default in (('val', ValLoop), ('test', TestLoop)):
        if cfg.get(f'{split}_cfg') is not None:
            check_loop(cfg, split, default)
            _check_bool(cfg[f'{split}_cfg'], 'fp16', f'{split}_cfg')


def has_stock_runner(cfg: Config) -> bool:
    """Return whether a training is run by a runner of mmengine.

    Args:
        cfg: Config of a training or a test.
    """
    return type_name(cfg.get('runner_type', 'Runner')) in _RUNNERS


def check_loop(cfg: Config, split: str, default: type | None = None) -> type:
    """Return the class of a loop; raise unless it can be built.

    Args:
        cfg: Config of a training or a test.
        split: 'train', 'val' or 'test'.
        default: Its class where the config names none.

    Raises:
        ConfigError: There is no such loop, or it takes other arguments.
    """
    where = f'{split}_cfg'
    # mmengine adds `_scope_` to what comes from a `package::` base.
    loop = {key: value for key, value in cfg[where].items() if key != '_scope_'}
    if split == 'train' and 'type' not in loop:
        if 'by_epoch' not in loop:
            raise ConfigError(
                'train_cfg: it is unknown what is counted',
                expected='type, or by_epoch',
                actual=sorted(loop),
                fix="train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12)",
            )
        default = EpochBasedTrainLoop if loop.pop('by_epoch') else IterBasedTrainLoop
    elif split == 'train' and 'by_epoch' in loop:
        raise ConfigError('train_cfg: type and by_epoch exclude each other')
    cls = _find(LOOPS, loop.pop('type', default), where)
    needed = ['runner', 'dataloader', *(['evaluator'] if split != 'train' else [])]
    arguments = {**dict.fromkeys(needed), **loop}
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f'{where}: {cls.__name__} takes other arguments',
            actual=str(error),
            available=[n for n in inspect.signature(cls).parameters if n not in needed],
        ) from error
    return cls


def check_length(cfg: Config) -> None:
    """Raise ConfigError unless `train_cfg` says how long to train and when to validate.

    Args:
        cfg: Config of a training.
    """
    cls = check_loop(cfg, 'train')
    loop = cfg.train_cfg
    if not issubclass(cls, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return
    for name in ('max_epochs', 'max_iters', 'val_interval', 'val_begin'):
        value = loop.get(name, 1)
        whole = is_integer(value) or (isinstance(value, float) and value.is_integer())
        low = 0 if name == 'val_begin' else 1
        if not whole or not low <= value <= _LONGEST:
            raise ConfigError(
                f'train_cfg: {name} must be a whole number',
                expected=f'{low} to {_LONGEST}',
                actual=repr(value),
                fix=f'{name}=12',
            )
    intervals = loop.get('dynamic_intervals')
    for entry in intervals if isinstance(intervals, list) else ():
        pair = entry if isinstance(entry, tuple) and len(entry) == 2 else (0, 0)
        if not (is_integer(pair[0]) and is_integer(pair[1]) and pair[1] > 0):
            intervals = None, entry
            break
    if not isinstance(intervals, (list, type(None))):
        raise ConfigError(
            'train_cfg: dynamic_intervals must be a list of pairs (from, interval)',
            actual=repr(loop.dynamic_intervals),
            fix='dynamic_intervals=[(280, 1)]',
        )


def _check_types(cfg: Config) -> None:
    for name, kinds, words in (
        ('work_dir', str, 'a path'),
        ('randomness', dict, 'a dict'),
        ('env_cfg', dict, 'a dict'),
        ('auto_scale_lr', dict, 'a dict'),
        ('train_cfg', dict, 'a dict'),
        ('val_cfg', dict, 'a dict'),
        ('test_cfg', dict, 'a dict'),
        ('default_hooks', dict, 'a dict of hooks by name'),
        ('custom_hooks', (list, tuple), 'a list of hooks'),
        ('visualizer', dict, 'a dict'),
        ('log_processor', dict, 'a dict'),
        ('model_wrapper_cfg', dict, 'a dict'),
        ('experiment_name', str, 'a string'),
        ('default_scope', str, 'a string'),
    ):
        value = cfg.get(name)
        if value is not None and not isinstance(value, kinds):
            raise ConfigError(f'{name} must be {words}', actual=repr(value))
    for name in ('randomness', 'env_cfg', 'launcher'):
        if name in cfg and cfg[name] is None:
            raise ConfigError(
                f'{name} must not be None', fix=f'{name}=dict(...), or without it'
            )
    if cfg.get('param_scheduler') is not None and cfg.get('optim_wrapper') is None:
        raise ConfigError(
            'param_scheduler needs an optim_wrapper', fix='param_scheduler=None'
        )
    if cfg.get('default_scope') == '':
        raise ConfigError('default_scope is empty', fix="default_scope = 'mmdet'")
    if cfg.get('work_dir') is None:
        raise ConfigError(
            'the config has no work_dir', expected='a path', fix="work_dir = 'runs/a'"
        )


def _check_runner_type(cfg: Config) -> None:
    kind = cfg.get('runner_type')
    if kind is not None:
        _find(RUNNERS, kind, 'runner_type')
    _find(MODELS, cfg.model.get('type'), 'model')
    wrapper = (cfg.get('model_wrapper_cfg') or {}).get('type')
    if wrapper is not None:
        _find(MODEL_WRAPPERS, wrapper, 'model_wrapper_cfg')
    if cfg.get('sync_bn') not in (None, 'torch', 'mmcv'):
        raise ConfigError(
            'sync_bn must be a kind of layer',
            actual=repr(cfg.sync_bn),
            available=('torch', 'mmcv'),
        )


def _check_compile(cfg: Config) -> None:
    """Raise for `torch.compile` of a distiller, which cannot be traced.

    Its step puts hooks on, runs teachers that change, and takes the hooks off again.
    It compiles for minutes and then fails, or blames an operation that is not there.
    """
    given = cfg.get('compile')
    if given is None or given is False:
        return
    if not isinstance(given, (bool, dict)):
        raise ConfigError('compile must be True, False or a dict', actual=repr(given))
    if is_distill(cfg):
        raise ConfigError(
            'compile: the training step of a distillation cannot be compiled',
            actual=f'compile={given!r}',
            fix='compile = False; the teachers run fast by themselves'
            " (teachers.t.speed='fast'),\nand the exported student can be compiled",
        )


def _check_resume(cfg: Config) -> None:
    start = cfg.get('load_from')
    if start is not None and (not isinstance(start, str) or not start.strip()):
        raise ConfigError(
            'load_from must be a path or an address',
            actual=repr(start),
            fix='load_from=None, to start without a checkpoint',
        )
    given = cfg.get('resume', False)
    if not isinstance(given, bool):
        # mmengine would take any text for True, and resume something else.
        raise ConfigError(
            'resume must be True or False',
            actual=repr(given),
            fix=f'load_from={given!r}, resume=True'
            if isinstance(given, str) and given != 'auto'
            else 'resume=True',
        )


def _check_randomness(given: Mapping[str, Any] | None) -> None:
    known = ('seed', 'diff_rank_seed', 'deterministic')
    for key in given or ():
        if key not in known:
            raise ConfigError(
                f'randomness: unknown key {key!r}',
                actual=key,
                available=nearest_names(key, known),
            )
    for key in known[1:]:
        _check_bool(given or {}, key, 'randomness')
    seed = (given or {}).get('seed')
    if seed is not None and not (is_integer(seed) and 0 <= seed <= _LARGEST_SEED):
        raise ConfigError(
            f'randomness: seed must be a whole number from 0 to {_LARGEST_SEED}',
            actual=repr(seed),
            fix='randomness=dict(seed=0)',
        )


def _check_bool(given: Mapping[str, Any], key: str, where: str) -> None:
    if not isinstance(given.get(key, False), bool):
        raise ConfigError(
            f'{where}.{key} must be True or False', actual=repr(given[key])
        )


def _check_log_level(level: Any) -> None:
    # A level's name gives its number; anything else gives a text.
    if not is_integer(level) and not is_integer(logging.getLevelName(level)):
        raise ConfigError(
            'log_level must be a level of Python logging',
            actual=repr(level),
            available=('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'),
            fix="log_level='INFO'",
        )


def _check_environment(given: Mapping[str, Any]) -> None:
    processes = given.get('mp_cfg') or {}
    method = processes.get('mp_start_method', 'fork')
    methods = multiprocessing.get_all_start_methods()
    if method not in methods:
        raise ConfigError(
            'env_cfg.mp_cfg: unknown mp_start_method', actual=method, available=methods
        )
    _check_bool(given, 'cudnn_benchmark', 'env_cfg')
    known = ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit')
    for key in set(given) - set(known):
        # mmengine ignores it. Others may keep what they like here.
        if get_close_matches(key, known, 1, 0.8):
            raise ConfigError(
                f'env_cfg: unknown key {key!r}',
                actual=key,
                available=nearest_names(key, known),
            )
    for name, value in (
        ('mp_cfg.opencv_num_threads', processes.get('opencv_num_threads', 0)),
        ('resource_limit', given.get('resource_limit', 4096)),
    ):
        if not is_integer(value):
            raise ConfigError(
                f'env_cfg.{name} must be a whole number', actual=repr(value)
            )
    unknown = set(processes) - {'mp_start_method', 'opencv_num_threads'}
    if unknown:
        raise ConfigError(
            f'env_cfg.mp_cfg: unknown key {min(unknown)!r}',
            available=('mp_start_method', 'opencv_num_threads'),
        )


def _check_auto_scale_lr(given: Mapping[str, Any] | None) -> None:
    if not given or not given.get('enable'):
        return
    size: Any = given.get('base_batch_size')
    if not is_integer(size) or size < 1:
        raise ConfigError(
            'auto_scale_lr: base_batch_size must be a whole number, at least 1',
            actual=repr(size),
            fix='auto_scale_lr=dict(enable=True, base_batch_size=16)',
        )


def _check_complete(cfg: Config, split: str, parts: tuple[str, ...]) -> None:
    missing = [name for name in parts if cfg.get(name) is None]
    if missing and len(missing) < len(parts):
        raise ConfigError(
            f'the config has no {missing[0]}',
            expected=', '.join(parts) + ', or none of it',
            fix=f'{missing[0]}=dict(...)',
        )


def _find(registry: Registry, kind: Any, where: str) -> type:
    """Return a class by its name or itself; ConfigError if there is none."""
    cls = kind if isinstance(kind, type) else None
    known = list(registry.module_dict)
    if isinstance(kind, str):
        # As `registry.build` looks it up.
        with registry.switch_scope_and_registry(None) as own:
            cls = own.get(kind)
            known += own.module_dict
    if cls is None:
        raise ConfigError(
            f'{where}: there is no {registry.name} of type {kind!r}',
            actual=type_name(kind) or repr(kind),
            available=nearest_names(str(kind), known),
        )
    return cls
