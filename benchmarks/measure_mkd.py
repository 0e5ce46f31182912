#!/usr/bin/env python
"""Measure M-KD, each of its parts and the methods of others on three data sets.

    python benchmarks/measure_mkd.py --weights FOLDER

FOLDER holds the teachers gfl_r18-w64_bccd.pth, and likewise cards and pcb: the last
checkpoints of `mkd-det train` with their configs, and gfl_r18-w64_bccd_1.pth and so on,
trained with `randomness.seed=1`. Each method is tried with eight settings on the
validation images of all data sets; then what was best for all together, by the mean
share of the gap to the teacher, trains with all seeds under the first teacher, and
under the second, and is tested (benchmarks/protocol.py). M-KD with a part left out, and
longer trainings, have the settings of the row that they belong to. Teachers are read
from a cache. Writes docs/results/mkd_<data>. Finished trainings are skipped,
interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gfl_pairs
import protocol
from mmengine.config import Config

from mkd_det.cli.common import guard
from mkd_det.errors import ConfigError
from mkd_det.plan.recipes import apply_recipe, read_recipe

BASE = 'student alone'
WHOLE = 'M-KD'
NECK = dict.fromkeys(('loss_relation', 'loss_attention', 'loss_feature'))
EVERY = dict(NECK, loss_soft=None)
# Terms of the recipe that a row keeps, and their weights where these are others.
PARTS: dict[str, Mapping[str, float | None]] = {
    'soft outputs': dict(loss_soft=0.8),
    'attention': dict(loss_attention=20.0),
    'relations': dict(loss_relation=None),
    'relations of regions': dict(loss_regions=None),
    WHOLE: EVERY,
    'M-KD and relations of regions': dict(EVERY, loss_regions=None),
}
# A term that no recipe has; on the cards it pulls about as hard as the task.
REGIONS = dict(
    type='RegionRelationKD', student='fpn', teacher='t.fpn', share=1.0, weight=3.0
)
# M-KD with a part left out, with the settings of the whole.
LESS: dict[str, Mapping[str, float | None]] = {
    'M-KD without soft outputs': NECK,
    'M-KD, features alone': dict(loss_feature=None),
    'M-KD, features alone, without exploration': dict(loss_feature=None),
    'M-KD, features alone, without guidance': dict(loss_feature=None),
    'M-KD without exploration': EVERY,
    'M-KD, faster convolutions instead of exploration': EVERY,
    'M-KD, features without guidance': EVERY,
    'M-KD, features where the teacher is active': EVERY,
}
# The convolutions that the branch stands beside learn twice as fast instead.
FASTER = 'M-KD, faster convolutions instead of exploration'
# A linear layer in place of the guidance layer.
LINEAR = (
    'M-KD, features without guidance',
    'M-KD, features alone, without guidance',
)
# Half of the weight of each position by the teacher's attention.
ATTEND = 'M-KD, features where the teacher is active'
# Longer trainings: the row that they belong to, and how many times as long.
LONGER = {
    'student alone, twice as long': (BASE, 2),
    'student alone, 3 times as long': (BASE, 3),
    'M-KD, 3 times as long': (WHOLE, 3),
}
# Recipes of others.
PEERS = {
    name: f'mkd_det::_base_/recipes/{name.lower()}_dense.py'
    for name in ('CWD', 'PKD', 'MGD', 'FGD', 'LD', 'CrossKD')
}
# Where CrossKD enters the head.
INNER = ['bbox_head.cls_convs.0', 'bbox_head.reg_convs.0']
TRIED = (BASE, *PARTS, *PEERS)
ROWS = (*TRIED, *LONGER, *LESS)
# 'weight' is a factor of the weights of all terms; without terms, of the weight decay.
# 'ema' averages the weights of the last steps; 'cosine' lets the rate fall as a cosine.
STAGES = (
    protocol.Stage('lr', (3e-3, 5e-3, 1e-2, 2e-2)),
    protocol.Stage('weight', (0.5, 2.0)),
    protocol.Stage('ema', (1,), start=0),
    protocol.Stage('cosine', (1,), start=0),
)
# Of a hundred steps, a quarter of a short training on these data.
EMA = dict(type='EMAHook', momentum=0.01, update_buffers=True)
COSINE = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which data and rows, and where the teachers are."""
    parser = protocol.make_parser(__doc__, 'work_dirs/mkd')
    parser.set_defaults(seeds=[0, 1, 2, 3, 4])
    add = parser.add_argument
    add('--weights', type=Path, required=True)
    add('--data', nargs='+', default=list(gfl_pairs.DATA), choices=gfl_pairs.DATA)
    add('--rows', nargs='+', default=list(ROWS), choices=list(ROWS))
    return parser.parse_args(argv)


