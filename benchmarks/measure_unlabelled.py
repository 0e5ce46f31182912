#!/usr/bin/env python
"""Measure what images without labels bring, and write docs/results/unlabelled*.

    python benchmarks/measure_unlabelled.py

chooses on val; `--split test` reports, once. BCCD with 20, 50 and 100 % of the labels,
the circuit boards with 100 of 400 images labelled, and the demo with fresh pictures.
Each is a comparison of `mkd-det compare` whose rows have as many steps, and as many
labelled images in each. Teachers are trained first: with the labels of the rows, and
with all labels. Validation images are among those without labels only where the figures
are of test images. Finished trainings are skipped, interrupted ones resumed. Needs
BCCD_ROOT and PCB_ROOT, or data/bccd and data/pcb; the demo's pictures are made.
`--cost` measures a step by the share of images without labels instead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from measuring import dump
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mkd_det.cli import benchmark, compare
from mkd_det.cli.common import add_devices, guard
from mkd_det.config_files.reading import load_config
from mkd_det.data.digits import make_digits
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.experiments.labelling.run import LabelSettings, label
from mkd_det.experiments.runs import (
    TrainingRun,
    make_display,
    run_in_parallel,
    run_training,
)
from mkd_det.experiments.runs.settings import settings_in
from mkd_det.experiments.runs.training_configs import make_training_run
from mkd_det.io.json_files import read_json, write_json

PACKAGED = 'mkd_det::'
# Shares of the images of a step that have no labels, for its cost.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
COST_BATCH = 16


@dataclass(frozen=True)
class Experiment:
    """A comparison.

    Args:
        data: Name of the data set's folder of configs.
        unlabelled: The config with images without labels, in that folder.
        teacher: The config of the teacher.
        part: Whether the rows have a part of the labels only.
        no_labels: Whether one of them learns from nothing but the teacher.
    """

    data: str
    unlabelled: str
    teacher: str
    part: bool = True
    no_labels: bool = False


def _bccd(share: int, **more: bool) -> Experiment:
    config = f'gfl_mkd_r18-w64_r18-w16_unlabeled{share}_bccd.py'
    return Experiment('bccd', config, 'gfl_r18-w64_bccd.py', **more)


EXPERIMENTS = {
    'bccd20': _bccd(20),
    'bccd50': _bccd(50),
    'bccd100': _bccd(100, part=False, no_labels=True),
    'pcb': Experiment(
        'pcb',
        'gfl_mkd_r18-w64_r18-w16_unlabeled_pcb.py',
        'gfl_r18-w64_pcb.py',
    ),
    'demo': Experiment(
        'demo',
        'gfl_mkd_r18-w48_r18-w16_unlabeled_digits.py',
        'gfl_r18-w48_digits.py',
        part=False,
    ),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which comparisons, on which images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--data', nargs='+', default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    add('--split', default='val', choices=('val', 'test'))
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--precision', type=float, default=0.9, help='of the hard labels, see label')
    add('--cost', action='store_true', help='measure the cost of a step instead')
    add('--iters', type=int, default=20, help='rounds that count, of the cost')
    add('--work-dir', type=Path, default=Path('work_dirs/unlabelled'))
    add('--out', type=Path, default=Path('docs/results'))
    add('--debug', action='store_true', help='show tracebacks')
    add_devices(parser, 'trainings')
    return parser.parse_args(argv)


# -- data ----------------------------------------------------------------------


def read(experiment: Experiment, file: str, split: str, work_dir: Path) -> Config:
    """Return a config that is measured on a split.

    Args:
        experiment: The experiment.
        file: Its config file.
        split: 'val' or 'test'. The demo has val only.
        work_dir: Where `write_val` has written the val split of BCCD.
    """
    cfg = load_config(f'{PACKAGED}{experiment.data}/{file}')
    if experiment.data == 'bccd' and split == 'val':
        own = cfg.val_dataloader.dataset
        cfg.val_dataloader.dataset = dict(
            type='CocoDataset',
            ann_file=str(val_file(work_dir)),
            data_prefix=dict(img=''),
            metainfo=own.metainfo,
            test_mode=True,
            pipeline=own.pipeline,
        )
    elif experiment.data == 'pcb' and split == 'test':
        cfg.val_dataloader = cfg.test_dataloader
        cfg.val_evaluator = cfg.test_evaluator
    parts = cfg.train_dataloader.dataset.get('datasets')
    if parts and split == 'val':
        parts[1] = _without_val(parts[1])
    return cfg


def _without_val(part: Any) -> Any:
    """Leave out the images that are measured on; None if nothing is left."""
    inner = part.get('datasets')
    if inner is None:
        return None if 'val.txt' in str(part.get('images', '')) else part
    kept = [one for one in map(_without_val, inner) if one is not None]
    return kept[0] if len(kept) == 1 else {**part, 'datasets': kept}


def val_file(work_dir: Path) -> Path:
    """Return the file of `write_val`."""
    return work_dir.absolute() / 'bccd_val.json'


def write_val(work_dir: Path) -> None:
    """Write the val split of BCCD as a COCO json.

    One of its boxes has no width, which Pascal VOC files cannot leave out of a
    validation, and `mkd-det label --precision` reads COCO's format.
    """
    init_default_scope('mmdet')
    cfg = load_config(f'{PACKAGED}bccd/gfl_r18-w16_bccd.py').val_dataloader.dataset
    given = dict(ann_file='ImageSets/Main/val.txt', pipeline=[])
    dataset = DATASETS.build({**cfg, **given})
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        one = dataset.get_data_info(index)
        size = dict(width=one['width'], height=one['height'])
        images.append(dict(id=index + 1, file_name=one['img_path'], **size))
        for box in one['instances']:
            x, y, right, bottom = box['bbox']
            w, h = right - x, bottom - y
            if w <= 0 or h <= 0:
                continue
            boxes.append(
                dict(
                    id=len(boxes) + 1,
                    image_id=index + 1,
                    category_id=box['bbox_label'] + 1,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                )
            )
    names = dataset.metainfo['classes']
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
    file = val_file(work_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(images=images, annotations=boxes, categories=categories))


def labelled_part(cfg: Config) -> Any:
    """Return the data set with labels, of a config with images without."""
    return cfg.train_dataloader.dataset.datasets[0]


def unlabelled_part(cfg: Config) -> Any:
    """Return the data set without labels; None if it has only images of val."""
    return cfg.train_dataloader.dataset.datasets[1]


# -- rows ------------------------------------------------------------------------


def with_data(cfg: Config, dataset: Any, model: Any) -> Config:
    """Return the config of a training on one data set, in batches of 8."""
    made = Config(cfg.to_dict())
    made.model = model
    made.train_dataloader = dict(
        cfg.train_dataloader.to_dict(),
        batch_size=8,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dataset,
    )
    return made


def rows(
    experiment: Experiment, cfg: Config, teachers: Mapping[str, Path], hard: Any
) -> dict[str, Config]:
    """Return the configs of all rows; the first is the student alone.

    Args:
        experiment: The experiment.
        cfg: Its config with images without labels.
        teachers: Checkpoints of the teachers, by 'part' and 'all'.
        hard: The data set of hard pseudo-labels; None for none.
    """
    part, rest = labelled_part(cfg), unlabelled_part(cfg)
    everything = {k: v for k, v in part.items() if k != 'indices'}

    def taught(by: str, **more: Any) -> Any:
        return {**with_checkpoint(cfg.model, teachers[by]), **more}

    own = 'part' if experiment.part else 'all'
    made = {'student alone': with_data(cfg, part, cfg.model.student)}
    if experiment.part:
        made['student alone, all labels'] = with_data(
            cfg, everything, cfg.model.student
        )
    made['M-KD'] = with_data(cfg, part, taught(own))
    if rest is not None:
        for by in dict.fromkeys((own, 'all')):
            name = 'M-KD, unlabelled' + (', teacher of all labels' * (by != own))
            made[name] = Config(cfg.to_dict())
            made[name].model = taught(by)
    if hard is not None:
        name = 'hard pseudo-labels'
        made[name] = Config(cfg.to_dict())
        made[name].model = cfg.model.student
        made[name].train_dataloader.dataset.datasets[1] = hard
    if experiment.no_labels:
        made['no labels at all'] = with_data(
            cfg, as_unlabelled(everything, rest), taught('all', task_weight=0)
        )
    return made


def with_checkpoint(model: Any, checkpoint: Path) -> Any:
    """Return the model with a file of its teacher."""
    teacher = {**model.teachers.t, 'checkpoint': str(checkpoint.absolute())}
    return {**model.to_dict(), 'teachers': dict(t=teacher)}


def as_unlabelled(labelled: Any, more: Any) -> Any:
    """Return the images of labelled data, and others, without labels."""
    given = dict(
        type='UnlabeledImages',
        data_root=labelled['data_root'],
        data_prefix=dict(img='JPEGImages'),
        images=labelled['ann_file'],
        pipeline=labelled['pipeline'],
    )
    return given if more is None else dict(type='ConcatDataset', datasets=[given, more])


# -- teachers and hard labels ------------------------------------------------------


def train_teachers(args: argparse.Namespace, experiment: Experiment) -> dict[str, Path]:
    """Train the teachers that are missing; return their checkpoints.

    'all' has all labels; 'part' those of the rows, with as many steps.
    """
    kinds = ['all', *(['part'] if experiment.part else [])]
    runs = {kind: teacher_run(args, experiment, kind) for kind in kinds}
    with make_display(len(kinds), 'teachers') as display:

        def work(run: TrainingRun, environment: Mapping[str, str], stop: Event) -> None:
            run_training(run, environment, display, stop)

        run_in_parallel(list(runs.values()), args.devices, work)
    return {kind: run.checkpoint for kind, run in runs.items()}


def teacher_run(
    args: argparse.Namespace, experiment: Experiment, kind: str
) -> TrainingRun:
    """Return the training of a teacher."""
    cfg = teacher_config(experiment, kind, args.work_dir)
    name = teacher_name(experiment, kind)
    folder = (args.work_dir / 'teachers').absolute()
    file = folder / f'{name}.py'
    dump(cfg.to_dict(), file)
    return make_training_run(
        cfg,
        file,
        folder / name,
        name,
        title=f'teacher {name}',
        settings=settings_in(cfg, folder),
        options={'randomness.seed': '0'},
    )


def teacher_name(experiment: Experiment, kind: str) -> str:
    """Return the name of a teacher; one of all labels serves several experiments."""
    if kind == 'all':
        return f'{experiment.data}_all'
    return Path(experiment.unlabelled).stem + '_part'


def teacher_config(experiment: Experiment, kind: str, work_dir: Path) -> Config:
    """Return the config of a teacher, which is measured on val."""
    cfg = read(experiment, experiment.teacher, 'val', work_dir)
    if kind == 'part':
        unlabelled = read(experiment, experiment.unlabelled, 'val', work_dir)
        model = cfg.model
        cfg = with_data(unlabelled, labelled_part(unlabelled), model)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    return cfg


def hard_labels(
    args: argparse.Namespace, experiment: Experiment, cfg: Config, teacher: Path
) -> Any:
    """Label the images without labels by a teacher; return the data set.

    The least score of each class is chosen on val. None where there are no image files.
    """
    rest = unlabelled_part(cfg)
    if rest is None or 'UnlabeledDigits' in str(rest):
        return None
    init_default_scope('mmdet')
    dataset = DATASETS.build(rest)
    parts = getattr(dataset, 'datasets', [dataset])
    folder = (args.work_dir / 'labels').absolute()
    name = f'{Path(experiment.unlabelled).stem}_{args.split}'
    write_json(folder / f'{name}_images.json', [p for d in parts for p in d.paths])
    detector = teacher_config(experiment, 'all', args.work_dir)
    detector.test_dataloader = detector.val_dataloader
    out = folder / f'{name}.json'
    settings = LabelSettings(precision=args.precision)
    label(detector, str(teacher), str(folder / f'{name}_images.json'), out, settings)
    own = labelled_part(cfg)
    return dict(
        type='CocoDataset',
        ann_file=str(out),
        data_prefix=dict(img=''),
        metainfo=own.metainfo,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=own.pipeline,
    )


# -- comparisons -----------------------------------------------------------------


def write_rows(args: argparse.Namespace, name: str) -> dict[str, Path]:
    """Train teachers, label images, and write the config of each row."""
    experiment = EXPERIMENTS[name]
    if experiment.data == 'demo':
        demo = load_config(f'{PACKAGED}demo/{experiment.teacher}')
        make_digits(Path(demo.data_root))
    elif experiment.data == 'bccd':
        write_val(args.work_dir)
    cfg = read(experiment, experiment.unlabelled, args.split, args.work_dir)
    teachers = train_teachers(args, experiment)
    hard = hard_labels(args, experiment, cfg, teachers.get('part', teachers['all']))
    folder = (args.work_dir / f'{name}_{args.split}').absolute()
    files = {}
    for index, (row, made) in enumerate(rows(experiment, cfg, teachers, hard).items()):
        files[row] = folder / f'row_{index}.py'
        dump(made.to_dict(), files[row])
    return files


def arguments(
    args: argparse.Namespace, name: str, files: Mapping[str, Path]
) -> list[str]:
    """Return the arguments of `mkd-det compare` for an experiment."""
    (base, path), *others = files.items()
    return [
        *(f'{row}={file}' for row, file in others),
        *('--base', f'{base}={path}'),
        *('--seeds', *map(str, args.seeds)),
        *('--work-dir', str(args.work_dir / f'{name}_{args.split}' / 'runs')),
        *('--out', str(report_folder(args, name))),
        *('--devices', *args.devices),
    ]


def report_folder(args: argparse.Namespace, name: str) -> Path:
    """Return the folder of a comparison's report."""
    return args.out / f'unlabelled_{name}_{args.split}'


