#!/usr/bin/env python
"""Measures the classification methods on CIFAR-10, and writes docs/results/cifar10.*.

    python tools/measure_cifar10.py --weights FOLDER --seeds 0 1 2

FOLDER holds the teachers, resnet56-cifar10jpeg.pth and likewise 44 and 32: CIFAR
ResNets with keys conv1, layer1, ..., linear. CIFAR-10 lies as image folders at
data/cifar10, or where CIFAR10_ROOT says. Every row has the same images and epochs; what
is done is not done again, what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import measuring
from matplotlib.figure import Figure
from mkd_det.experiments.runs.training import settings_of

from mkd_det.cli.common import main_guard
from mkd_det.errors import CheckpointFileError
from mkd_det.experiments.runs import Stage, read_history

CONFIGS = 'configs/classification'
NOISE = {'train_dataloader.dataset.label_noise': '0.2'}
# Of those who are taught: ResNet-20 alone learns best at 0.05.
SLOWER = {'optim_wrapper.optimizer.lr': '0.02'}
# Row: config, teachers by name and depth, options.
ROWS: dict[str, tuple[str, Mapping[str, int], Mapping[str, str]]] = {
    'student alone': ('resnet20', {}, {}),
    'student alone, at rate 0.02': ('resnet20', {}, SLOWER),
    'soft outputs': ('resnet56_kd_resnet20', {'t': 56}, {}),
    'aggregation on labels alone': ('resnet20-aggregation', {}, {}),
    'aggregation, CE + binary': (
        'resnet56_aggregation-binary_resnet20',
        {'t': 56},
        {},
    ),
    'aggregation, CE + focal': ('resnet56_aggregation-focal_resnet20', {'t': 56}, {}),
    'aggregation, CE + balanced + focal': (
        'resnet56_aggregation_resnet20',
        {'t': 56},
        {},
    ),
    'DKD': ('resnet56_dkd_resnet20', {'t': 56}, {}),
    'DIST': ('resnet56_dist_resnet20', {'t': 56}, {}),
    'DLKD': ('resnet56_dlkd_resnet20', {'t': 56}, {}),
    'alignment': ('resnet56_fa_resnet20', {'t': 56}, {}),
    'alignment, three teachers': (
        'resnet56-44-32_fa_resnet20',
        {'t56': 56, 't44': 44, 't32': 32},
        {},
    ),
    'MobileNetV3 alone': ('mobilenetv3', {}, {}),
    'MobileNetV3, taught by ResNet-56': ('resnet56_kd_mobilenetv3', {'t': 56}, {}),
    'student alone, 20 % noise': ('resnet20', {}, NOISE),
    'soft outputs, 20 % noise': ('resnet56_kd_resnet20', {'t': 56}, NOISE),
    'DLKD, 20 % noise': ('resnet56_dlkd_resnet20', {'t': 56}, NOISE),
}
# What the published weights call otherwise.
NAMES = {'^linear': 'head', '^conv1': 'backbone.conv1', '^bn1': 'backbone.bn1'}
REVISED = [*NAMES.items(), ('^layer', 'backbone.layer')]
BATCH = 32
CURVES = (
    'student alone',
    'soft outputs',
    'DLKD',
    'alignment',
    'alignment, three teachers',
)
FIGURES = (
    measuring.Figure('top1', 'top 1, %', 2),
    measuring.Figure('top5', 'top 5, %', 2),
)


def config_of(row: str) -> str:
    """Path of a row's config."""
    return f'{CONFIGS}/{ROWS[row][0]}_cifar10.py'


