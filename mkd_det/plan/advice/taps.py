"""Find taps with which a config can be planned, where those that it has do not work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from ...config import DistillConfig
from ...errors import TapNotFoundError
from ...taps import Tap
from ..plan import HasModel, Plan
from ..refs import adapter_class


def taps_that_work(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> str:
    """Return taps with which the config can be planned.

    Those that adapters know to be better are tried first, then the whole backbone or
    neck in place of layers that a model does not have.

    Args:
        student: The student. It is left as it is.
        teachers: The teachers by name.
        config: The config that cannot be planned.

    Returns:
        What to write; empty if nothing better is known, or it does not work either.
    """
    models = {'student': student, **{n: t.model for n, t in teachers.items()}}
    for better in (_of_adapters(models, config), _of_parts(models, config)):
        if better != config and fits(student, teachers, better):
            return _changes(config, better)
    return ''


def containers_that_work(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> bool:
    """Return whether the config can be planned with the children of tapped lists.

    Args:
        student: The student. It is left as it is.
        teachers: The teachers by name.
        config: The config, with taps of lists of modules, which never fire.
    """
    models = {'student': student, **{n: t.model for n, t in teachers.items()}}

    def children(model: nn.Module, paths: list[str]) -> list[str]:
        modules = dict(model.named_modules())
        lists = (nn.ModuleList, nn.ModuleDict)
        return [f'{p}.*' if isinstance(modules.get(p), lists) else p for p in paths]

    better = _with_paths(models, config, children)
    return better != config and fits(student, teachers, better)


def _of_adapters(models: Mapping[str, Any], config: DistillConfig) -> DistillConfig:
    """Return the config with the taps that its adapters know to be better."""
    taps, own = dict(config.taps), {n: dict(t.taps) for n, t in config.teachers.items()}
    for name, adapter in config.adapters.items():
        owner, _, key = adapter.teacher.rpartition('.')
        suggest = adapter_class(name, adapter).suggest_taps
        if owner not in models:
            continue
        ours, theirs = suggest(models['student']), suggest(models[owner])
        if not ours or not theirs:
            continue
        taps[adapter.student] = ours
        own[owner].pop(key, None)
        if adapter.student != key or theirs != ours:
            own[owner][key] = theirs
    given = {n: replace(t, taps=own[n]) for n, t in config.teachers.items()}
    return replace(config, taps=taps, teachers=given)


def _of_parts(models: Mapping[str, Any], config: DistillConfig) -> DistillConfig:
    """Return the config with whole parts in place of layers that a model has not."""

    def whole(model: nn.Module, paths: list[str]) -> list[str]:
        parts = {path.partition('.')[0] for path in paths}
        try:
            Tap(tuple(path.partition(':')[0] for path in paths)).resolve(model)
        except TapNotFoundError:
            return list(parts) if parts in ({'backbone'}, {'neck'}) else paths
        return paths

    return _with_paths(models, config, whole)


def _with_paths(
    models: Mapping[str, Any],
    config: DistillConfig,
    change: Callable[[nn.Module, list[str]], list[str]],
) -> DistillConfig:
    """Return the config with the paths of every tap of every model changed."""

    def changed(model: nn.Module, tap: Any) -> Any:
        paths = [tap] if isinstance(tap, str) else list(tap)
        found = change(model, paths)
        if found == paths:
            return tap
        return found[0] if len(found) == 1 else tuple(found)

    teachers = {}
    for name, teacher in config.teachers.items():
        own = dict(teacher.taps)
        for key, tap in {**config.taps, **own}.items():
            better = changed(models[name], tap)
            if better != tap:
                own[key] = better
        teachers[name] = replace(teacher, taps=own)
    taps = {key: changed(models['student'], tap) for key, tap in config.taps.items()}
    return replace(config, taps=taps, teachers=teachers)


def _changes(config: DistillConfig, better: DistillConfig) -> str:
    """Return in words of a config which taps are others."""
    lines = [
        f'taps=dict({key}={_written(value)})'
        for key, value in better.taps.items()
        if value != config.taps.get(key)
    ]
    lines += [
        f'teachers.{owner}.taps=dict({key}={_written(value)})'
        for owner, teacher in better.teachers.items()
        for key, value in teacher.taps.items()
        if value != config.teachers[owner].taps.get(key)
    ]
    return '\n'.join(lines)


def _written(tap: Any) -> str:
    return repr(tap if isinstance(tap, str) else list(tap))


def fits(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> bool:
    """Return whether a config can be planned, by planning it.

    Args:
        student: The student. It is left as it is.
        teachers: The teachers by name.
        config: The config.
    """
    return error_of_plan(student, teachers, config) is None


def error_of_plan(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> Exception | None:
    """Return the error that planning a config ends with, or None.

    Args:
        student: The student. It is left as it is.
        teachers: The teachers by name.
        config: The config.
    """
    try:
        plan_config(student, teachers, config)
    except Exception as error:  # of a model that a recipe cannot run, any
        return error
    return None


def plan_config(
    student: BaseModel, teachers: Mapping[str, HasModel], config: DistillConfig
) -> Plan:
    """Return the plan of a config; its branches are detached again.

    Args:
        student: The student. It is left as it is.
        teachers: The teachers by name.
        config: The config.

    Raises:
        MkdError: The config does not fit the models.
    """
    from ..planner import Planner  # which imports this file

    planner = Planner(student, teachers, config)
    with torch.random.fork_rng(devices=[]):
        try:
            return planner.build(suggest=False)
        finally:
            planner.detach_branches()
