#!/usr/bin/env python
"""Plan every recipe for every family of mmdet: docs/results/pairs.*.

    python benchmarks/pairs.py

A family is a kind of detector with its kinds of heads; one config of mmdet stands for
it. The model is its own teacher: what a recipe compares without a trainable adapter
must then be 0. Nothing is trained or downloaded. Families that are in the file already
are left out; `--again` plans them anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor, nn

import mkd_det  # noqa: F401
from mkd_det.config import ProbeConfig
from mkd_det.errors import MkdError, ProbeError
from mkd_det.io.atomic import write_atomically
from mkd_det.io.json_files import write_json
from mkd_det.plan.advice.fitting import has_needs, plan_recipe
from mkd_det.plan.advice.pair import Pair
from mkd_det.plan.plan import Plan
from mkd_det.plan.recipes import Recipe, packaged_recipes

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
# Sizes of images that are tried, in pixels.
SIZES = (128, 256, 384)
# Words of a config's name that make it the better example of its family.
PREFERRED = ('_1x_', 'r50', 'fpn', 'coco')
# Folders of parts of these: bases, backbones, schedules, trackers' parts, data sets.
LEFT_OUT = (
    *('_base_', 'common', 'legacy_1.x', 'misc', 'resnest', 'scratch', 'gn', 'gn+ws'),
    *('strong_baselines', 'simple_copy_paste'),
)
PARTS = ('neck', 'rpn_head', 'bbox_head', 'mask_head', 'roi_head')
HEADS = ('rpn_head', 'bbox_head', 'mask_head', 'panoptic_head', 'roi_head')
TABLE = """# Every family with every recipe

What can be planned for a detector of mmdet and a teacher of the same kind, one config
for each kind of detector and heads, where simple with a quarter of the channels.
Command: `python benchmarks/pairs.py`, raw: [pairs.json](pairs.json).

- **works**: the recipes of this package whose plan passes all checks; heads are read
  as their own predictions are.
- **at itself**: the largest term with the model as its own teacher, on an image of
  noise. Terms behind an adapter or branch that is trained are left out; without any
  other, there is no figure.
- **refused**: recipes for this kind of head that cannot be planned, and why. Recipes
  that need another kind of head are left out.

Left out are models that read words beside images (GLIP, Grounding DINO): they need a
language model; their heads are refused, and features of neck and backbone are not. Of
trackers, the detector is one of these.

"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=Path('docs/results'))
    parser.add_argument('--again', action='store_true', help='plan everything anew')
    parser.add_argument('--only', default='', help='families whose config has this')
    return parser.parse_args(argv)


def families() -> dict[str, Config]:
    """Return a config for each kind of detector and heads, by its name."""
    best: dict[tuple[str, str], Path] = {}
    for file in sorted(CONFIGS.glob('*/*.py'), key=_preference):
        if file.parent.name not in LEFT_OUT:
            best.setdefault((file.parent.name, file.stem.split('_')[0]), file)
    found: dict[tuple[str, ...], tuple[str, Config]] = {}
    own = sorted(best.items(), key=lambda item: _is_variant(*item[0]))
    for _, file in own:
        model = _model_of(file)
        if model is not None:
            name = f'{file.parent.name}/{file.stem}'
            found.setdefault(_kind(model), (name, model))
    return dict(sorted(found.values(), key=lambda item: item[0]))


def _preference(file: Path) -> tuple[int, int, str]:
    missing = sum(word not in file.stem for word in PREFERRED)
    return missing, len(file.stem), file.stem


def _is_variant(folder: str, detector: str) -> bool:
    """Whether a folder holds something else than the detector in its own form."""
    return folder.replace('_', '') != detector.replace('-', '')


def _model_of(file: Path) -> Config | None:
    """Return the model of a config; None where it is no detector of images."""
    try:
        model = Config.fromfile(str(file)).get('model')
    except Exception:  # of a package that is not installed
        return None
    if not isinstance(model, Mapping) or model.get('language_model'):
        return None
    model = model.get('detector') if 'tracker' in model else model
    cls = MODELS.get(str((model or {}).get('type')))
    return model if isinstance(cls, type) and issubclass(cls, BaseDetector) else None


