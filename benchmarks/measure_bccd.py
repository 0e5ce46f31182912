#!/usr/bin/env python
"""Measures M-KD and its parts on BCCD, and writes docs/results/bccd.*.

    python tools/measure_bccd.py --seeds 0 1 2

Trains the teacher (seed 0), then every row with every seed; what is done is not
done again, what was interrupted goes on. BCCD must lie at data/bccd, or
where BCCD_ROOT says.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

import measuring
from mkd_det.experiments.runs.training import settings_of

from mkd_det.cli.common import main_guard
from mkd_det.experiments.runs import Stage

TEACHER = 'configs/bccd/gfl_r18-w64_bccd.py'
STUDENT = 'configs/bccd/gfl_r18-w16_bccd.py'
ROWS = {
    'student alone': STUDENT,
    'soft outputs': 'configs/bccd/ablation/soft.py',
    'relation': 'configs/bccd/ablation/relation.py',
    'attention': 'configs/bccd/ablation/attention.py',
    'all three': 'configs/bccd/ablation/three.py',
    'all three, guided': 'configs/bccd/ablation/guided.py',
    'full M-KD': 'configs/bccd/gfl_mkd_r18-w64_r18-w16_bccd.py',
    'full M-KD, teacher in float32': 'configs/bccd/gfl_mkd_r18-w64_r18-w16_bccd.py',
}
OPTIONS = {'full M-KD, teacher in float32': {'model.teachers.t.speed': 'off'}}
EPOCHS, ITERATIONS = 16, 16 * 26
REPORT = measuring.Report(
    stem='bccd',
    note='The guidance layers bring a term on features with them, which needs them. The'
    ' weights were chosen on the same test split, with seed 0.',
    figures=(
        measuring.Figure('box_map', 'box mAP'),
        measuring.Figure('box_map_50', 'mAP50'),
    ),
    axis='box mAP on the test split of BCCD',
    teachers=['teacher'],
)


def plan_stages(args: argparse.Namespace) -> list[tuple[str, int, Stage]]:
    """(row, seed, training) of the teacher and then of every row and seed."""

    def stage(row: str, config: str, seed: int, **options: Any) -> Stage:
        name = measuring.folder_name(row, seed)
        return Stage(
            name=name,
            title=f'{row}, seed {seed}',
            config=config,
            folder=args.work_dir / name,
            epochs=EPOCHS,
            total=ITERATIONS,
            settings=settings_of(config, args.work_dir / name),
            options={'randomness.seed': str(seed)} | options,
        )

    teacher = stage('teacher', TEACHER, 0)
    stages = [('teacher', 0, teacher)]
    for seed in args.seeds:
        for row in args.rows:
            taught = {'model.teachers.t.checkpoint': str(teacher.checkpoint)}
            options = {} if ROWS[row] == STUDENT else taught | OPTIONS.get(row, {})
            stages.append((row, seed, stage(row, ROWS[row], seed, **options)))
    return stages


@functools.cache
def parameters(row: str) -> int:
    """Of the model of a row."""
    return measuring.count_parameters(TEACHER if row == 'teacher' else STUDENT)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; write after every run."""
    args = measuring.parser(__doc__, list(ROWS), 'work_dirs/bccd').parse_args(argv)
    seeds = ' '.join(map(str, args.seeds))
    command = f'python tools/measure_bccd.py --seeds {seeds}'
    runs = measuring.measure(
        plan_stages(args),
        parameters,
        functools.partial(measuring.write_report, REPORT, command, args.out),
    )
    print(json.dumps(runs[-1], indent=1))
    print(measuring.table(runs, REPORT.figures))


if __name__ == '__main__':
    sys.exit(main())
