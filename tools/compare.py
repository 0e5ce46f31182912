#!/usr/bin/env python
"""Compares ways to train one student: what helps, what does not, what it costs.

    python tools/compare.py configs/bccd/ablation/*.py \\
        --base configs/bccd/gfl_r18-w16_bccd.py --seeds 0 1 2

Each row is a config, or a recipe (configs/_base_/recipes/), which is put together with
the base; `name=path` gives it a name. All rows train with the same seeds, and begin
with the same student: that is looked at, and rows that do not, or that differ in more
than how they are taught, are marked. Writes one report, WORK_DIR/report/index.html.
Interrupted and started again, it goes on where it was; rows and seeds can be added.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import _environment  # noqa: F401
from mkd_det.experiments.runs.training import (
    metric_of,
    settings_in,
    stage_of,
    steps_of,
    write_config,
)
from mmengine.config import Config
from rich.table import Table
from rich.text import Text
from torch import nn

import mkd_det  # noqa: F401
from mkd_det.cli.common import (
    add_devices,
    config_parser,
    console,
    main_guard,
    quiet_libraries,
)
from mkd_det.errors import ConfigError, is_integer, prefix_errors
from mkd_det.experiments.comparison import report
from mkd_det.experiments.comparison.marks import Start, marks_of, start_of
from mkd_det.experiments.comparison.rows import (
    Common,
    Row,
    read_rows,
    schedulers_of,
)
from mkd_det.experiments.comparison.runs import Run, outcome, read_run
from mkd_det.experiments.runs import (
    Stage,
    StageError,
    alone,
    display,
    run_stage,
    run_together,
)
from mkd_det.io.paths import check_writable_folder, relative_to_cwd
from mkd_det.teachers.bank import load_teacher_cfg
from mkd_det.training.preflight import check_amp, check_before_start
from mkd_det.training.runtime import prepare_config


@dataclass(frozen=True)
class Plan:
    """What is run.

    Args:
        rows: The base first.
        stages: By row and seed, in the order in which they run.
        starts: By row and seed, how the student begins.
        metric: What counts: its name, and its key in the log.
        folder: Of all.
    """

    rows: Sequence[Row]
    stages: Mapping[tuple[str, int], Stage]
    starts: Mapping[tuple[str, int], Start]
    metric: tuple[str, str]
    folder: Path


@dataclass(frozen=True)
class Found:
    """What came of the runs.

    Args:
        runs: That came to an end, by row and seed.
        failed: What stopped the others, by their titles.
        stopped: Whether some were not run to their end, by Ctrl-C.
    """

    runs: Mapping[tuple[str, int], Run]
    failed: dict[str, StageError]
    stopped: bool = False

    def of(self, plan: Plan, row: str) -> list[Run]:
        """Of one row, in the order of its seeds."""
        return [
            self.runs[key] for key in plan.stages if key[0] == row and key in self.runs
        ]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """What is compared, how often and how long."""
    parser = config_parser(__doc__, 'rows', nargs='+', help='configs, or recipes')
    add = parser.add_argument
    add('--base', help='config of the student alone')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    add('--epochs', type=int, help='budget of every row; default: as configs say')
    add('--iters', type=int, help='the same, for configs that count iterations')
    add(
        '--teacher',
        action='append',
        default=[],
        metavar='NAME=PATH',
        help='checkpoint of a teacher, in all rows that have it; its name may be left'
        ' out if it is t; once for each teacher',
    )
    add(
        '--teacher-cfg',
        action='append',
        default=[],
        metavar='NAME=PATH',
        help='config of a teacher, for recipes',
    )
    add('--metric', default='', help='what counts, such as coco/bbox_mAP_50')
    add(
        '--least',
        type=float,
        help='the least gain that counts; default: half a point (0.005 mAP, 0.5 %%)',
    )
    add_devices(parser, 'trainings')
    add('--work-dir', type=Path, default=Path('work_dirs/compare'))
    add('--out', type=Path, help='folder of the report; default: WORK_DIR/report')
    # Rows may stand before and after options.
    return parser.parse_intermixed_args(argv)


def check_args(args: argparse.Namespace) -> Common:
    """Raise ConfigError for what no comparison could have."""
    if not args.base:
        raise ConfigError(
            'there is nothing to compare with',
            expected='the student alone',
            fix='--base configs/bccd/gfl_r18-w16_bccd.py',
        )
    wrong = next((seed for seed in args.seeds if args.seeds.count(seed) > 1), None)
    if wrong is not None:
        raise ConfigError(f'--seeds: {wrong} is given twice', actual=args.seeds)
    if min(args.seeds) < 0 or max(args.seeds) >= 2**32:
        raise ConfigError(
            '--seeds must be 0 or above, and below 2^32', actual=args.seeds
        )
    if args.epochs is not None and args.iters is not None:
        raise ConfigError('--epochs and --iters cannot both be the budget')
    for name in ('epochs', 'iters'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f'--{name} must be at least 1', actual=value)
    if args.least is not None and not 0 <= args.least < math.inf:
        raise ConfigError('--least must be 0 or above', actual=args.least)
    teachers = _teachers('--teacher', args.teacher)
    for path in teachers.values():
        if '://' not in path and not Path(path).is_file():
            raise ConfigError(
                '--teacher: there is no such file',
                expected='a checkpoint of the trained teacher, or its address',
                actual=path,
                fix='train it first: python tools/train.py TEACHER_CONFIG',
            )
    return Common(
        teachers=teachers,
        teacher_cfgs=_teachers('--teacher-cfg', args.teacher_cfg),
        options=args.cfg_options or {},
        epochs=args.epochs,
        iters=args.iters,
    )


def _teachers(option: str, given: Sequence[str]) -> dict[str, str]:
    """Paths by name; `t` where there is no name."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, path = text.partition('=')
        if not sign or not name.isidentifier():
            name, path = 't', text
        if name in found:
            raise ConfigError(
                f'{option}: two teachers are called {name!r}',
                actual=[found[name], path],
                fix=f'{option} t={found[name]} {option} t2={path}',
            )
        found[name] = path
    return found


