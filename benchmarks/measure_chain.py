#!/usr/bin/env python
"""Measures chains of assistants, and writes docs/results/chain*.

    python tools/measure_chain.py cifar10 --weights FOLDER --seeds 0 1 2
    python tools/measure_chain.py rows --weights FOLDER --seeds 0 1 2
    python tools/measure_chain.py bccd --weights FOLDER --seeds 0 1 2
    python tools/measure_chain.py whole --seeds 0 --epochs 6

cifar10: ResNet-56, 44 and 32, as FOLDER has them (resnet56-cifar10jpeg.pth, ...), teach
ResNet-20. rows: a ResNet-20 of 1x3 filters, alone, by the teacher, by parallel
assistants. bccd: gfl_r18-w64_bccd.pth teaches, with one assistant and with two. whole:
as cifar10, but the teacher and all assistants are trained, too. Every row is a chain
of its own; what is done is not done again, what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chain_report
import measuring
from measure_cifar10 import BATCH, REVISED
from mkd_det.experiments.runs.training import settings_of
from mmengine.config import Config

from mkd_det.cli.common import main_guard
from mkd_det.configs import read_config
from mkd_det.errors import CheckpointFileError
from mkd_det.experiments.runs import (
    ROOT,
    Stage,
    StageError,
    display,
    read_json,
    run_stage,
    write_json,
)

TOOL = ROOT / 'tools' / 'train_chain.py'
CHAINS = 'configs/chain'
SQUARE = f'{CHAINS}/resnet56-44-32_dgkd_resnet20_cifar10.py'
ROWS_OF = f'{CHAINS}/resnet56-32_rows_resnet20_cifar10.py'
ONE = f'{CHAINS}/gfl_r18-w64-32_dgkd_r18-w16_bccd.py'
TWO = f'{CHAINS}/gfl_r18-w64-48-32_dgkd_r18-w16_bccd.py'


@dataclass(frozen=True)
class Row:
    """One chain, or a student alone.

    Args:
        chain: Its file; the config of a student that is trained alone.
        changes: Over the chain.
        last: Over its last stage.
        only: Members that are kept beside the root and the student; None for all.
        given: Members that another row has trained, and that row.
    """

    chain: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    only: Sequence[str] | None = None
    given: Mapping[str, str] = field(default_factory=dict)


KEEP, DROP = dict(keep_prob=0.75), dict(drop_exact=1)
DENSE_1, DENSE_2 = 'one assistant, dense', 'two assistants, dense'
EXPERIMENTS: dict[str, dict[str, Row]] = {
    'cifar10': {
        'from the teacher': Row(SQUARE, only=()),
        'TAKD': Row(SQUARE, {'guides': 'previous'}),
        'DGKD': Row(SQUARE),
        'DGKD, each kept with 0.75': Row(SQUARE, last=dict(sampling=KEEP)),
        'DGKD, one dropped': Row(SQUARE, last=dict(sampling=DROP)),
    },
    'rows': {
        'alone': Row('configs/classification/resnet20-rows_cifar10.py'),
        'from the teacher': Row(ROWS_OF, only=()),
        'from parallel assistants': Row(ROWS_OF),
    },
    'bccd': {
        'no assistant': Row(ONE, only=()),
        DENSE_1: Row(ONE),
        'one assistant, previous': Row(
            ONE, {'guides': 'previous'}, given={'w32': DENSE_1}
        ),
        DENSE_2: Row(TWO),
        'two assistants, previous': Row(
            TWO, {'guides': 'previous'}, given={'w48': DENSE_2}
        ),
    },
    'whole': {
        'DGKD': Row(SQUARE),
        'TAKD': Row(
            SQUARE, {'guides': 'previous'}, given={'t56': 'DGKD', 'a44': 'DGKD'}
        ),
        'from the teacher': Row(SQUARE, only=(), given={'t56': 'DGKD'}),
    },
}
# Weights in the folder, by member; the others are trained.
WEIGHTS = {
    'cifar10': {
        't56': 'resnet56-cifar10jpeg.pth',
        'a44': 'resnet44-cifar10jpeg.pth',
        'a32': 'resnet32-cifar10jpeg.pth',
    },
    'rows': {'t56': 'resnet56-cifar10jpeg.pth'},
    'bccd': {'w64': 'gfl_r18-w64_bccd.pth'},
    'whole': {},
}
TOP1 = measuring.Figure('top1', 'top 1, %', 2)
BOX = measuring.Figure('bbox_mAP', 'box mAP')


def chain_of(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """The chain of a row, with its weights, budget and seed."""
    row = EXPERIMENTS[args.experiment][name]
    chain = {**read_config(str(ROOT / row.chain)).to_dict(), **row.changes}
    *assistants, student = chain['stages']
    kept = [a for a in assistants if row.only is None or a['name'] in row.only]
    chain['stages'] = [*kept, {**student, **row.last}]
    for member in [chain['root'], *chain['stages']]:
        options = {'randomness.seed': seed, **budget(args, seed)}
        member['options'] = {**member.get('options', {}), **options}
        weights = WEIGHTS[args.experiment].get(member['name'])
        if weights:
            member['checkpoint'] = str(args.weights / weights)
        if weights and args.experiment != 'bccd':
            member['teacher'] = {'revise_keys': REVISED}
        if member['name'] in row.given:
            other = folder_of(args, row.given[member['name']], seed)
            member['checkpoint'] = str(other / 'students' / f'{member["name"]}.pth')
    return chain


def budget(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Options of every training on CIFAR-10."""
    if args.experiment == 'bccd':
        return {}
    return {
        'train_dataloader.dataset.seed': seed,
        'train_dataloader.dataset.num_images': args.images,
        'train_cfg.max_epochs': args.epochs,
        'train_cfg.val_interval': args.epochs,
        'param_scheduler.1.end': args.epochs,
    }


