"""Caveats of a row: differences from the base beyond how the student is taught."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner.utils import set_random_seed

from ...distiller.model import Distiller
from ...registry import type_name
from ...training.runtime import DEFAULT_HOOKS, build_model, is_distill
from ..runs.settings import flatten

# Kinds of differences, with the settings that they cover. The first match counts.
_KINDS = (
    ('another batch size', ('train_dataloader.batch_size',)),
    ('other training data', ('train_dataloader',)),
    ('another schedule', ('train_cfg', 'optim_wrapper', 'param_scheduler')),
    ('another schedule', ('auto_scale_lr',)),
    ('another validation', ('val_dataloader', 'val_evaluator', 'val_cfg')),
    ('other settings of the student', ('student',)),
    ('other randomness', ('randomness', 'env_cfg')),
    ('other initial weights', ('load_from',)),
    ('other hooks', ('custom_hooks', 'default_hooks')),
)
# Hooks that observe a training and do not change it.
_OBSERVERS = (
    'AttentionMapHook',
    'DifficultyHook',
    'GradientClipHook',
    'GradientShareHook',
)
# Differences of each kind that are written out.
_SHOWN = 4


@dataclass(frozen=True)
class InitialStudent:
    """A student before its first step.

    Args:
        layers: Hash of the names, shapes and types of its tensors.
        weights: Hash of their values.
        params: Number of parameters.
    """

    layers: str
    weights: str
    params: int


def initial_student(cfg: Config, seed: int) -> InitialStudent:
    """Return the student of a training as the runner initialises it.

    Args:
        cfg: Config of the training.
        seed: Its seed.
    """
    set_random_seed(seed)
    model = build_model(cfg)
    model.init_weights()
    if isinstance(model, Distiller):
        for branch in model.branches.values():
            branch.detach()
        model = model.student
    layers, weights = hashlib.sha256(), hashlib.sha256()
    for key, value in model.state_dict().items():
        layers.update(f'{key} {tuple(value.shape)} {value.dtype} '.encode())
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        weights.update(data.numpy().tobytes())
    params = sum(parameter.numel() for parameter in model.parameters())
    return InitialStudent(layers.hexdigest(), weights.hexdigest(), params)


def find_caveats(
    cfg: Config,
    base: Config,
    students: Mapping[int, tuple[InitialStudent, InitialStudent]],
) -> list[str]:
    """Describe in which ways a row and the base are not comparable.

    Args:
        cfg: Config of the row.
        base: Config of the base.
        students: Initial students of the row and of the base, by seed.
    """
    inherited = _inherited(cfg)
    caveats = [inherited] if inherited else []
    unequal = [seed for seed, (own, other) in students.items() if own != other]
    own, other = next(iter(students.values()))
    if own.layers != other.layers:
        caveats.append(
            f'another student: {own.params:,} parameters, the base has {other.params:,}'
        )
    elif unequal and not inherited:
        seeds = ', '.join(map(str, unequal))
        caveats.append(f'the student has other initial weights (seeds {seeds})')
    return [*caveats, *_differences(cfg, base, own.layers == other.layers)]


def _inherited(cfg: Config) -> str:
    """Describe the weights that the student copies from a teacher at its start."""
    inherit = cfg.model.get('inherit') if is_distill(cfg) else None
    if not inherit:
        return ''
    modules = inherit.get('modules') if isinstance(inherit, Mapping) else None
    listed = ', '.join(modules) if isinstance(modules, (list, tuple)) else modules
    teacher = inherit.get('teacher', 't') if isinstance(inherit, Mapping) else inherit
    return f'inherited weights: {listed or "of the teacher"} from teacher {teacher}'


def _differences(cfg: Config, base: Config, same_layers: bool) -> list[str]:
    """List settings of training and validation that differ.

    Settings of the student count only if both students have the same layers.
    """
    ours, theirs = (_settings(one) for one in (cfg, base))
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys([*theirs, *ours]):
        same = ours.get(name) == theirs.get(name)
        if same or (name.startswith('student') and not same_layers):
            continue
        kind = next((k for k, roots in _KINDS if _below(name, roots)), None)
        if kind:
            before, now = (_short(one.get(name)) for one in (theirs, ours))
            found.setdefault(kind, []).append(f'{name} {now}, the base has {before}')
    return [
        f'{kind}: {"; ".join(texts[:_SHOWN])}'
        + ('; ...' if len(texts) > _SHOWN else '')
        for kind, texts in found.items()
    ]


def _below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f'{root}.') for root in roots)


def _settings(cfg: Config) -> dict[str, str]:
    """Return the settings that must be equal, as json by name."""
    plain = _without_scopes(json.loads(json.dumps(cfg.to_dict(), default=str)))
    # How often a training is validated does not change it.
    plain.get('train_cfg', {}).pop('val_interval', None)
    model = plain.get('model', {})
    plain['student'] = model.get('student', model)
    # Hooks that only observe, and those that a distillation adds.
    for name in ('logger', 'checkpoint', 'timer', 'visualization', *DEFAULT_HOOKS):
        plain.get('default_hooks', {}).pop(name, None)
    hooks = plain.get('custom_hooks') or []
    plain['custom_hooks'] = [
        hook for hook in hooks if type_name(hook.get('type')) not in _OBSERVERS
    ]
    return dict(flatten(_indexed(plain)))


def _without_scopes(value: Any) -> Any:
    """Remove the origin that mmengine adds to parts of another package's config."""
    if isinstance(value, Mapping):
        return {k: _without_scopes(v) for k, v in value.items() if k != '_scope_'}
    return [_without_scopes(v) for v in value] if isinstance(value, list) else value


def _indexed(value: Any) -> Any:
    """Turn lists of dicts into dicts by index, so that differences have a name."""
    if isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
        value = {str(index): inner for index, inner in enumerate(value)}
    if isinstance(value, Mapping):
        return {key: _indexed(inner) for key, inner in value.items()}
    return value


def _short(text: str | None) -> str:
    if text is None:
        return 'nothing'
    return text if len(text) <= 40 else f'{text[:37]}...'
