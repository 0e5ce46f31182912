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
`--cost` measures a step instead: by the share of images without labels, and with the
teacher's outputs stored.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import torch
from bccd_val import write_val
from measuring import dump
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from unlabelled_experiments import (
    EXPERIMENTS,
    PACKAGED,
    SHARES,
    Experiment,
    cost_config,
    labelled_part,
    read,
    rows,
    soft_rows,
    teacher_config,
    teacher_name,
    unlabelled_part,
)

from mkd_det.cli import benchmark, compare
from mkd_det.cli.common import add_devices, guard
from mkd_det.config_files.reading import load_config
from mkd_det.data.digits import make_digits
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.experiments.labelling.run import LabelSettings, label
from mkd_det.experiments.labelling.soft import label_soft
from mkd_det.experiments.runs import (
    TrainingRun,
    make_display,
    run_in_parallel,
    run_training,
)
from mkd_det.experiments.runs.settings import settings_in
from mkd_det.experiments.runs.training_configs import make_training_run
from mkd_det.io.json_files import read_json, write_json
from mkd_det.training.runtime import build_model


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


def image_files(*datasets: Any) -> list[str]:
    """Return the paths of all images of some data sets."""
    init_default_scope('mmdet')
    found = []
    for cfg in datasets:
        dataset = DATASETS.build(cfg)
        for part in getattr(dataset, 'datasets', [dataset]):
            found += [part.get_data_info(i)['img_path'] for i in range(len(part))]
    return found


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


def hard_labels(
    args: argparse.Namespace, experiment: Experiment, cfg: Config, teacher: Path
) -> Any:
    """Label the images without labels by a teacher; return the data set.

    The least score of each class is chosen on val. None where there are no image files.
    """
    rest = unlabelled_part(cfg)
    if rest is None or 'UnlabeledDigits' in str(rest):
        return None
    folder = (args.work_dir / 'labels').absolute()
    name = f'{Path(experiment.unlabelled).stem}_{args.split}'
    write_json(folder / f'{name}_images.json', image_files(rest))
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


def soft_labels(
    args: argparse.Namespace, experiment: Experiment, cfg: Config, teacher: Path
) -> Path | None:
    """Label all images of the training softly; return the file."""
    if not experiment.soft:
        return None
    folder = (args.work_dir / 'labels').absolute()
    name = f'{Path(experiment.unlabelled).stem}_{args.split}_soft'
    listed = folder / f'{name}_images.json'
    write_json(listed, image_files(labelled_part(cfg), unlabelled_part(cfg)))
    detector = teacher_config(experiment, 'all', args.work_dir)
    detector.test_dataloader = detector.val_dataloader
    out = folder / f'{name}.sqlite'
    label_soft(detector, str(teacher), str(listed), out)
    return out


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
    teacher = teachers.get('part', teachers['all'])
    hard = hard_labels(args, experiment, cfg, teacher)
    soft = soft_labels(args, experiment, cfg, teacher)
    folder = (args.work_dir / f'{name}_{args.split}').absolute()
    files = {}
    made = rows(experiment, cfg, teachers, hard, soft)
    for index, (row, one) in enumerate(made.items()):
        files[row] = folder / f'row_{index}.py'
        dump(one.to_dict(), files[row])
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


def cost_configs(folder: Path) -> dict[str, Config]:
    """Return the configs whose steps are measured, by name.

    Args:
        folder: Where the soft labels of a teacher with random weights are written.
    """
    found = {f'{share:.0%} without labels': cost_config(share) for share in SHARES}
    experiment = EXPERIMENTS['bccd20']
    teacher = teacher_config(experiment, 'all', folder)
    detector = read(experiment, experiment.teacher, 'test', folder)
    weights, soft = folder / 'teacher.pth', folder / 'teacher.soft'
    classes = dict(dataset_meta=dict(classes=teacher.metainfo.classes))
    state = build_model(teacher).state_dict()
    torch.save(dict(state_dict=state, meta=classes), weights)
    cfg = cost_config(0.5)
    write_json(
        folder / 'images.json', image_files(labelled_part(cfg), unlabelled_part(cfg))
    )
    label_soft(detector, str(weights), str(folder / 'images.json'), soft)
    return found | soft_rows(cfg, weights, soft)


def measure_cost(args: argparse.Namespace) -> None:
    """Measure steps, and write the figures."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, cfg in cost_configs(folder).items():
            config, out = folder / 'config.py', folder / 'out.json'
            dump(cfg.to_dict(), config)
            argv = [str(config), '--data', '--iters', str(args.iters)]
            if code := benchmark.main([*argv, '--json', str(out)]):
                raise SystemExit(code)  # it has printed the error
            found[title] = json.loads(out.read_text())
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