def folder_of(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Work dir of a row's chain."""
    return args.work_dir / args.experiment / measuring.folder_name(name, seed)


def run(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Run a chain; what its student reaches.

    Raises:
        StageError: It failed.
    """
    if name == 'alone':
        return run_alone(args, name, seed)
    folder = folder_of(args, name, seed)
    file = folder.with_name(folder.name + '.py')
    file.parent.mkdir(parents=True, exist_ok=True)
    Config(chain_of(args, name, seed)).dump(file)
    print(f'== {args.experiment}: {name}, seed {seed}', flush=True)
    tool = os.path.relpath(TOOL)
    command = [tool, str(file), '--work-dir', str(folder)]
    if subprocess.call([sys.executable, *command]):
        raise StageError(f'the chain {file} failed', fix=f'python {" ".join(command)}')
    rows = read_json(folder / 'chain.json')
    for row in rows:
        row['given'] = row.pop('command') == 'given'
    return {
        **rows[-1],
        'name': name,
        'seed': seed,
        'experiment': args.experiment,
        'command': f'python {" ".join(command)}',
        'chain_seconds': sum(row['seconds'] for row in rows),
        'stages': rows,
    }


def run_alone(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train a student without a teacher; what it reaches."""
    config = EXPERIMENTS[args.experiment][name].chain
    folder = folder_of(args, name, seed)
    stage = Stage(
        name=name,
        title=f'{args.experiment}: {name}, seed {seed}',
        config=config,
        folder=folder,
        epochs=args.epochs,
        total=args.epochs * -(-args.images // BATCH),
        settings=settings_of(config, folder),
        options={'randomness.seed': seed, **budget(args, seed)},
        figures={TOP1.name: 'accuracy/top1'},
    )
    with display(1, stage.title) as show:
        entry = run_stage(stage, {}, show).entry()
    known = {'params': measuring.count_parameters(config), 'guides': []}
    return {**entry, **known, 'seed': seed, 'experiment': args.experiment}


def write(args: argparse.Namespace, runs: Sequence[dict[str, Any]]) -> None:
    """Table and figure of the experiment; all raw numbers in chain.json."""
    bccd = args.experiment == 'bccd'
    figure = BOX if bccd else TOP1
    note = (
        'Beside them, full M-KD without a chain: [bccd.md](bccd.md).'
        if bccd
        else f'{args.images} images (JPEG), {args.epochs} epochs, tested on 10,000.'
    ) + ' Seconds are of the last stage; runs shared the machine.'
    if args.experiment == 'cifar10':
        note += ' The student alone: [cifar10.md](cifar10.md).'
    where = 'the test split of BCCD' if bccd else 'the test images of CIFAR-10'
    report = measuring.Report(
        stem=f'chain_{args.experiment}',
        note=note,
        figures=[figure],
        axis=f'{figure.title} on {where}',
        teachers=[],
    )
    seeds = ' '.join(map(str, args.seeds))
    weights = ' --weights FOLDER' if WEIGHTS[args.experiment] else ''
    budget = '' if bccd else f' --images {args.images} --epochs {args.epochs}'
    command = (
        f'python tools/measure_chain.py {args.experiment}{weights}{budget}'
        f' --seeds {seeds}'
    )
    measuring.write_report(report, command, args.out, runs)
    sizes = args.out / f'chain_{args.experiment}_sizes.png'
    chain_report.draw(over_sizes(runs, figure.name), sizes, figure.name)
    others = [
        json.loads(file.read_text())
        for name in EXPERIMENTS
        if (file := args.out / f'chain_{name}.json').is_file()
    ]
    write_json(args.out / 'chain.json', [run for runs in others for run in runs])


def over_sizes(
    runs: Sequence[dict[str, Any]], metric: str
) -> dict[str, list[dict[str, Any]]]:
    """Members of each row's chain, with the mean over the seeds."""
    chains: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        own = chains.setdefault(run['name'], {})
        for stage in run.get('stages', [run]):
            own.setdefault(stage['name'], []).append(stage)
    return {
        row: [
            {**stages[0], metric: statistics.mean(stage[metric] for stage in stages)}
            for stages in own.values()
        ]
        for row, own in chains.items()
    }


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """What to run, and where."""
    every = dict.fromkeys(name for rows in EXPERIMENTS.values() for name in rows)
    parser = measuring.parser(__doc__, list(every), 'work_dirs/chain')
    parser.add_argument('experiment', choices=list(EXPERIMENTS))
    parser.add_argument('--weights', type=Path, help='folder of the teachers')
    parser.add_argument('--images', type=int, default=5000, help='to train on')
    parser.add_argument('--epochs', type=int, default=12, help='on CIFAR-10')
    args = parser.parse_args(argv)
    for name in WEIGHTS[args.experiment].values():
        file = (args.weights or Path()) / name
        if not file.is_file():
            raise CheckpointFileError(f'there is no {file}', fix='--weights FOLDER')
    # A row may stand on another that is before it.
    args.rows = [row for row in EXPERIMENTS[args.experiment] if row in args.rows]
    return args


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; write after every chain."""
    args = parse_args(argv)
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for name in args.rows:
            runs.append(run(args, name, seed))
            write(args, runs)


if __name__ == '__main__':
    sys.exit(main())
