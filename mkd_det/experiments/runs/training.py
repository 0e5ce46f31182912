"""From a config to the stage that trains it: how long, what counts, what it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ...io.atomic import write_atomically
from ...configs import read_config
from ...errors import ConfigError, nearest_names
from ...registry import type_name
from .stage import ROOT, Stage

# Evaluators of which it is known what they measure; the first figure counts, where
# nothing else is said.
METRICS = ('ClassAccuracy', 'CocoMetric', 'VOCMetric')
# What is shown of a training; it comes out the same without.
_SHOWN = (
    'log_level',
    'log_processor',
    'visualizer',
    'vis_backends',
    'default_hooks.logger',
    'default_hooks.visualization',
    'default_hooks.checkpoint.interval',
    'default_hooks.checkpoint.max_keep_ckpts',
    'val_dataloader.num_workers',
    'val_dataloader.persistent_workers',
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
)
_ENDS = ('', '_50', '_75', '_s', '_m', '_l')
_BY_CLASS = '_precision'


def evaluators_of(cfg: Config) -> list[Any]:
    """The evaluators of the validation, as they stand in the config."""
    found = cfg.get('val_evaluator') or []
    return [found] if isinstance(found, Mapping) else list(found)


def metric_of(cfg: Config, what: str, wanted: str = '') -> tuple[str, str]:
    """What counts for a training: its name, and its key in the log.

    Args:
        cfg: Of the training.
        what: What is trained, for messages.
        wanted: The key, where it is not the first of the evaluators.

    Raises:
        ConfigError: Nothing is evaluated, by an evaluator that is not known, or it
            does not measure what is to count.
    """
    evaluators = evaluators_of(cfg)
    kinds = [type_name(evaluator.get('type')) for evaluator in evaluators]
    measured = [key for kind, e in zip(kinds, evaluators) for key in keys_of(kind, e)]
    key = wanted or next(iter(measured), '')
    if not kinds or not key:
        raise ConfigError(
            f'{what}: it is not known which metric counts',
            expected='a `val_evaluator`, and one of those, or `metric`',
            actual=kinds or None,
            available=METRICS,
            fix="metric='coco/bbox_mAP'",
        )
    by_class = any(e.get('classwise') for e in evaluators) and key.endswith(_BY_CLASS)
    if set(kinds) <= set(METRICS) and key not in measured and not by_class:
        raise ConfigError(
            f'{what}: `metric` is not measured by its evaluator',
            actual=key,
            available=nearest_names(key, measured),
        )
    return key.rpartition('/')[2], key


def keys_of(kind: str, evaluator: Mapping[str, Any]) -> list[str]:
    """Names of metrics, as logged, that an evaluator is known to measure."""
    if kind == 'ClassAccuracy':
        return [f'accuracy/top{k}' for k in _listed(evaluator.get('topk', 1))]
    if kind == 'CocoMetric':
        prefix = evaluator.get('prefix') or 'coco'
        items = evaluator.get('metric_items') or [f'mAP{end}' for end in _ENDS]
        kinds = _listed(evaluator.get('metric', 'bbox'))
        known = [kind for kind in kinds if kind in ('bbox', 'segm')]
        return [f'{prefix}/{kind}_{item}' for kind in known for item in items]
    if kind == 'VOCMetric':
        prefix = evaluator.get('prefix') or 'pascal_voc'
        limits = _listed(evaluator.get('iou_thrs', 0.5))
        named = [f'AP{int(limit * 100):02d}' for limit in limits]
        return [f'{prefix}/{name}' for name in ('mAP', *named)]
    return []


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def steps_of(cfg: Config, what: str) -> tuple[int, bool]:
    """How long is trained, and whether that is in epochs.

    Raises:
        ConfigError: The config does not say.
    """
    loop = cfg.get('train_cfg') or {}
    for key, by_epoch in (('max_epochs', True), ('max_iters', False)):
        if isinstance(loop.get(key), int):
            return loop[key], by_epoch
    raise ConfigError(
        f'{what}: its config does not say how long it is trained',
        expected='train_cfg.max_epochs, or max_iters',
        actual=dict(loop) or None,
    )


def check_is_kept(cfg: Config, what: str) -> None:
    """Raise ConfigError where a training would not leave what a stage is read from."""
    steps, by_epoch = steps_of(cfg, what)
    visualizer = cfg.get('visualizer')
    backends = [type_name(b.get('type')) for b in _backends(visualizer)]
    if visualizer and 'LocalVisBackend' not in backends:
        raise ConfigError(
            f'{what}: its visualizer writes no scalars.json, which figures are read of',
            actual=backends or None,
            fix="vis_backends=[dict(type='LocalVisBackend'), ...]",
        )
    hooks = cfg.get('default_hooks') or {}
    for name in ('checkpoint', 'logger'):
        if name in hooks and hooks[name] is None:
            raise ConfigError(
                f'{what}: without its {name} hook nothing is left to read it from',
                actual=f'default_hooks.{name}=None',
                fix=f'no default_hooks.{name}, or one that is rarely called',
            )
    hook = hooks.get('checkpoint') or {}
    usual = dict(by_epoch=by_epoch, save_last=True, filename_tmpl=None, out_dir=None)
    odd = [key for key, value in usual.items() if hook.get(key, value) != value]
    if odd:
        raise ConfigError(
            f'{what}: its last checkpoint would not be where a stage looks for it',
            expected={key: usual[key] for key in odd},
            actual={key: hook[key] for key in odd},
            fix='default_hooks.checkpoint without ' + ', '.join(odd),
        )
    begin = cfg.train_cfg.get('val_begin', 1)
    if begin > steps:
        raise ConfigError(
            f'{what}: it is never validated',
            actual=f'val_begin={begin}, of {steps}',
            fix=f'train_cfg.val_begin={steps}',
        )


def _backends(visualizer: Any) -> list[Any]:
    found = (visualizer or {}).get('vis_backends') or []
    return [found] if isinstance(found, Mapping) else list(found)


def count_in_iterations(cfg: Config) -> None:
    """Tell the hooks of a training that is counted in iterations so, as mmengine wants
    it; others stay."""
    if 'max_iters' in (cfg.get('train_cfg') or {}):
        hooks = dict(cfg.get('default_hooks') or {})
        for name, kind, key in (
            ('checkpoint', 'CheckpointHook', 'by_epoch'),
            ('logger', 'LoggerHook', 'log_metric_by_epoch'),
        ):
            hooks[name] = {**(hooks.get(name) or {'type': kind}), key: False}
        cfg.default_hooks = hooks


def write_config(path: Path, cfg: Config) -> None:
    """Write a config, unless it is there."""
    text = cfg.pretty_text
    if not path.is_file() or path.read_text(errors='replace') != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())


def settings_of(config: str, folder: Path) -> dict[str, str]:
    """`settings_in` a config file of the repository."""
    return settings_in(read_config(str(ROOT / config)), folder)


def settings_in(cfg: Config, folder: Path) -> dict[str, str]:
    """All that a config says of what comes out, by name. Where its files lie does not
    matter; of weights that it starts from, what they hold does."""
    text = json.dumps(cfg.to_dict(), default=str)
    starts = {
        name: source_of(json.loads(path))
        for name, path in leaves(json.loads(text))
        if name == 'load_from' or name.endswith('init_cfg.checkpoint')
        if path != 'null' and Path(json.loads(path)).is_file()
    }
    placed = json.loads(text.replace(str(folder), 'WORK_DIR'))
    shown = tuple(f'{name}.' for name in _SHOWN)
    told = {k: v for k, v in leaves(placed) if not f'{k}.'.startswith(shown)}
    return {**told, **starts}


def leaves(value: Any, where: str = '') -> Iterator[tuple[str, str]]:
    """Names, with dots, and json of all values in nested dicts."""
    if not isinstance(value, Mapping) or not value:
        yield where, json.dumps(value)
        return
    for key, inner in value.items():
        yield from leaves(inner, f'{where}.{key}' if where else key)


def source_of(checkpoint: str) -> str:
    """What tells a given checkpoint from others: its content, or its address."""
    if '://' in checkpoint:
        return checkpoint
    return hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:16]


def stage_of(cfg: Config, config: Path, folder: Path, **more: Any) -> Stage:
    """The stage that trains a config.

    Args:
        cfg: The config.
        config: Its file.
        folder: Its work dir.
        **more: Other arguments of `Stage`; `name` among them.
    """
    steps, by_epoch = steps_of(cfg, more['name'])
    check_is_kept(cfg, more['name'])
    length = len(Runner.build_dataloader(cfg.train_dataloader)) if by_epoch else 1
    return Stage(
        config=os.path.abspath(config),
        folder=folder,
        epochs=steps,
        total=steps * length,
        by_epoch=by_epoch,
        **more,
    )
