"""In what a row differs from the base beyond how it is taught: that is told."""

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
from ..runs.training import leaves

# What is looked at, by what is said of it; the first that fits counts.
_KINDS = (
    ('another batch size', ('train_dataloader.batch_size',)),
    ('other training data', ('train_dataloader',)),
    ('another schedule', ('train_cfg', 'optim_wrapper', 'param_scheduler')),
    ('another schedule', ('auto_scale_lr',)),
    ('measured otherwise', ('val_dataloader', 'val_evaluator', 'val_cfg')),
    ('the student is told otherwise', ('student',)),
    ('other randomness', ('randomness', 'env_cfg')),
    ('starts from other weights', ('load_from',)),
    ('other hooks', ('custom_hooks', 'default_hooks')),
)
# Hooks that change nothing of what is learned.
_WATCHING = ('AttentionMapHook', 'DifficultyHook', 'GradientShareHook')
# Differences that are written out, of each kind.
_SHOWN = 4


@dataclass(frozen=True)
class Start:
    """A student before its first step.

    Args:
        layers: Of the names and shapes of its tensors.
        weights: Of all their bits.
        params: How many parameters.
    """

    layers: str
    weights: str
    params: int


def start_of(cfg: Config, seed: int) -> Start:
    """How the student of a training begins, as the runner would make it.

    Args:
        cfg: The training.
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
        bits = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        weights.update(bits.numpy().tobytes())
    params = sum(parameter.numel() for parameter in model.parameters())
    return Start(layers.hexdigest(), weights.hexdigest(), params)


def marks_of(
    cfg: Config, base: Config, starts: Mapping[int, tuple[Start, Start]]
) -> list[str]:
    """All that must be known to read a row rightly, in words.

    Args:
        cfg: Of the row.
        base: Of the student alone.
        starts: By seed, of the row and of the base.
    """
    marks = [inherited] if (inherited := _inherited(cfg)) else []
    unequal = [seed for seed, (own, other) in starts.items() if own != other]
    own, other = next(iter(starts.values()))
    if own.layers != other.layers:
        marks.append(
            f'another student: {own.params:,} parameters, the base has {other.params:,}'
        )
    elif unequal and not inherited:
        seeds = ', '.join(map(str, unequal))
        marks.append(f'the student begins with other weights (seeds {seeds})')
    return [*marks, *_differences(cfg, base, own.layers == other.layers)]


def _inherited(cfg: Config) -> str:
    """What the student takes over from a teacher, before it is trained."""
    told = cfg.model.get('inherit') if is_distill(cfg) else None
    if not told:
        return ''
    modules = told.get('modules') if isinstance(told, Mapping) else None
    what = ', '.join(modules) if isinstance(modules, (list, tuple)) else modules
    teacher = told.get('teacher', 't') if isinstance(told, Mapping) else told
    return f'inherited weights: {what or "of the teacher"} from teacher {teacher}'


def _differences(cfg: Config, base: Config, one_student: bool) -> list[str]:
    """Settings of training and validation that the two do not share; those of the
    student where it is one and the same."""
    ours, theirs = (_settings(one) for one in (cfg, base))
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys([*theirs, *ours]):
        same = ours.get(name) == theirs.get(name)
        if same or (name.startswith('student') and not one_student):
            continue
        kind = next((k for k, roots in _KINDS if _below(name, roots)), None)
        if kind:
            before, now = (_short(one.get(name)) for one in (theirs, ours))
            found.setdefault(kind, []).append(f'{name} {now}, the base has {before}')
    return [
        f'{kind}: {"; ".join(told[:_SHOWN])}' + ('; ...' if len(told) > _SHOWN else '')
        for kind, told in found.items()
    ]


def _below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f'{root}.') for root in roots)


def _settings(cfg: Config) -> dict[str, str]:
    plain = _without_scopes(json.loads(json.dumps(cfg.to_dict(), default=str)))
    plain.get('train_cfg', {}).pop('val_interval', None)  # when is looked, no more
    model = plain.get('model', {})
    plain['student'] = model.get('student', model)
    # What only looks on, and what a distillation has besides.
    for name in ('logger', 'checkpoint', 'timer', 'visualization', *DEFAULT_HOOKS):
        plain.get('default_hooks', {}).pop(name, None)
    hooks = plain.get('custom_hooks') or []
    plain['custom_hooks'] = [
        h for h in hooks if type_name(h.get('type')) not in _WATCHING
    ]
    return dict(leaves(_indexed(plain)))


def _without_scopes(value: Any) -> Any:
    """mmengine notes in all that comes from another package's config where it comes
    from; it is the same setting."""
    if isinstance(value, Mapping):
        return {k: _without_scopes(v) for k, v in value.items() if k != '_scope_'}
    return [_without_scopes(v) for v in value] if isinstance(value, list) else value


def _indexed(value: Any) -> Any:
    """Lists of dicts as dicts, by place: what differs in them has a name then."""
    if isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
        value = {str(place): inner for place, inner in enumerate(value)}
    if isinstance(value, Mapping):
        return {key: _indexed(inner) for key, inner in value.items()}
    return value


def _short(text: str | None) -> str:
    if text is None:
        return 'nothing'
    return text if len(text) <= 40 else f'{text[:37]}...'
