#!/usr/bin/env python
"""Measure the methods for classifiers on four data sets of small images.

    python benchmarks/measure_classifiers.py --weights FOLDER

FOLDER holds the teachers resnet56_<data>.pth, and likewise 44 and 32: the last
checkpoints of `mkd-det train` with their configs, those of another depth with
`model.backbone.depth`; and resnet56_<data>_1.pth and so on, of `randomness.seed=1`.
Each row is tried with eight settings on validation images; then what was best trains
with all seeds, under both teachers, and is tested (benchmarks/protocol.py). Students of
another kind are compared with their own kind alone. `--noise` replaces a fraction of
the training labels, of which the teachers then have learned as well; they are
resnet56_<data>_noise.pth, the second resnet56_<data>_noise_1.pth. `--augment` mixes the
student's images, or changes them more. Writes
docs/results/classifiers_<data>[_noise<f>][_mixup|_heavy][_<student>]. CIFAR-10 has no
validation images: a fifth of its test images are taken for them. Finished trainings are
skipped, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import protocol
from measuring import CIFAR_LAYERS, dump
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mkd_det.cli.common import guard
from mkd_det.config_files.reading import load_config
from mkd_det.errors import CheckpointFileError

DATA = ('cifar10', 'clothing', 'grocery', 'signs')
BASE = 'student alone'
ALL_MEMBERS = ('CE', 'BalancedCE', 'Focal')
BINARY = ('CE', 'BinaryCE')
STUDENTS = {
    'ResNet-20': dict(type='CifarResNet', depth=20),
    'WRN-16-1': dict(type='CifarWideResNet', depth=16, widen=1),
    'VGG-8': dict(type='CifarVGG', depth=8, base_channels=16),
}


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Args:
        terms: Types of the terms; 'SoftOutputKD' and the like.
        members: Of the aggregated loss on the labels, and of the term; empty for the
            cross entropy.
        depths: Of the teachers.
        aligned: Add the non-linear alignment of features.
        student: Key of `STUDENTS`.
        beyond_entropy: See `DLKD`.
        weighed: Whether teachers count by sample (CA-MKD); else all alike.
    """

    terms: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    depths: tuple[int, ...] = (56,)
    aligned: bool = False
    student: str = 'ResNet-20'
    beyond_entropy: bool = False
    weighed: bool = False


