#!/usr/bin/env python
"""Measure the classification methods on CIFAR-10, and write docs/results/cifar10.*.

    python benchmarks/measure_cifar10.py --weights FOLDER --seeds 0 1 2

FOLDER holds the teachers, resnet56-cifar10jpeg.pth and likewise 44 and 32: CIFAR
ResNets with keys conv1, layer1, ..., linear. Needs CIFAR-10 as image folders in
data/cifar10, or where CIFAR10_ROOT says. Every row has the same images and epochs.
Finished trainings are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from measuring import (
    CIFAR_BATCH,
    CIFAR_LAYERS,
    TOP1,
    TOP5,
    Planned,
    Report,
    count_parameters,
    folder_name,
    make_parser,
    markdown_table,
    run_all,
    settings_of,
    write_report,
)

from mkd_det.cli.common import guard
from mkd_det.errors import CheckpointFileError
from mkd_det.experiments.runs import TrainingRun, read_history

CONFIGS = 'mkd_det::classification'
NOISE = {'train_dataloader.dataset.label_noise': '0.2'}
# The rate of taught students: ResNet-20 alone learns best at 0.05.
SLOWER = {'optim_wrapper.optimizer.lr': '0.02'}
T = {'t': 56}
# Row: config, depths of the teachers by name, options.
ROWS: dict[str, tuple[str, Mapping[str, int], Mapping[str, str]]] = {
    'student alone': ('resnet20', {}, {}),
    'student alone, at rate 0.02': ('resnet20', {}, SLOWER),
    'soft outputs': ('resnet56_kd_resnet20', T, {}),
    'aggregation on labels alone': ('resnet20-aggregation', {}, {}),
    'aggregation, CE + binary': ('resnet56_aggregation-binary_resnet20', T, {}),
    'aggregation, CE + focal': ('resnet56_aggregation-focal_resnet20', T, {}),
    'aggregation, CE + balanced + focal': ('resnet56_aggregation_resnet20', T, {}),
    'DKD': ('resnet56_dkd_resnet20', T, {}),
    'DIST': ('resnet56_dist_resnet20', T, {}),
    'DLKD': ('resnet56_dlkd_resnet20', T, {}),
    'alignment': ('resnet56_fa_resnet20', T, {}),
    'alignment, three teachers': (
        'resnet56-44-32_fa_resnet20',
        {'t56': 56, 't44': 44, 't32': 32},
        {},
    ),
    'MobileNetV3 alone': ('mobilenetv3', {}, {}),
    'MobileNetV3, taught by ResNet-56': ('resnet56_kd_mobilenetv3', T, {}),
    'student alone, 20 % noise': ('resnet20', {}, NOISE),
    'soft outputs, 20 % noise': ('resnet56_kd_resnet20', T, NOISE),
    'DLKD, 20 % noise': ('resnet56_dlkd_resnet20', T, NOISE),
}
# Rows whose own loss is the cross entropy on the labels.
CURVES = (
    'student alone',
    'soft outputs',
    'DLKD',
    'alignment',
    'alignment, three teachers',
)
METRICS = (TOP1, TOP5)


def plan_trainings(args: argparse.Namespace) -> list[Planned]:
    """Return the training of every seed and row."""
    budget = {
        'train_dataloader.dataset.num_images': str(args.images),
        'train_cfg.max_epochs': str(args.epochs),
        'train_cfg.val_interval': str(args.epochs),
        'param_scheduler.1.end': str(args.epochs),
    }
    planned = []
    for seed in args.seeds:
        for row in args.rows:
            name, teachers, options = ROWS[row]
            config = f'{CONFIGS}/{name}_cifar10.py'
            taught: dict[str, str] = {}
            for teacher, depth in teachers.items():
                where = f'model.teachers.{teacher}'
                file = args.weights / f'resnet{depth}-cifar10jpeg.pth'
                taught[f'{where}.checkpoint'] = str(file)
                taught[f'{where}.revise_keys'] = str(CIFAR_LAYERS).replace(' ', '')
            seeds = {
                'randomness.seed': str(seed),
                # Chooses the images, and the labels that are wrong.
                'train_dataloader.dataset.seed': str(seed),
            }
            folder = args.work_dir / folder_name(row, seed)
            training = TrainingRun(
                name=folder.name,
                title=f'{row}, seed {seed}',
                config=config,
                folder=folder,
                budget=args.epochs,
                iterations=args.epochs * -(-args.images // CIFAR_BATCH),
                settings=settings_of(config, folder),
                options={**seeds, **budget, **options, **taught},
                metrics={'top1': 'accuracy/top1', 'top5': 'accuracy/top5'},
            )
            planned.append((row, seed, training))
    return planned


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments.

    Raises:
        CheckpointFileError: A teacher's file is missing.
    """
    parser = make_parser(__doc__, list(ROWS), 'work_dirs/cifar10')
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


def draw_curves(planned: Sequence[Planned], path: Path) -> None:
    """Draw the cross entropy on the labels in training, mean over the seeds.

    Args:
        planned: Trainings that are finished.
        path: The PNG file.
    """
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    for row in CURVES:
        runs = [read_history(t.folder).losses for name, _, t in planned if name == row]
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
    """Return the number of parameters of a row's student."""
    student = 'mobilenetv3' if row.startswith('MobileNet') else 'resnet20'
    return count_parameters(f'{CONFIGS}/{student}_cifar10.py')


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; write after each training."""
    args = parse_args(argv)
    seeds = ' '.join(map(str, args.seeds))
    report = Report(
        stem='cifar10',
        title='Classifiers on CIFAR-10',
        note=f'{args.images} images (JPEG), {args.epochs} epochs, tested on 10,000.'
        ' Teachers: ResNet-56, 44 and 32. Batches of 32; learning rates as the configs'
        ' have them: ResNet-20 0.05 alone, 0.02 with a teacher, MobileNetV3 0.02 and'
        ' 0.01. Losses in training: [cifar10_curves.png](cifar10_curves.png). Runs'
        ' shared a machine, one core each: seconds say little.',
        metrics=METRICS,
        axis='top-1 accuracy on the test images of CIFAR-10, %',
    )
    command = (
        f'python benchmarks/measure_cifar10.py --weights FOLDER --images {args.images}'
        f' --epochs {args.epochs} --seeds {seeds}'
    )
    planned = plan_trainings(args)
    write = functools.partial(write_report, report, command, args.out)
    entries = run_all(planned, parameters, write)
    draw_curves(planned, args.out / 'cifar10_curves.png')
    print(markdown_table(entries, METRICS))


if __name__ == '__main__':
    raise SystemExit(main())