def make_row(
    args: argparse.Namespace,
    data: str,
    row: str,
    teacher: int,
    settings: protocol.Settings,
) -> Config:
    """Return the config of a row, with the teacher of a seed and some settings."""
    row, times = LONGER.get(row, (row, 1))
    if row == BASE:
        cfg = gfl_pairs.alone(args.work_dir, data)
        cfg.optim_wrapper.optimizer.weight_decay *= settings['weight']
    else:
        file = gfl_pairs.teacher_file(args.weights, data, teacher)
        cfg = gfl_pairs.taught(args.work_dir, data, file)
        if row in PEERS:
            recipe = deepcopy(read_recipe(PEERS[row]).arguments)
            if 'inner' in recipe['taps']:  # heads of these pairs have two layers
                recipe['taps']['inner'] = INNER
            teachers = cfg.model.teachers.to_dict()
            for term in recipe['terms'].values():
                if term['type'] == 'SoftOutputKD':  # as that of M-KD
                    term['balance'] = 1.0
            cfg.model = apply_recipe(cfg.model.student, teachers, recipe)
        else:
            cfg.model.terms.loss_regions = REGIONS
            keep_terms(cfg.model, {**PARTS, **LESS}[row])
            leave_out(cfg, row)
        for term in cfg.model.terms.values():
            term.weight = settings['weight'] * term.get('weight', 1.0)
    cfg.optim_wrapper.optimizer.lr = settings['lr']
    protocol.lengthen(cfg, times)
    if settings['ema']:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), EMA]
    if settings['cosine']:
        end = cfg.train_cfg.max_epochs
        cosine = dict(COSINE, T_max=end, end=end)
        cfg.param_scheduler = [cfg.param_scheduler[0], cosine]
    return cfg


def keep_terms(model: Any, kept: Mapping[str, float | None]) -> None:
    """Leave out the other terms of a distiller's config, and what only they read."""
    for name in list(model.terms):
        if name not in kept:
            del model.terms[name]
    for name, weight in kept.items():
        if weight is not None:
            model.terms[name].weight = weight
    if 'loss_feature' not in kept:
        model.adapters, model.branches = {}, {}


def leave_out(cfg: Config, row: str) -> None:
    """Leave out exploration, or the guidance layer, where the row says so."""
    model = cfg.model
    if 'without exploration' in row or row == FASTER:
        model.adapters.guide_fpn.student, model.branches = 'fpn', {}
    if row == FASTER:
        faster = {'neck.fpn_convs': dict(lr_mult=2.0)}
        cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=faster)
    if row == ATTEND:
        model.terms.loss_feature.attend = 0.5
    if row in LINEAR:
        guide = model.adapters.guide_fpn
        model.adapters.guide_fpn = dict(
            type='LinearAlign', student=guide.student, teacher=guide.teacher
        )


def task(args: argparse.Namespace, data: str) -> protocol.Task:
    """Return the rows on a data set."""
    gfl_pairs.prepare(args.work_dir, data)

    def make(row: str, teacher: int = 0) -> protocol.Make:
        return partial(make_row, args, data, row, teacher)

    belongs = {row: of for row, (of, _) in LONGER.items()} | dict.fromkeys(LESS, WHOLE)
    also = {row: (belongs[row], make(row)) for row in args.rows if row in belongs}
    wanted = {BASE, *args.rows, *(row for row, _ in also.values())}
    rows = {row: make(row) for row in TRIED if row in wanted}
    for row in rows:
        if row != BASE:
            also[f'{row}, second teacher'] = row, make(row, teacher=1)
    out = args.out / f'mkd_{data}'
    place = protocol.Place(args.work_dir / data, out, args.devices, args.epochs)
    return protocol.Task(rows, place, also)


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Choose for all data sets together, and test on each."""
    args = parse_args(argv)
    longer = [row for row in args.rows if row in LONGER]
    if args.epochs and longer:
        raise ConfigError(
            '--epochs gives all rows the same length',
            actual=', '.join(longer),
            fix='--rows without them; or no --epochs',
        )
    tasks = [task(args, data) for data in args.data]
    protocol.measure(tasks, STAGES, args.seeds)


if __name__ == '__main__':
    raise SystemExit(main())
