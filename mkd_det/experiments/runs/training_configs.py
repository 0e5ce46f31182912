"""Reads, checks and writes the configs of an experiment's trainings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ...errors import ConfigError
from ...io.atomic import write_own
from ...registry import type_name
from .training_run import TrainingRun

# Checkpoints that the trainings of an experiment keep.
KEPT_CHECKPOINTS = 2


def training_budget(cfg: Config, title: str) -> tuple[int, bool]:
    """Return the length of a training, and whether it counts epochs.

    Args:
        cfg: Config of the training.
        title: Title of the training, for messages.

    Raises:
        ConfigError: The config does not say how long it trains.
    """
    loop = cfg.get('train_cfg') or {}
    for key, by_epoch in (('max_epochs', True), ('max_iters', False)):
        if isinstance(loop.get(key), int):
            return loop[key], by_epoch
    raise ConfigError(
        f'{title}: its config does not say how long it trains',
        expected='train_cfg.max_epochs or train_cfg.max_iters',
        actual=dict(loop) or None,
    )


def check_results_are_kept(cfg: Config, title: str) -> None:
    """Raise unless a training leaves the files that its result is read from.

    Args:
        cfg: Config of the training.
        title: Title of the training, for messages.

    Raises:
        ConfigError: It writes no log, no checkpoint at its end, or has no validation.
    """
    budget, by_epoch = training_budget(cfg, title)
    visualizer = cfg.get('visualizer')
    backends = [type_name(b.get('type')) for b in _vis_backends(visualizer)]
    if visualizer and 'LocalVisBackend' not in backends:
        raise ConfigError(
            f'{title}: its visualizer does not write scalars.json, from which metrics'
            ' are read',
            actual=backends or None,
            fix="vis_backends=[dict(type='LocalVisBackend'), ...]",
        )
    hooks = cfg.get('default_hooks') or {}
    for name in ('checkpoint', 'logger'):
        if name in hooks and hooks[name] is None:
            raise ConfigError(
                f'{title}: without its {name} hook there is no result to read',
                actual=f'default_hooks.{name}=None',
                fix=f'leave default_hooks.{name} out, or give it a long interval',
            )
    hook = hooks.get('checkpoint') or {}
    usual = dict(by_epoch=by_epoch, save_last=True, filename_tmpl=None, out_dir=None)
    odd = [key for key, value in usual.items() if hook.get(key, value) != value]
    if odd:
        raise ConfigError(
            f'{title}: its last checkpoint is not written to the usual place',
            expected={key: usual[key] for key in odd},
            actual={key: hook[key] for key in odd},
            fix='default_hooks.checkpoint without ' + ', '.join(odd),
        )
    begin = cfg.train_cfg.get('val_begin', 1)
    if begin > budget:
        raise ConfigError(
            f'{title}: it is never validated',
            actual=f'val_begin={begin}, of {budget}',
            fix=f'train_cfg.val_begin={budget}',
        )


def _vis_backends(visualizer: Any) -> list[Any]:
    found = (visualizer or {}).get('vis_backends') or []
    return [found] if isinstance(found, Mapping) else list(found)


def adapt_hooks_to_iterations(cfg: Config) -> None:
    """Make checkpoint and logger hooks count iterations if the training does."""
    if 'max_iters' in (cfg.get('train_cfg') or {}):
        hooks = dict(cfg.get('default_hooks') or {})
        for name, hook_type, key in (
            ('checkpoint', 'CheckpointHook', 'by_epoch'),
            ('logger', 'LoggerHook', 'log_metric_by_epoch'),
        ):
            hooks[name] = {**(hooks.get(name) or {'type': hook_type}), key: False}
        cfg.default_hooks = hooks


def limit_checkpoints(cfg: Config) -> None:
    """Keep two checkpoints where a config keeps all: one may be damaged.

    A config that says how many it keeps, or that has no checkpoint hook, stays as it
    is.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    own = hooks.get('checkpoint', {})
    if own is not None:
        own = own or dict(type='CheckpointHook', interval=1)
        hooks['checkpoint'] = {'max_keep_ckpts': KEPT_CHECKPOINTS, **own}
        cfg.default_hooks = hooks


def write_config(path: Path, cfg: Config) -> None:
    """Write a config, unless the file has that content already."""
    text = cfg.pretty_text
    if not path.is_file() or path.read_text(errors='replace') != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_own(path, text.encode())


def make_training_run(
    cfg: Config, config: Path, folder: Path, name: str, **more: Any
) -> TrainingRun:
    """Return the training of a config.

    Args:
        cfg: The config.
        config: Its file.
        folder: Work dir.
        name: Name of the training.
        **more: Other arguments of `TrainingRun`.

    Raises:
        ConfigError: The result could not be read.
    """
    budget, by_epoch = training_budget(cfg, name)
    check_results_are_kept(cfg, name)
    length = len(Runner.build_dataloader(cfg.train_dataloader)) if by_epoch else 1
    return TrainingRun(
        name=name,
        config=os.path.abspath(config),
        folder=folder,
        budget=budget,
        iterations=budget * length,
        by_epoch=by_epoch,
        **more,
    )