def make_plan(args: argparse.Namespace, rows: Sequence[Row], folder: Path) -> Plan:
    """Check every row, write its config, and look at how its student begins.

    Raises:
        MkdError: A row could not be trained to its end.
    """
    metric = metric_of(rows[0].cfg, rows[0].name, args.metric)
    units = {row.name: steps_of(row.cfg, row.name)[1] for row in rows}
    other = next((n for n in units if units[n] != units[rows[0].name]), None)
    if other:
        raise ConfigError(
            f'{other} is not trained in the unit of {rows[0].name}',
            expected='all rows in epochs, or all in iterations',
            actual=units,
        )
    for row in rows:
        metric_of(row.cfg, row.name, metric[1])
    stages, starts = {}, {}
    for row in rows:
        with prefix_errors(row.name):
            print(f'Looking at {row.name}', flush=True)
            first = check_row(row, metric, folder)
            for seed in args.seeds:
                starts[row.name, seed] = start_of(prepare_config(row.cfg), seed)
        for seed in args.seeds:
            name = f'{row.stem}-{seed}'
            stages[row.name, seed] = replace(
                first,
                name=name,
                title=f'{row.name}, seed {seed}',
                folder=folder / name,
                options={'randomness.seed': str(seed)},
            )
    # A seed of all rows, then the next one: what is there can be compared early.
    order = [(row.name, seed) for seed in args.seeds for row in rows]
    return Plan(rows, {key: stages[key] for key in order}, starts, metric, folder)


def check_row(row: Row, metric: tuple[str, str], folder: Path) -> Stage:
    """Raise for whatever would stop a row later; returns its training, of no seed."""
    check_amp(row.cfg)
    cfg = prepare_config(deepcopy(row.cfg))
    cfg.work_dir = str(folder / row.stem)
    model = check_before_start(cfg)
    path = folder / 'configs' / f'{row.stem}.py'
    write_config(path, row.cfg)
    return stage_of(
        row.cfg,
        path,
        folder,
        name=row.name,
        title=row.name,
        after=teachers_in(model, cfg),
        figures=dict([metric]),
        settings={
            key: value
            for key, value in settings_in(row.cfg, folder).items()
            # What it holds counts, not where it lies.
            if not (key.startswith('model.teachers.') and key.endswith('.checkpoint'))
        },
    )