SOFT = ('SoftOutputKD',)
AGGREGATED = ('LossAggregation',)
THREE = (56, 44, 32)
ROWS = {
    BASE: Row(),
    'soft outputs': Row(SOFT),
    'DKD': Row(('DKD',)),
    'DIST': Row(('DIST',)),
    'DLKD': Row(('DLKD',)),
    'DLKD, beyond the entropy': Row(('DLKD',), beyond_entropy=True),
    'aggregation on labels alone': Row(members=ALL_MEMBERS),
    'aggregation, CE + binary': Row(AGGREGATED, BINARY),
    'aggregation, CE + balanced + focal': Row(AGGREGATED, ALL_MEMBERS),
    'soft outputs, aligned': Row(SOFT, aligned=True),
    'DKD, aligned': Row(('DKD',), aligned=True),
    'DIST, aligned': Row(('DIST',), aligned=True),
    'aggregation, CE + binary, aligned': Row(AGGREGATED, BINARY, aligned=True),
    'soft outputs, three teachers': Row(SOFT, depths=THREE),
    'soft outputs, three teachers, by sample': Row(SOFT, depths=THREE, weighed=True),
    'soft outputs, aligned, three teachers': Row(SOFT, depths=THREE, aligned=True),
    'WRN-16-1 alone': Row(student='WRN-16-1'),
    'WRN-16-1, soft outputs': Row(SOFT, student='WRN-16-1'),
    'WRN-16-1, CE + binary': Row(AGGREGATED, BINARY, student='WRN-16-1'),
    'WRN-16-1, CE + balanced + focal': Row(AGGREGATED, ALL_MEMBERS, student='WRN-16-1'),
    'VGG-8 alone': Row(student='VGG-8'),
    'VGG-8, soft outputs': Row(SOFT, student='VGG-8'),
    'VGG-8, CE + binary': Row(AGGREGATED, BINARY, student='VGG-8'),
    'VGG-8, CE + balanced + focal': Row(AGGREGATED, ALL_MEMBERS, student='VGG-8'),
}
# 'weight' is a factor of the weights of all terms; without terms, of the weight decay.
STAGES = (
    protocol.Stage('lr', (0.01, 0.02, 0.05, 0.1)),
    protocol.Stage('weight', (0.25, 0.5, 2.0, 4.0)),
)
TAU = 4.0
# The student alone with about the compute that one teacher adds, and three teachers.
TIMES = (2, 3)
# What changes training images, beside the data's own crops and flips.
AUGMENTED = ('mixup', 'heavy')
HEAVY = dict(type='RandAugment', num_ops=2, magnitude=9)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which data and rows, and where the teachers are."""
    parser = protocol.make_parser(__doc__, 'work_dirs/classifiers')
    parser.set_defaults(seeds=[0, 1, 2, 3, 4])
    add = parser.add_argument
    add('--weights', type=Path, required=True)
    add('--data', nargs='+', default=list(DATA), choices=DATA)
    add('--rows', nargs='+', default=list(ROWS), choices=list(ROWS))
    add('--noise', type=float, default=0.0, help='fraction of labels that are wrong')
    add('--augment', choices=AUGMENTED, help="of the student's training images")
    add('--images', type=int, help='training images; default: all')
    add('--teachers', type=int, default=2, choices=(1, 2), help='teachers to test with')
    return parser.parse_args(argv)


# -- configs -----------------------------------------------------------------------


def make_row(
    args: argparse.Namespace,
    data: str,
    row: Row,
    settings: protocol.Settings,
    seed: int = 0,
) -> Config:
    """Return the config of a row with some settings, under teachers of a seed."""
    cfg = load_config(f'mkd_det::classification/resnet20_{data}.py')
    if data == 'cifar10':
        split_test_images(cfg, args.work_dir)
    cfg.train_dataloader.dataset.label_noise = args.noise
    if args.images:
        cfg.train_dataloader.dataset.num_images = args.images
    if args.augment == 'heavy':
        cfg.train_dataloader.dataset.transforms.append(HEAVY)
    elif args.augment == 'mixup':
        classes = cfg.model.num_classes
        cfg.model.data_preprocessor.update(mixup=0.2, num_classes=classes)
    cfg.optim_wrapper.optimizer.lr = settings['lr']
    cfg.model.backbone = STUDENTS[row.student]
    if row.members:
        cfg.model.loss = aggregated(row, cfg)
    if row.terms:
        cfg.model = taught(args, data, row, cfg, seed)
        for part in (*cfg.model.terms.values(), *cfg.model.adapters.values()):
            part.weight = settings['weight'] * part.get('weight', 1.0)
        if 'DLKD' in row.terms:  # it warns of a teacher that is pruned too far
            cfg.custom_hooks = [dict(type='DifficultyHook')]
    else:
        cfg.optim_wrapper.optimizer.weight_decay *= settings['weight']
    return cfg


def taught(
    args: argparse.Namespace, data: str, row: Row, cfg: Config, seed: int
) -> Config:
    """Return the distiller of a student and its teachers."""
    names = [f't{depth}' for depth in row.depths]
    model: dict[str, Any] = dict(
        type='Distiller',
        student=cfg.model,
        teachers={f't{d}': teacher(args, data, d, seed) for d in row.depths},
        taps=dict(logits='head'),
        adapters={},
        terms={},
        probe_size=32,
    )
    each = 1 / len(names)
    for name in names:
        for kind in row.terms:
            outputs = dict(student='logits', teacher=f'{name}.logits', weight=each)
            model['terms'][f'loss_{kind.lower()}_{name}'] = dict(
                outputs, **term(kind, row, cfg)
            )
        if 'DLKD' in row.terms:
            model['teachers'][f'pruned_{name}'] = dict(prune_of=name, prune=0.5)
            own = model['terms'][f'loss_dlkd_{name}']
            own['pruned'] = f'pruned_{name}.logits'
        if row.aligned:
            align(model, name, each)
    if row.weighed:
        model['teacher_weights'] = dict(tap='logits')
    return Config(model)


def term(kind: str, row: Row, cfg: Config) -> dict[str, Any]:
    """Return type and settings of a term."""
    if kind == 'LossAggregation':
        return dict(aggregated(row, cfg), tau=TAU)
    if kind == 'DLKD':
        taus = dict(tau_min=TAU - 2, tau_max=TAU + 2)
        return dict(type=kind, **taus, beyond_entropy=row.beyond_entropy)
    return dict(type=kind, tau=TAU, **(dict(beta=2.0) if kind == 'DKD' else {}))


def align(model: dict[str, Any], name: str, weight: float) -> None:
    """Add the alignment of the features before the classifier with a teacher's."""
    model['taps']['feature'] = 'head:in'
    adapter = f'align_{name}'
    model['adapters'][adapter] = dict(
        type='NonLinearAlign',
        student='feature',
        teacher=f'{name}.feature',
        reuse_classifier='head',
        weight=weight,
    )
    model['terms'][f'loss_{adapter}'] = dict(
        type='FeatureKD',
        student=f'{adapter}.student',
        teacher=f'{adapter}.teacher',
        weight=weight,
    )