def _kind(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the types of a detector and of its heads, the parts of RoI heads too."""
    heads = [model.get(name) for name in HEADS]
    roi = model.get('roi_head') or {}
    heads += [roi.get(name) for name in ('bbox_head', 'mask_head', 'grid_head')]
    return (model['type'], *(_type(head) for head in heads))


def _type(head: Any) -> str:
    first = head[0] if isinstance(head, (list, tuple)) and head else head
    return str(first.get('type')) if isinstance(first, Mapping) else ''


def noise(size: int, model: nn.Module) -> Tensor:
    """Return an image of noise, the same for every model."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, size, size, generator=generator)


def plan_family(model: Config) -> dict[str, Any]:
    """Plan every recipe for a model and its copy.

    Args:
        model: The config of the model.

    Returns:
        By recipe: `works`, `value` at itself, or `error`, `why` and `fix`. Recipes that
        need something else are not in it.
    """
    plain = _without_weights(model)
    try:
        found = _plan_all_recipes(_narrow(plain))
    except Exception:  # its parts do not fit together
        found = None
    stopped = ProbeError.__name__
    if found and not any(r.get('error') == stopped for r in found.values()):
        return found
    return _plan_all_recipes(plain)


def _plan_all_recipes(model: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    student = MODELS.build(ConfigDict(model)).eval()
    student.init_weights()
    settle_norms(student)
    teacher = deepcopy(student).eval().requires_grad_(False)
    return {
        recipe.name: try_recipe(recipe, student, teacher)
        for recipe in packaged_recipes()
        if has_needs(recipe.needs, student, teacher)
    }


def settle_norms(model: Any) -> None:
    """Give batch norms the statistics of noise, as a training would.

    Without, activations of a deep model that has just been initialised overflow.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    # One that cannot run on such images is told by the plan.
    with suppress(Exception), torch.no_grad():
        model.extract_feat(noise(SIZES[1], model))
    for norm, momentum in zip(norms, momenta):
        norm.eval()
        norm.momentum = momentum


def try_recipe(recipe: Recipe, student: Any, teacher: nn.Module) -> dict[str, Any]:
    """Plan one recipe; return what came of it."""
    error: MkdError | None = None
    for size in SIZES:
        probe = ProbeConfig(function=partial(noise, size))
        try:
            plan = plan_recipe(recipe, Pair(student, teacher, (size, size), probe))
        except ProbeError as failed:
            error = error or failed
        except MkdError as failed:
            error = failed
            break
        else:
            return dict(works=True, value=at_itself(plan), size=size)
    assert error is not None
    why = dict(error=type(error).__name__, why=error.message, fix=error.fix)
    return dict(works=False, **why, actual=str(error.actual or ''))


def at_itself(plan: Plan) -> float | None:
    """Return the largest term of a model that is its own teacher.

    Args:
        plan: Its plan.

    Returns:
        None where every term reads what a trainable part yields.
    """
    plain = [
        abs(value)
        for term in plan.terms.values()
        if not any(_is_trained(plan, ref.owner) for ref in term.refs.values())
        for value in term.tried.values()
    ]
    return max(plain, default=None)


def _is_trained(plan: Plan, owner: str) -> bool:
    """Whether what an owner yields depends on weights of the distillation."""
    if owner in plan.taps:  # a model
        return False
    node = plan.adapters.get(owner)
    return node is None or any(True for _ in node.adapter.parameters())


def _without_weights(model: Any) -> Any:
    """Return a model's config that starts from nothing."""
    if isinstance(model, Mapping):
        pretrained = ('Pretrained', 'mmdet.Pretrained')
        return {
            key: None
            if _type(value) in pretrained or key == 'teacher_ckpt'
            else _without_weights(value)
            for key, value in model.items()
            if key != 'pretrained'
        }
    if isinstance(model, (list, tuple)):
        return type(model)(map(_without_weights, model))
    return model


def _narrow(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model's config with a quarter of the channels, where that is simple."""
    backbone, neck = model.get('backbone') or {}, model.get('neck') or {}
    widths = neck.get('in_channels')
    if backbone.get('type') != 'ResNet' or not widths or 'encoder' in model:
        return model
    fewer = [w // 4 for w in widths] if isinstance(widths, list) else widths // 4
    parts = {name: _quarter(part) for name, part in model.items() if name in PARTS}
    parts['neck'] = {**_quarter(neck), 'in_channels': fewer}
    return {**model, **parts, 'backbone': {**backbone, 'base_channels': 16}}


def _quarter(value: Any, key: str = '') -> Any:
    """Return a part of a config with a quarter of the usual numbers of channels."""
    if isinstance(value, Mapping):
        return {name: _quarter(item, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_quarter(item, key) for item in value)
    return value // 4 if key.endswith('channels') and value in (256, 1024) else value


def table(results: Mapping[str, Any]) -> str:
    """Return the page: families, what works, what is refused and why."""
    planned = {n: r for n, r in results.items() if 'recipes' in r}
    rows = [_row(name, result['recipes']) for name, result in planned.items()]
    count = sum(
        any(r['works'] for r in p['recipes'].values()) for p in planned.values()
    )
    cells = [r for p in planned.values() for r in p['recipes'].values()]
    values = [r['value'] for r in cells if r.get('value') is not None]
    page = [
        TABLE + f'{len(planned)} families, {count} with at least one recipe;'
        f' {sum(r["works"] for r in cells)} plans work,'
        f' {sum(not r["works"] for r in cells)} are refused.'
        f' The largest term at itself is {max(values, default=0):.1g}.\n',
        '| family | works | at itself | refused |',
        '|---|---|---|---|',
        *rows,
    ]
    failed = [f'`{name}` ({r["error"]})' for name, r in results.items() if 'error' in r]
    if failed:
        page.append(f'\nNot built here: {", ".join(failed)}.')
    return '\n'.join(page) + '\n'


def _row(name: str, recipes: Mapping[str, Any]) -> str:
    works = [recipe for recipe, result in recipes.items() if result['works']]
    values = [recipes[r]['value'] for r in works if recipes[r]['value'] is not None]
    reasons: dict[str, list[str]] = {}
    for recipe, result in recipes.items():
        if not result['works']:
            why = result['why'].rpartition('Error: ')[2].replace('|', '/')
            reasons.setdefault(why.split("': ")[-1], []).append(f'`{recipe}`')
    refused = [f'{", ".join(names)}: {why}' for why, names in reasons.items()]
    figure = f'{max(values):.1g}' if values else ''
    names = ', '.join(f'`{recipe}`' for recipe in works)
    return f'| `{name}` | {names} | {figure} | {"; ".join(refused)} |'


def plan_all(file: Path, again: bool, only: str) -> Iterator[str]:
    """Plan all families, write after each, and yield lines about them."""
    results = json.loads(file.read_text()) if file.is_file() else {}
    wanted = {name: model for name, model in families().items() if only in name}
    if again:
        results = {name: r for name, r in results.items() if name not in wanted}
    for index, (name, model) in enumerate(wanted.items(), start=1):
        if 'recipes' in results.get(name, {}):
            continue
        start = time.monotonic()
        try:
            results[name] = dict(recipes=plan_family(model))
        except Exception as error:  # a package or a file of this model is missing
            results[name] = dict(error=type(error).__name__)  # its text may name paths
        write_json(file, dict(sorted(results.items())))
        recipes = results[name].get('recipes', {}).values()
        works = f'{sum(r["works"] for r in recipes)} of {len(recipes)} recipes'
        seconds = time.monotonic() - start
        yield f'{index}/{len(wanted)} {name}: {works}, {seconds:.0f} s'


def main(argv: Sequence[str] | None = None) -> int:
    """Plan all, print progress, write the table; return the exit code."""
    args = parse_args(argv)
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    init_default_scope('mmdet')
    file = args.out / 'pairs.json'
    for line in plan_all(file, args.again, args.only):
        print(line, flush=True)
    page = args.out / 'pairs.md'
    results = json.loads(file.read_text(encoding='utf-8'))
    write_atomically(page, table(results).encode())
    print(f'{file}, {page}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
