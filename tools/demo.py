#!/usr/bin/env python
"""Watch a small detector learn from a big one, with nothing to download.

    python tools/demo.py

Makes a data set of handwritten digits in photographs, then trains three
detectors on it: a big one (the teacher), a small one alone (the student), and
the same small one taught by the big one (M-KD). Ends with a table, learning
curves and detections, on a page: work_dirs/demo/index.html. Under 12 minutes
on two cores. Interrupted and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _environment  # noqa: F401
from mkd_det.experiments.runs.training import settings_of
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from rich.table import Table

from mkd_det.cli.common import console, main_guard
from mkd_det.data.digits import Recipe, make_digits
from mkd_det.experiments.demo import report
from mkd_det.experiments.runs import (
    ROOT,
    Display,
    Result,
    Stage,
    alone,
    display,
    read_history,
    run_stage,
    write_json,
)

CONFIGS = {
    'teacher': 'configs/demo/gfl_r18-w48_digits.py',
    'student': 'configs/demo/gfl_r18-w16_digits.py',
    'mkd': 'configs/demo/gfl_mkd_r18-w48_r18-w16_digits.py',
}
TITLES = {
    'teacher': 'teacher',
    'student': 'student alone',
    'mkd': 'student with M-KD',
}
INTRODUCTION = """\
A big detector (the teacher), a small one alone (the student), and the same small
one taught by the big one (M-KD) learn to find handwritten digits in photographs.
Everything goes to {folder}. Ctrl-C stops; the same command then goes on.
"""
# Of an image; the configs say the same.
SIDE = 160


@dataclass(frozen=True)
class Size:
    """How much is done.

    Args:
        train: Images to train on.
        val: Images to validate on.
        epochs: All three train so long; None for what the configs say.
        batch: Images in an iteration; None for what the configs say.
    """

    train: int = 400
    val: int = 100
    epochs: int | None = None
    batch: int | None = None


QUICK = Size(train=12, val=6, epochs=2, batch=4)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The few options there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='folder for everything (default: work_dirs/demo, work_dirs/demo-quick)',
    )
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    parser.add_argument(
        '--quick',
        action='store_true',
        help='a few images and epochs: shows that everything runs, learns nothing',
    )
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of typed errors'
    )
    args = parser.parse_args(argv)
    if args.work_dir is None:
        args.work_dir = Path('work_dirs', 'demo-quick' if args.quick else 'demo')
    return args


def plan_stages(work_dir: Path, size: Size, seed: int) -> list[Stage]:
    """The three trainings, in their order."""
    # The teacher's config says how long all three train: same schedule.
    cfg = Config.fromfile(ROOT / CONFIGS['teacher'])
    epochs = size.epochs or cfg.train_cfg.max_epochs
    batch = size.batch or cfg.train_dataloader.batch_size
    total = epochs * math.ceil(size.train / batch)
    stages: dict[str, Stage] = {}
    for name, config in CONFIGS.items():
        options: dict[str, Any] = {'randomness.seed': seed}
        if size.epochs:
            options.update(_shortened(epochs, batch, name))
        after = {'digits': json.dumps(asdict(Recipe(size.train, size.val, SIDE, seed)))}
        if name == 'mkd':
            teacher = stages['teacher']
            options['model.teachers.t.checkpoint'] = teacher.checkpoint
            after['teacher'] = teacher.fingerprint
        stages[name] = Stage(
            name=name,
            title=TITLES[name],
            config=config,
            folder=work_dir / name,
            epochs=epochs,
            total=total,
            settings=settings_of(config, work_dir / name),
            options={key: str(value) for key, value in options.items()},
            after=after,
        )
    return list(stages.values())


def _shortened(epochs: int, batch: int, name: str) -> dict[str, Any]:
    """Options for a run that is too short to learn anything."""
    student = 'model.student' if name == 'mkd' else 'model'
    options: dict[str, Any] = {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': 1,
        'train_dataloader.batch_size': batch,
        'param_scheduler.0.end': 2,
        'param_scheduler.1.T_max': epochs,
        'param_scheduler.1.end': epochs,
        'default_hooks.logger.interval': 1,
        # So that there is something to evaluate.
        f'{student}.test_cfg.score_thr': 0.001,
        f'{student}.test_cfg.nms_pre': 100,
    }
    if name == 'mkd':
        # It would say, rightly, that this teacher knows nothing.
        options['default_hooks.teacher_check'] = None
    return options


def make_data(root: Path, size: Size, seed: int, show: Display) -> None:
    """The stage that makes the digits."""
    total = size.train + size.val
    task = show.start('digits', total, 'images')
    make_digits(
        root,
        size.train,
        size.val,
        SIDE,
        seed,
        progress=lambda done, _: task.update(done),
    )
    task.finish(f'{total} images in {root}')


def make_report(
    work_dir: Path, stages: Sequence[Stage], results: Sequence[Result], show: Display
) -> list[report.Row]:
    """The stage that shows what came out: table, figures, page."""
    task = show.start('report', 4, 'parts')
    models = _load_models(stages)
    task.update(1)
    report.draw_curves(
        {stage.name: read_history(stage.folder) for stage in stages},
        TITLES,
        work_dir / 'curves.png',
    )
    task.update(2)
    report.draw_detections(
        models, TITLES, work_dir / 'digits', work_dir / 'detections.png'
    )
    task.update(3)
    rows = [
        report.Row(TITLES[result.name], _parameters(models[result.name]), result)
        for result in results
    ]
    report.write_page(
        work_dir / 'index.html',
        rows,
        summary(rows),
        {
            'detections.png': 'Detections on the first validation images, with a '
            f'score of at least {report.SCORE}.',
            'curves.png': 'Learning curves. The terms of M-KD are not part of the '
            'loss shown.',
        },
        [row.result.command for row in rows],
    )
    task.finish(str(work_dir / 'index.html'))
    return rows


def _load_models(stages: Sequence[Stage]) -> dict[str, Any]:
    """The three detectors, by stock mmdet. What M-KD has trained is a plain
    student: the plain student's config loads it.
    """
    from mmdet.apis import init_detector

    models = {}
    for stage in stages:
        config = CONFIGS['student' if stage.name == 'mkd' else stage.name]
        with redirect_stdout(io.StringIO()):  # it tells what it loads
            models[stage.name] = init_detector(
                str(ROOT / config), str(stage.checkpoint), device=get_device()
            )
    return models


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def summary(rows: Sequence[report.Row]) -> str:
    """What the table says, in a sentence."""
    maps = {row.result.name: row.result.figures['box_map'] for row in rows}
    gain = 100 * (maps['mkd'] - maps['student'])
    gap = 100 * (maps['teacher'] - maps['student'])
    more = 'more' if gain >= 0 else 'less'
    return (
        f'Taught by the teacher, the student reaches {maps["mkd"]:.3f} box mAP: '
        f'{abs(gain):.1f} points {more} than alone. The teacher is {gap:.1f} points '
        'above the student alone.'
    )


def write_results(
    path: Path, rows: Sequence[report.Row], size: Size, seed: int
) -> None:
    """All numbers, one entry a run."""
    runs = [{**row.result.entry(), 'seed': seed, 'params': row.params} for row in rows]
    write_json(path, {'data': asdict(size), 'runs': runs})


def show_table(rows: Sequence[report.Row]) -> None:
    """The table, on the terminal."""
    table = Table(*report.HEADER)
    for column in table.columns[1:]:
        column.justify = 'right'
    for row in rows:
        table.add_row(*row.cells())
    console().print(table)


def run_all(args: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """All stages, then the table."""
    size = QUICK if args.quick else Size()
    work_dir = args.work_dir
    stages = plan_stages(work_dir, size, args.seed)
    with display(len(stages) + 2, 'demo') as show:
        show.say(INTRODUCTION.format(folder=work_dir))
        make_data(work_dir / 'digits', size, args.seed, show)
        results = [run_stage(stage, environment, show) for stage in stages]
        rows = make_report(work_dir, stages, results, show)
        write_results(work_dir / 'results.json', rows, size, args.seed)
    show_table(rows)
    print(summary(rows))
    print(f'All of it on one page: {(work_dir / "index.html").resolve()}')


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo; Ctrl-C leaves it ready to go on."""
    args = parse_args(argv)
    # mmengine tells which environment variables it reads, each time.
    MMLogger.get_current_instance().setLevel('WARNING')
    environment = {'DIGITS_ROOT': str(args.work_dir / 'digits')}
    os.environ.update(environment)
    try:
        with alone(args.work_dir, 'demo'):
            run_all(args, environment)
    except KeyboardInterrupt:
        print('\nStopped. The same command goes on from here.')
        raise SystemExit(130) from None


if __name__ == '__main__':
    raise SystemExit(main())