def aggregated(row: Row, cfg: Config) -> dict[str, Any]:
    """Return the aggregated loss of a row."""
    settings: dict[str, dict[str, Any]] = dict(
        CE={}, BinaryCE={}, BalancedCE=dict(counts=counts(cfg)), Focal=dict(gamma=2.0)
    )
    return dict(
        type='LossAggregation',
        losses=[dict(type=kind, **settings[kind]) for kind in row.members],
        weights=[1 / len(row.members)] * len(row.members),
    )


def counts(cfg: Config) -> list[int]:
    """Return the number of training images of each class."""
    init_default_scope('mmdet')
    return list(DATASETS.build(cfg.train_dataloader.dataset).counts)


def teacher(
    args: argparse.Namespace, data: str, depth: int, seed: int
) -> dict[str, Any]:
    """Return the config of a teacher; its own config is written.

    Raises:
        CheckpointFileError: Its checkpoint is missing.
    """
    suffix = '_noise' * bool(args.noise) + (f'_{seed}' if seed else '')
    checkpoint = args.weights / f'resnet{depth}_{data}{suffix}.pth'
    if not checkpoint.is_file():
        raise CheckpointFileError(
            f'there is no {checkpoint}',
            expected='the teachers of all rows in one folder',
            fix='--weights FOLDER, or fewer --rows',
        )
    cfg = load_config(f'mkd_det::classification/resnet56_{data}.py')
    cfg.model.backbone.depth = depth
    file = args.work_dir / 'teachers' / f'resnet{depth}_{data}.py'
    dump(cfg, file)
    return dict(
        cfg=str(file.absolute()),
        checkpoint=str(checkpoint.absolute()),
        revise_keys=CIFAR_LAYERS,  # of published weights; others have no such keys
    )


def split_test_images(cfg: Config, folder: Path) -> None:
    """Choose on every fifth test image of each class, and report the others.

    Args:
        cfg: Config of CIFAR-10, whose validation images are its test images.
        folder: Gets links to the images.
    """
    source = Path(cfg.test_dataloader.dataset.root)
    for split in ('val', 'test'):
        for place in sorted(path for path in source.iterdir() if path.is_dir()):
            own = folder / 'cifar10' / split / place.name
            own.mkdir(parents=True, exist_ok=True)
            for number, file in enumerate(sorted(place.iterdir())):
                link = own / file.name
                if (number % 5 == 0) == (split == 'val') and not link.is_symlink():
                    link.symlink_to(file.absolute())
    # The two were one and the same dict.
    cfg.val_dataloader = cfg.val_dataloader.to_dict()
    cfg.val_dataloader.dataset.root = str((folder / 'cifar10' / 'val').absolute())
    cfg.test_dataloader = cfg.test_dataloader.to_dict()
    cfg.test_dataloader.dataset.root = str((folder / 'cifar10' / 'test').absolute())


# -- the command -------------------------------------------------------------------


def tasks(args: argparse.Namespace, data: str) -> list[protocol.Task]:
    """Return the rows on a data set, those of each kind of student by themselves."""
    noise = f'noise{args.noise:g}' if args.noise else None
    images = f'{args.images}_images' if args.images else None
    name = '_'.join(filter(None, [data, noise, args.augment, images]))
    found = []
    for student in STUDENTS:
        own = {n: row for n, row in ROWS.items() if row.student == student}
        alone = next(n for n, row in own.items() if row == Row(student=student))
        wanted = [n for n in own if n == alone or n in args.rows]
        if wanted == [alone] and alone not in args.rows:
            continue

        def make(row: Row, seed: int = 0, times: int = 1) -> protocol.Make:
            def made(settings: protocol.Settings) -> Config:
                cfg = make_row(args, data, row, settings, seed)
                protocol.lengthen(cfg, times)
                return cfg

            return made

        also = {
            f'{n}, second teacher': (n, make(own[n], 1))
            for n in wanted
            if own[n].terms and args.teachers > 1
        }
        if not args.epochs:
            also |= {
                f'{alone}, {times} times as long': (alone, make(own[alone], 0, times))
                for times in TIMES
            }
        suffix = '' if student == next(iter(STUDENTS)) else f'_{student.lower()}'
        place = protocol.Place(
            args.work_dir / f'{name}{suffix}',
            args.out / f'classifiers_{name}{suffix}',
            args.devices,
            args.epochs,
        )
        rows = {n: make(own[n]) for n in wanted}
        found.append(protocol.Task(rows, place, also))
    return found


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Measure on each data set."""
    args = parse_args(argv)
    for data in args.data:
        for task in tasks(args, data):
            protocol.measure([task], STAGES, args.seeds)


if __name__ == '__main__':
    raise SystemExit(main())