def page(args: argparse.Namespace, found: Mapping[str, Any]) -> str:
    """Return the page of the results."""
    suffix = '' if args.split == 'val' else ' --split test'
    lines = [
        '# Images without labels',
        '',
        f'    python benchmarks/measure_unlabelled.py{suffix}',
        '',
        f'Box mAP on {args.split}, mean and standard deviation over seeds '
        + ', '.join(map(str, args.seeds))
        + ' (demo: val). Raw numbers and commands:'
        f' [unlabelled_{args.split}.json](unlabelled_{args.split}.json).',
    ]
    for name, result in found.items():
        folder = report_folder(args, name).name
        lines += [
            '',
            f'## {name}',
            '',
            f'[Report]({folder}/report.md)',
            '',
            '| | box mAP |',
            '|---|---|',
        ]
        for teacher in result.get('teachers', ()):
            value = teacher['metrics'].get(result['key'])
            if value is not None:
                lines.append(
                    f'| teacher of {", ".join(teacher["rows"])} | {value:.3f} |'
                )
        for row in result['rows']:
            lines.append(f'| {row["name"]} | {_mean(row)} |')
    return '\n'.join([*lines, ''])


def _mean(row: Mapping[str, Any]) -> str:
    """Return mean and spread of a row's metric."""
    figure = row.get('metric')
    if not figure:
        return ''
    spread = f' ± {figure["deviation"]:.3f}' if figure['count'] > 1 else ''
    return f'{figure["mean"]:.3f}{spread}'