def teachers_in(model: nn.Module, cfg: Config) -> dict[str, str]:
    """What teaches in a training: weights, and configs of their models."""
    found = {}
    for name, teacher in getattr(model, 'teachers', {}).items():
        told = cfg.model.teachers[name].get('cfg')
        text = json.dumps(told and load_teacher_cfg(told)[0], default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        found[f'teacher {name}'] = f'{teacher.weights}, config {digest}'
    return found


def run_all(plan: Plan, devices: Sequence[str]) -> Found:
    """Run what is missing."""
    runs: dict[tuple[str, int], Run] = {}
    found = Found(runs, {})
    with display(len(plan.stages), 'comparison') as show:

        def run(
            item: tuple[tuple[str, int], Stage],
            environment: Mapping[str, str],
            stop: Event,
        ) -> None:
            (row, seed), stage = item
            try:
                result = run_stage(stage, environment, show, stop)
                runs[row, seed] = read_run(row, seed, stage, result, plan.metric[1])
            except StageError as error:  # the others can be compared all the same
                show.say(f'{stage.title}: failed; goes on with the others')
                found.failed[stage.title] = error

        try:
            run_together(list(plan.stages.items()), devices, run)
        except KeyboardInterrupt:
            return replace(found, stopped=True)
    return found


def sum_up(plan: Plan, found: Found, args: argparse.Namespace) -> report.Comparison:
    """What came out of all rows."""
    base, key = plan.rows[0], plan.metric[1]
    percent = any(run.metrics[key] > 1 for run in found.runs.values())
    least = args.least
    if least is None:
        least = 0.5 if percent else 0.005
    outcomes = []
    for row in plan.rows:
        runs = found.of(plan, row.name)
        if not runs:
            continue
        starts = {
            seed: (plan.starts[row.name, seed], plan.starts[base.name, seed])
            for seed in args.seeds
        }
        outcomes.append(
            outcome(
                runs,
                found.of(plan, base.name),
                key,
                least,
                source=row.source,
                config=relative_to_cwd(plan.folder / 'configs' / f'{row.stem}.py'),
                marks=marks_of(row.cfg, base.cfg, starts),
                params=plan.starts[row.name, args.seeds[0]].params,
            )
        )
    stage = plan.stages[base.name, args.seeds[0]]
    return report.Comparison(
        outcomes=outcomes,
        metric=plan.metric[0] + (', %' if percent else ''),
        key=key,
        seeds=args.seeds,
        steps=stage.epochs,
        unit='epochs' if stage.by_epoch else 'iterations',
        least=least,
        together=len(args.devices),
        command=shlex.join(['python', 'tools/compare.py', *args.given]),
        notes=[
            *notes_on(plan),
            *(f'{title}: failed; not in here.' for title in found.failed),
            *([stopped_words(plan, found)] if found.stopped else []),
        ],
    )


def stopped_words(plan: Plan, found: Found) -> str:
    """What is missing from a comparison that was stopped."""
    left = len(plan.stages) - len(found.runs) - len(found.failed)
    return f'Stopped before its end: {left} of {len(plan.stages)} runs are not in here.'


def notes_on(plan: Plan) -> list[str]:
    """What is odd about the budget."""
    notes = []
    totals = {name: stage.total for (name, _), stage in plan.stages.items()}
    for row in plan.rows:
        for part in schedulers_of(row.cfg):
            keys = ('end', 'T_max', 'total_steps')
            last = max([v for k in keys if is_integer(v := part.get(k))], default=0)
            if not part.get('by_epoch', True) and totals[row.name] < last < 10**8:
                notes.append(
                    f'{row.name}: its {part.type} lasts {last} iterations, the'
                    f' training {totals[row.name]}.'
                )
    return notes


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Check all, run what is missing, report."""
    args = parse_args(argv)
    args.given = list(sys.argv[1:] if argv is None else argv)
    common = check_args(args)
    quiet_libraries()
    rows = read_rows(args.base, args.rows, common)
    folder = Path(os.path.abspath(args.work_dir))
    out = args.out or folder / 'report'
    check_writable_folder(out, '--out')
    with alone(folder, 'comparison'):
        plan = make_plan(args, rows, folder)
        found = run_all(plan, args.devices)
        if found.of(plan, rows[0].name):  # whatever else is there has its base
            comparison = sum_up(plan, found, args)
            report.write_report(comparison, out)
            show(comparison)
            print(f'All of it on one page: {(out / report.PAGE).resolve()}')
    if found.stopped:
        print('\nStopped. The same command goes on from here.')
        raise SystemExit(130)
    if found.failed:
        raise next(iter(found.failed.values()))


def show(comparison: report.Comparison) -> None:
    """The table, on the terminal."""
    header, *lines = report.sections(comparison)[0].table
    table = Table(*header)
    for column in table.columns[1:]:
        column.justify = 'right'
    for line in lines:
        table.add_row(*map(Text, line))
    console().print(table)


if __name__ == '__main__':
    raise SystemExit(main())
