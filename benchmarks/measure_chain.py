#!/usr/bin/env python
"""Measure chains of assistants, and write docs/results/chain*.

    python benchmarks/measure_chain.py cifar10 --weights FOLDER --seeds 0 1 2
    python benchmarks/measure_chain.py rows --weights FOLDER --seeds 0 1 2
    python benchmarks/measure_chain.py bccd --weights FOLDER --seeds 0 1 2
    python benchmarks/measure_chain.py whole --seeds 0 1 2 --epochs 6
    python benchmarks/measure_chain.py wrn --seeds 0 1 2

cifar10: ResNet-56, 44 and 32, with the weights in FOLDER (resnet56-cifar10jpeg.pth,
...), teach ResNet-20. rows: a ResNet-20 of 1x3 filters, alone, by the teacher, by
parallel assistants. bccd: gfl_r18-w64_bccd.pth teaches, with one assistant and with
two. whole: as cifar10, but the teacher and all assistants are trained, too. wrn, vgg,
gap: whole chains of WideResNets on hand signs, of VGGs on clothes, and from ResNet-56
to ResNet-8 on hand signs, with the figures of test images. Every row is a chain of its
own. Finished trainings are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chain_experiments import EXPERIMENTS
from measuring import (
    CIFAR_LAYERS,
    TOP1,
    Entry,
    Report,
    count_parameters,
    dump,
    folder_name,
    make_parser,
    settings_of,
    write_report,
)

from mkd_det.cli.common import guard
from mkd_det.config_files.reading import load_config, read_config
from mkd_det.data.datasets import count_images
from mkd_det.errors import CheckpointFileError
from mkd_det.experiments.chain.report import draw_sizes
from mkd_det.experiments.chain.run import run_chain
from mkd_det.experiments.runs import TrainingRun, make_display, run_training
from mkd_det.io.json_files import write_json


def chain_of(args: argparse.Namespace, row: str, seed: int) -> dict[str, Any]:
    """Return the chain of a row, with its weights, budget and seed."""
    experiment = EXPERIMENTS[args.experiment]
    variant = experiment.rows[row]
    chain = {**read_config(variant.chain).to_dict(), **variant.changes}
    *assistants, student = chain['stages']
    kept = [a for a in assistants if variant.only is None or a['name'] in variant.only]
    chain['stages'] = [*kept, {**student, **variant.last}]
    for member in [chain['root'], *chain['stages']]:
        name = member['name']
        options = {'randomness.seed': seed, **budget(args, seed)}
        member['options'] = {**member.get('options', {}), **options}
        if name in experiment.weights:
            member['checkpoint'] = str(args.weights / experiment.weights[name])
            if experiment.data == 'cifar10':
                member['teacher'] = {'revise_keys': CIFAR_LAYERS}
        if name in variant.given:
            other = folder_of(args, variant.given[name], seed)
            member['checkpoint'] = str(other / 'students' / f'{name}.pth')
    return chain


def budget(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return the options of every training: images and epochs of CIFAR-10.

    Small images of other data have a test split, on which their trainings are measured.
    """
    data = EXPERIMENTS[args.experiment].data
    if data == 'bccd':
        return {}
    if data != 'cifar10':
        cfg = load_config(f'mkd_det::classification/resnet56_{data}.py')
        return {'val_dataloader.dataset.root': cfg.test_dataloader.dataset.root}
    return {
        'train_dataloader.dataset.seed': seed,
        'train_dataloader.dataset.num_images': args.images,
        'train_cfg.max_epochs': args.epochs,
        'train_cfg.val_interval': args.epochs,
        'param_scheduler.1.end': args.epochs,
    }


def folder_of(args: argparse.Namespace, row: str, seed: int) -> Path:
    """Return the work dir of a row's chain."""
    return args.work_dir / args.experiment / folder_name(row, seed)


def run_row(args: argparse.Namespace, row: str, seed: int) -> Entry:
    """Run a chain; return the results of its student and of all its members.

    Args:
        args: The arguments.
        row: Name of the chain's row.
        seed: Seed of all its trainings.

    Raises:
        MkdError: A training failed.
    """
    if row == 'alone':
        return run_alone(args, row, seed)
    folder = folder_of(args, row, seed)
    file = folder.with_name(folder.name + '.py')
    dump(chain_of(args, row, seed), file)
    print(f'== {args.experiment}: {row}, seed {seed}', flush=True)
    members = run_chain(str(file), folder).results
    for member in members:
        member['given'] = member.pop('command') == 'given'
    return {
        **members[-1],
        'name': row,
        'seed': seed,
        'experiment': args.experiment,
        'command': f'mkd-det chain {file} --work-dir {folder}',
        'chain_seconds': sum(member['seconds'] for member in members),
        'stages': members,
    }