# -- cost ------------------------------------------------------------------------


def cost_config(share: float) -> Config:
    """Return a config whose steps have a share of images without labels."""
    experiment = EXPERIMENTS['bccd20']
    cfg = read(experiment, experiment.unlabelled, 'test', Path())
    loader = cfg.train_dataloader
    loader.update(batch_size=COST_BATCH, num_workers=0)
    if share in (0.0, 1.0):
        part = labelled_part(cfg) if share == 0 else unlabelled_part(cfg)
        cfg = with_data(cfg, part, cfg.model)
        cfg.train_dataloader.batch_size = COST_BATCH
        cfg.model.task_weight = 1.0 - share
        return cfg
    count = round(COST_BATCH * share)
    ratio = [COST_BATCH - count, count]
    loader.sampler.update(batch_size=COST_BATCH, source_ratio=ratio)
    return cfg


def measure_cost(args: argparse.Namespace) -> None:
    """Measure a step by the share of images without labels; write the figures."""
    found = {}
    for share in SHARES:
        with tempfile.TemporaryDirectory() as folder:
            config, out = Path(folder) / 'config.py', Path(folder) / 'out.json'
            dump(cost_config(share).to_dict(), config)
            argv = [str(config), '--data', '--iters', str(args.iters)]
            if code := benchmark.main([*argv, '--json', str(out)]):
                raise SystemExit(code)  # it has printed the error
            found[str(share)] = json.loads(out.read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / 'unlabelled_cost.json', found)


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run one comparison after the other; write all figures after each."""
    args = parse_args(argv)
    if args.cost:
        measure_cost(args)
        return
    file = args.out / f'unlabelled_{args.split}.json'
    for name in args.data:
        if code := compare.main(arguments(args, name, write_rows(args, name))):
            raise SystemExit(code)  # it has printed the error
        found = {
            known: read_json(report_folder(args, known) / JSON)
            for known in EXPERIMENTS
            if (report_folder(args, known) / JSON).is_file()
        }
        write_json(file, found)
        file.with_suffix('.md').write_text(page(args, found))


if __name__ == '__main__':
    raise SystemExit(main())