def plan_stages(args: argparse.Namespace) -> list[tuple[str, int, Stage]]:
    """(row, seed, training) of every seed and row."""
    budget = {
        'train_dataloader.dataset.num_images': str(args.images),
        'train_cfg.max_epochs': str(args.epochs),
        'train_cfg.val_interval': str(args.epochs),
        'param_scheduler.1.end': str(args.epochs),
    }
    stages = []
    for seed in args.seeds:
        for row in args.rows:
            _, teachers, options = ROWS[row]
            taught: dict[str, str] = {}
            for name, depth in teachers.items():
                file = args.weights / f'resnet{depth}-cifar10jpeg.pth'
                taught[f'model.teachers.{name}.checkpoint'] = str(file)
                names = str(REVISED).replace(' ', '')
                taught[f'model.teachers.{name}.revise_keys'] = names
            seeds = {
                'randomness.seed': str(seed),
                # Which labels are wrong, and which images are taken, go with it.
                'train_dataloader.dataset.seed': str(seed),
            }
            folder = measuring.folder_name(row, seed)
            stage = Stage(
                name=folder,
                title=f'{row}, seed {seed}',
                config=config_of(row),
                folder=args.work_dir / folder,
                epochs=args.epochs,
                total=args.epochs * -(-args.images // BATCH),
                settings=settings_of(config_of(row), args.work_dir / folder),
                options={**seeds, **budget, **options, **taught},
                figures={'top1': 'accuracy/top1', 'top5': 'accuracy/top5'},
            )
            stages.append((row, seed, stage))
    return stages


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """What to run, and where."""
    parser = measuring.parser(__doc__, list(ROWS), 'work_dirs/cifar10')
    parser.add_argument('--weights', type=Path, required=True, help='the teachers')
    parser.add_argument('--images', type=int, default=10000, help='to train on')
    parser.add_argument('--epochs', type=int, default=15)
    args = parser.parse_args(argv)
    for depth in (56, 44, 32):
        file = args.weights / f'resnet{depth}-cifar10jpeg.pth'
        if not file.is_file():
            raise CheckpointFileError(
                f'there is no {file}',
                expected='the weights of ResNet-56, 44 and 32 in one folder',
                fix='--weights FOLDER',
            )
    return args


def draw_curves(stages: Sequence[tuple[str, int, Stage]], path: Path) -> None:
    """Cross entropy on the labels in training, mean over the seeds, for the rows that
    have it as their own loss; what teachers add is left out.
    """
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    for row in CURVES:
        runs = [read_history(s.folder).losses for name, _, s in stages if name == row]
        runs = [run for run in runs if run]
        if runs:
            steps = sorted(set.intersection(*(set(run) for run in runs)))
            means = [statistics.mean(run[step] for run in runs) for step in steps]
            axes.plot(steps, means, label=row)
    axes.set(xlabel='iteration', ylabel='cross entropy on the labels')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


@functools.cache
def parameters(row: str) -> int:
    """Of the student of a row."""
    student = 'mobilenetv3' if row.startswith('MobileNet') else 'resnet20'
    return measuring.count_parameters(f'{CONFIGS}/{student}_cifar10.py')


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; write after every run."""
    args = parse_args(argv)
    seeds = ' '.join(map(str, args.seeds))
    report = measuring.Report(
        stem='cifar10',
        note=f'{args.images} images (JPEG), {args.epochs} epochs, tested on 10,000.'
        ' Teachers: ResNet-56, 44 and 32. Batches of 32; learning rates as the configs'
        ' have them: ResNet-20 0.05 alone, 0.02 with a teacher, MobileNetV3 0.02 and'
        ' 0.01. Losses in training: [cifar10_curves.png](cifar10_curves.png). Runs'
        ' shared a machine, one core each: seconds say little.',
        figures=FIGURES,
        axis='top-1 accuracy on the test images of CIFAR-10, %',
        teachers=[],
    )
    command = (
        f'python tools/measure_cifar10.py --weights FOLDER --images {args.images}'
        f' --epochs {args.epochs} --seeds {seeds}'
    )
    stages = plan_stages(args)
    runs = measuring.measure(
        stages,
        parameters,
        functools.partial(measuring.write_report, report, command, args.out),
    )
    draw_curves(stages, args.out / 'cifar10_curves.png')
    print(measuring.table(runs, FIGURES))


if __name__ == '__main__':
    sys.exit(main())