def run_alone(args: argparse.Namespace, row: str, seed: int) -> Entry:
    """Train a student without a teacher; return its results.

    Args:
        args: The arguments.
        row: Name of its row.
        seed: Its seed.
    """
    variant = EXPERIMENTS[args.experiment].rows[row]
    folder, options = folder_of(args, row, seed), budget(args, seed)
    cfg = load_config(variant.chain, {**variant.options, **options})
    config = str(folder.with_name(folder.name + '.py'))
    dump(cfg, Path(config))
    images, batch = count_images(cfg), cfg.train_dataloader.batch_size
    training = TrainingRun(
        name=row,
        title=f'{args.experiment}: {row}, seed {seed}',
        config=config,
        folder=folder,
        budget=cfg.train_cfg.max_epochs,
        iterations=cfg.train_cfg.max_epochs * -(-images // batch),
        settings=settings_of(config, folder),
        options={'randomness.seed': seed},
        metrics={TOP1.name: 'accuracy/top1'},
    )
    with make_display(1, training.title) as display:
        entry = run_training(training, {}, display).entry()
    known = {'params': count_parameters(config), 'guides': []}
    return {**entry, **known, 'seed': seed, 'experiment': args.experiment}


def write(args: argparse.Namespace, entries: Sequence[Entry]) -> None:
    """Write page and figures of the experiment, and all raw numbers in chain.json."""
    experiment = EXPERIMENTS[args.experiment]
    data = experiment.data
    note = {
        'bccd': 'Beside them, full M-KD without a chain: [bccd.md](bccd.md).',
        'cifar10': f'{args.images} images (JPEG), {args.epochs} epochs, tested on'
        ' 10,000.',
    }.get(
        data, 'Figures are of test images; nothing was chosen.'
    ) + ' Seconds are of the last stage; runs shared the machine.'
    if args.experiment == 'cifar10':
        note += ' The student alone: [cifar10.md](cifar10.md).'
    where = dict(bccd='the test split of BCCD', cifar10='the test images of CIFAR-10')
    report = Report(
        stem=f'chain_{args.experiment}',
        title=experiment.title,
        note=note,
        metrics=[experiment.metric],
        axis=f'{experiment.metric.title} on {where.get(data, f"{data}, test images")}',
    )
    seeds = ' '.join(map(str, args.seeds))
    weights = ' --weights FOLDER' if experiment.weights else ''
    size = f' --images {args.images} --epochs {args.epochs}' * (data == 'cifar10')
    command = (
        f'python benchmarks/measure_chain.py {args.experiment}{weights}{size}'
        f' --seeds {seeds}'
    )
    write_report(report, command, args.out, entries)
    metric = experiment.metric.name
    sizes = args.out / f'chain_{args.experiment}_sizes.png'
    draw_sizes(mean_members(entries, metric), sizes, metric)
    others = [
        json.loads(file.read_text())
        for name in EXPERIMENTS
        if (file := args.out / f'chain_{name}.json').is_file()
    ]
    write_json(args.out / 'chain.json', [entry for part in others for entry in part])


def mean_members(entries: Sequence[Entry], metric: str) -> dict[str, list[Entry]]:
    """Return the members of each row's chain, with the mean over the seeds.

    Args:
        entries: Results of all rows and seeds.
        metric: What is averaged.
    """
    chains: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        own = chains.setdefault(entry['name'], {})
        for member in entry.get('stages', [entry]):
            own.setdefault(member['name'], []).append(member)
    return {
        row: [
            {**members[0], metric: statistics.mean(m[metric] for m in members)}
            for members in own.values()
        ]
        for row, own in chains.items()
    }


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments.

    Raises:
        CheckpointFileError: A file of the given weights is missing.
    """
    every = dict.fromkeys(row for e in EXPERIMENTS.values() for row in e.rows)
    parser = make_parser(__doc__, list(every), 'work_dirs/chain')
    parser.add_argument('experiment', choices=list(EXPERIMENTS))
    parser.add_argument('--weights', type=Path, help='folder of the teachers')
    parser.add_argument('--images', type=int, default=5000, help='to train on')
    parser.add_argument('--epochs', type=int, default=12, help='on CIFAR-10')
    args = parser.parse_args(argv)
    experiment = EXPERIMENTS[args.experiment]
    for name in experiment.weights.values():
        file = (args.weights or Path()) / name
        if not file.is_file():
            raise CheckpointFileError(f'there is no {file}', fix='--weights FOLDER')
    # In this order: a row may need members of one before it.
    args.rows = [row for row in experiment.rows if row in args.rows]
    return args


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; write after each chain."""
    args = parse_args(argv)
    entries: list[Entry] = []
    for seed in args.seeds:
        for row in args.rows:
            entries.append(run_row(args, row, seed))
            write(args, entries)


if __name__ == '__main__':
    raise SystemExit(main())
