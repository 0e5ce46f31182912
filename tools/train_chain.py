#!/usr/bin/env python
"""Trains a chain of assistants: each by those before it, the student by all of them.

    python tools/train_chain.py configs/chain/gfl_r18-w64-32_dgkd_r18-w16_bccd.py

Every stage is an ordinary training, with a config of its own (WORK_DIR/configs), that
ends with a plain student (WORK_DIR/students). What can be known to be wrong with any of
them is looked at before the first one. Interrupted and started again, it goes on where
it was; after a change of the chain file, only what it changes is trained anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import Any

import _environment  # noqa: F401
from chain_checks import check_chain, load_given
from chain_jobs import Job, make_configs, make_jobs
from chain_report import draw, entries, labels, read_others, table
from mmengine.logging import MMLogger

from mkd_det.experiments.chain.chain import Chain, read_chain
from mkd_det.cli.common import (
    add_devices,
    config_parser,
    console,
    main_guard,
    quiet_libraries,
)
from mkd_det.configs import read_config
from mkd_det.errors import as_config_error
from mkd_det.training.export import export, save_student
from mkd_det.experiments.runs import (
    ROOT,
    Display,
    Result,
    StageError,
    alone,
    display,
    read_json,
    run_stage,
    run_together,
    write_json,
)
from mkd_det.experiments.runs.recovery import is_complete_checkpoint

# Stages run side by side in processes of their own; models are built here one at a
# time, since mmengine's scope of registries is one for all threads.
BUILDING = Lock()


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The chain, where it goes, and on what."""
    parser = config_parser(__doc__)
    parser.add_argument(
        '--work-dir', type=Path, help='default: work_dirs/<name of the chain file>'
    )
    add_devices(parser, 'stages of a parallel group')
    parser.add_argument(
        '--beside',
        nargs='+',
        type=Path,
        default=[],
        help='work dirs of other chains, to show in the figure',
    )
    args = parser.parse_args(argv)
    if args.work_dir is None:
        args.work_dir = Path('work_dirs', Path(args.config).stem)
    return args


def forget_outdated(jobs: Sequence[Job], folder: Path) -> None:
    """Take away plain models and results of a chain that was another, so that nobody
    takes them for this one's; stages put aside keep their own."""
    old = [job for job in jobs if not is_written(job)]
    for job in old:
        weights = job.student[1]
        if weights.is_file():
            print(
                f'{job.member.name}: {weights} is damaged or not known to be what this'
                ' chain makes; removed'
            )
        for file in (weights, weights.with_suffix('.json')):
            file.unlink(missing_ok=True)
    if old:
        for name in ('chain.json', 'chain.png'):
            (folder / name).unlink(missing_ok=True)


def run_jobs(
    jobs: Sequence[Job], chain: Chain, devices: Sequence[str], show: Display
) -> list[Result]:
    """Run all, those of a group on several devices side by side."""
    by_name = {job.member.name: job for job in jobs}

    def run(job: Job, environment: Mapping[str, str], stop: Event) -> Result:
        return run_job(job, environment, show, stop)

    results = []
    for group in chain.groups():
        of_group = [by_name[member.name] for member in group]
        results += run_together(of_group, devices, run)
    return results


def run_job(
    job: Job, environment: Mapping[str, str], show: Display, stop: Event
) -> Result:
    """Train a member, or test one that is given; leaves its plain model."""
    if job.stage is None:
        return test_given(job, environment, show)
    result = run_stage(job.stage, environment, show, stop)
    if not is_written(job):
        config, weights = job.student
        with BUILDING:
            export(job.cfg, str(job.stage.checkpoint), weights, config)
        note_written(job)
    return result


def is_written(job: Job) -> bool:
    """Whether the plain model is there, made from what it is to be made from."""
    weights = job.student[1]
    known = read_json(weights.with_suffix('.json'))
    return bool(known) and known['of'] == job.fingerprint and is_complete_checkpoint(weights)


def note_written(job: Job, **more: Any) -> None:
    """Note what the plain model is made from."""
    write_json(job.student[1].with_suffix('.json'), {'of': job.fingerprint, **more})


def test_given(job: Job, environment: Mapping[str, str], show: Display) -> Result:
    """What a member that is taken as trained reaches; its plain model is written."""
    member, weights = job.member, job.student[1]
    task = show.start(f'{member.name}, given', 1, 'test')
    if not is_written(job):
        with BUILDING:
            teacher = load_given(member, job.cfg)
        save_student(weights, teacher.model.state_dict(), teacher.meta)
        note_written(job)
    name, key = job.metric
    note = read_json(weights.with_suffix('.json'))
    if key not in note:
        note_written(job, **_tested(job, environment))
        note = read_json(weights.with_suffix('.json'))
    result = Result(member.name, {name: note[key]}, 0.0, 'given')
    task.finish(str(result))
    return result


def _tested(job: Job, environment: Mapping[str, str]) -> dict[str, float]:
    """All that tools/test.py finds."""
    config, weights = job.student
    folder = job.folder / f'{job.member.name}.test'
    folder.mkdir(parents=True, exist_ok=True)
    tool = os.path.relpath(ROOT / 'tools' / 'test.py')
    log = folder / 'test.log'
    with open(log, 'wb') as file:
        code = subprocess.call(
            [sys.executable, tool, str(config), str(weights), '--work-dir', folder],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    found = sorted(folder.glob('*/*.json'))
    metrics = read_json(found[-1]) if found and not code else None
    if not metrics or job.metric[1] not in metrics:
        raise StageError(
            f'the test of {job.member.name} ended without {job.metric[1]}',
            available=metrics or (),
            fix=f'its log is {log}',
        )
    return {key: float(value) for key, value in metrics.items()}


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Check all, train what is missing, show what came out."""
    args = parse_args(argv)
    quiet_libraries()
    cfg = read_config(args.config)
    if args.cfg_options:
        with as_config_error('--cfg-options'):
            cfg.merge_from_dict(args.cfg_options)
    chain = read_chain(cfg.to_dict())
    folder = Path(os.path.abspath(args.work_dir))
    with alone(folder, 'chain'):
        configs = make_configs(chain, folder)
        sizes = check_chain(chain, configs, folder)
        jobs = make_jobs(chain, configs, sizes, folder)
        metric = jobs[-1].metric[0]
        others = read_others(args.beside, metric)
        forget_outdated(jobs, folder)
        MMLogger.get_current_instance().setLevel('WARNING')
        try:
            with display(len(jobs), 'chain') as show:
                results = run_jobs(jobs, chain, args.devices, show)
        except KeyboardInterrupt:
            print('\nStopped. The same command goes on from here.')
            raise SystemExit(130) from None
        rows = entries(jobs, results)
        write_json(folder / 'chain.json', rows)
        own = {folder.resolve(): rows}
        chains = own | others | own  # its own first, and as it is now
        named = dict(zip(labels(list(chains)), chains.values()))
        draw(named, folder / 'chain.png', metric)
    console().print(table(rows))
    print(f'The student: {jobs[-1].student[1]}; the figure: {folder / "chain.png"}')


if __name__ == '__main__':
    raise SystemExit(main())
