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
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import _environment  # noqa: F401
import torch
from export_student import export
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.table import Table
from train import check_before_start, check_count

from mkd_det.chain import LOADING, Chain, Member, read_chain, stage_config
from mkd_det.cli import config_parser, console, main_guard, quiet_libraries, read_config
from mkd_det.errors import ConfigError
from mkd_det.hooks.atomic import write_atomically
from mkd_det.places import check_folder
from mkd_det.runtime import student_config
from mkd_det.stages import (
    ROOT,
    Display,
    Result,
    Stage,
    StageError,
    alone,
    display,
    read_json,
    run_stage,
    write_json,
)
from mkd_det.teachers import Teacher

# Metric that counts, by evaluator.
METRICS = {
    'ClassAccuracy': 'accuracy/top1',
    'CocoMetric': 'coco/bbox_mAP',
    'VOCMetric': 'pascal_voc/mAP',
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The chain, where it goes, and on what."""
    parser = config_parser(__doc__)
    parser.add_argument(
        '--work-dir', type=Path, help='default: work_dirs/<name of the chain file>'
    )
    parser.add_argument(
        '--devices',
        nargs='+',
        default=[''],
        help='GPUs, by number: stages of a parallel group run side by side on them.'
        ' On a CPU, cpu cpu runs two at a time',
    )
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
    for device in args.devices:
        if device not in ('', 'cpu') and not device.isdigit():
            parser.error(f'--devices takes numbers of GPUs, or cpu, not {device!r}')
    return args


# -- before the first stage -------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A member of the chain and what is done with it.

    Args:
        member: The member.
        cfg: Of its training, or of its test where it is given.
        folder: Of all stages.
        params: Of the plain model.
        metric: What counts: name and key in the log.
        stage: Its training, or None where it is given.
    """

    member: Member
    cfg: Config
    folder: Path
    params: int
    metric: tuple[str, str]
    stage: Stage | None

    @property
    def student(self) -> tuple[Path, Path]:
        """Files of the plain model: config and weights."""
        return student_files(self.folder, self.member.name)


def student_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Config and weights of a plain model in the folder of a chain."""
    return folder / 'students' / f'{name}.py', folder / 'students' / f'{name}.pth'


def make_configs(chain: Chain, folder: Path) -> dict[str, Config]:
    """Of every member; plain models' configs are written beside."""
    students = {}
    configs = {}
    for member in chain.members:
        cfg = stage_config(member, students, chain)
        cfg.work_dir = str(folder / member.name)
        if member.checkpoint is not None:
            # What a training would say of it at its end.
            cfg.test_dataloader = cfg.get('val_dataloader')
            cfg.test_evaluator = cfg.get('val_evaluator')
            cfg.test_cfg = dict(type='TestLoop')
        config, weights = student_files(folder, member.name)
        text = student_config(cfg).pretty_text
        if not config.is_file() or config.read_text() != text:
            config.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(config, text.encode())
        students[member.name] = str(config), str(weights)
        configs[member.name] = cfg
    return configs


def check_chain(chain: Chain, configs: Mapping[str, Config]) -> dict[str, int]:
    """Raise for whatever would stop a stage later.

    Returns:
        Parameters of each plain model.
    """
    sizes = {}
    for member in chain.members:
        cfg = configs[member.name]
        metric_of(chain, cfg, member)
        if member.checkpoint is None:
            steps_of(cfg, member)
            model = check_before_start(cfg, teachers=False)
        else:
            model = load_given(member, cfg).model
            check_count(_classes(cfg), model)
        plain = getattr(model, 'student', model)
        sizes[member.name] = sum(p.numel() for p in plain.parameters())
    warn_of_order(chain, sizes)
    return sizes


def _classes(cfg: Config) -> dict[str, Any]:
    from mkd_det.data.check import classes_of

    return {'val': classes_of(cfg, 'val')}


def load_given(member: Member, cfg: Config) -> Teacher:
    """The model of a member that is taken as trained, with its weights.

    Raises:
        MkdError: They do not fit, or are of other classes than the data.
    """
    loading = {k: v for k, v in member.teacher.items() if k in LOADING}
    whole = {'cfg': cfg.model, 'checkpoint': member.checkpoint, **loading}
    teacher = Teacher.build(member.name, whole)
    teacher.load()
    for names in _classes(cfg).values():
        if names:
            teacher.check_classes(names)
    return teacher


def metric_of(chain: Chain, cfg: Config, member: Member) -> tuple[str, str]:
    """What counts for a member: its name, and its key in the log.

    Raises:
        ConfigError: Nothing is evaluated, or by an evaluator that is not known.
    """
    evaluators = cfg.get('val_evaluator') or []
    if isinstance(evaluators, Mapping):
        evaluators = [evaluators]
    kinds = [str(e.get('type')).rpartition('.')[2] for e in evaluators]
    known = [METRICS[kind] for kind in kinds if kind in METRICS]
    key = chain.metric or next(iter(known), '')
    if not kinds or not key:
        raise ConfigError(
            f'chain: {member.name}: it is not known which metric counts',
            expected='a `val_evaluator`, and one of those, or `metric`',
            actual=kinds or None,
            available=METRICS,
            hint="metric='coco/bbox_mAP'",
        )
    return key.rpartition('/')[2], key


def steps_of(cfg: Config, member: Member) -> tuple[int, bool]:
    """How long a member is trained, and whether that is in epochs."""
    loop = cfg.get('train_cfg') or {}
    for key, by_epoch in (('max_epochs', True), ('max_iters', False)):
        if isinstance(loop.get(key), int):
            return loop[key], by_epoch
    raise ConfigError(
        f'chain: {member.name}: its config does not say how long it is trained',
        expected='train_cfg.max_epochs, or max_iters',
        actual=dict(loop) or None,
    )


def warn_of_order(chain: Chain, sizes: Mapping[str, int]) -> None:
    """Say which members are larger than one that is before them."""
    for group, after in zip(groups := list(chain.groups()), groups[1:]):
        least = min(group, key=lambda m: sizes[m.name])
        for member in after:
            if sizes[member.name] > sizes[least.name]:
                print(
                    f'Warning: {member.name} ({sizes[member.name] / 1e6:.2f} M'
                    f' parameters) is larger than {least.name} before it'
                    f' ({sizes[least.name] / 1e6:.2f} M): assistants are to come in'
                    ' order of size'
                )


# -- the stages ---------------------------------------------------------------


def make_jobs(
    chain: Chain, configs: Mapping[str, Config], sizes: Mapping[str, int], folder: Path
) -> list[Job]:
    """Write the stages' configs; say of each in what it has changed."""
    before = read_json(folder / 'fingerprints.json') or {}
    fingerprints: dict[str, str] = {}
    jobs = []
    for member in chain.members:
        cfg = configs[member.name]
        path = folder / 'configs' / f'{member.name}.py'
        changed = write_config(path, cfg)
        stage = None
        if member.checkpoint is not None:
            content = Path(member.checkpoint).read_bytes()
            fingerprints[member.name] = hashlib.sha256(content).hexdigest()[:16]
        else:
            other = [g for g in member.guides if fingerprints[g] != before.get(g)]
            why = [f'{", ".join(changed)} changed'] if changed else []
            why += [f'its guide {", ".join(other)} is another'] if other else []
            stage = make_stage(member, cfg, path, why, fingerprints, chain)
            fingerprints[member.name] = stage.fingerprint
        metric = metric_of(chain, cfg, member)
        size = sizes[member.name]
        jobs.append(Job(member, cfg, folder, size, metric, stage))
    write_json(folder / 'fingerprints.json', fingerprints)
    return jobs


def make_stage(
    member: Member,
    cfg: Config,
    path: Path,
    why: Sequence[str],
    fingerprints: Mapping[str, str],
    chain: Chain,
) -> Stage:
    """The training of a member."""
    from mmengine.runner import Runner

    steps, by_epoch = steps_of(cfg, member)
    name, key = metric_of(chain, cfg, member)
    length = len(Runner.build_dataloader(cfg.train_dataloader)) if by_epoch else 1
    guides = f', taught by {", ".join(member.guides)}' if member.guides else ''
    return Stage(
        name=member.name,
        title=member.name + guides,
        config=str(path.resolve()),
        folder=Path(cfg.work_dir),
        epochs=steps,
        total=steps * length,
        after=tuple(fingerprints[guide] for guide in member.guides),
        figures={name: key},
        by_epoch=by_epoch,
        why=' and '.join(why),
    )


def write_config(path: Path, cfg: Config) -> list[str]:
    """Write a config; returns the settings in which it differs from what was there."""
    text = cfg.pretty_text
    if path.is_file() and path.read_text() == text:
        return []
    old = Config.fromfile(path).to_dict() if path.is_file() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    new = Config.fromfile(path).to_dict()
    return [] if old is None else list(_changes(old, new))


def _changes(old: Any, new: Any, where: str = '') -> Iterator[str]:
    """Paths of what differs, as deep as both are dicts."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        if old != new:
            yield where
        return
    for key in dict.fromkeys([*old, *new]):
        path = f'{where}.{key}' if where else str(key)
        yield from _changes(old.get(key), new.get(key), path)


def run_jobs(
    jobs: Sequence[Job], chain: Chain, devices: Sequence[str], show: Display
) -> list[Result]:
    """Run all, those of a group on several devices side by side."""
    by_name = {job.member.name: job for job in jobs}
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    stop = Event()

    def run(job: Job) -> Result:
        device = free.get()
        try:
            return run_job(job, _environment_of(device), show, stop)
        except BaseException:
            stop.set()  # the others of the group, too
            raise
        finally:
            free.put(device)

    results = []
    for group in chain.groups():
        with ThreadPoolExecutor(len(devices)) as pool:
            waiting = [pool.submit(run, by_name[member.name]) for member in group]
            try:
                results += [future.result() for future in waiting]
            except BaseException:
                stop.set()
                raise
    return results


def _environment_of(device: str) -> dict[str, str]:
    if device in ('', 'cpu'):
        return {}
    return {'CUDA_VISIBLE_DEVICES': device}


def run_job(
    job: Job, environment: Mapping[str, str], show: Display, stop: Event
) -> Result:
    """Train a member, or test one that is given; leaves its plain model."""
    config, weights = job.student
    if job.stage is None:
        return test_given(job, environment, show)
    result = run_stage(job.stage, environment, show, stop)
    trained = job.stage.checkpoint
    # An export that is older is of what was trained before.
    if not weights.is_file() or weights.stat().st_mtime < trained.stat().st_mtime:
        export(job.cfg, str(trained), weights, config)
    return result


def test_given(job: Job, environment: Mapping[str, str], show: Display) -> Result:
    """What a member that is taken as trained reaches; its plain model is written."""
    member, weights = job.member, job.student[1]
    task = show.start(f'{member.name}, given', 1, 'test')
    folder = job.folder / member.name
    known = read_json(folder / 'done.json')
    mark = [job.cfg.pretty_text, hashlib.sha256(_bytes(member)).hexdigest()]
    if not known or known['mark'] != mark or not weights.is_file():
        teacher = load_given(member, job.cfg)
        content = dict(state_dict=teacher.model.state_dict(), meta=teacher.meta)
        torch.save(content, weights)
        folder.mkdir(parents=True, exist_ok=True)
        value = _tested(job, folder, environment)
        known = {'mark': mark, 'value': value}
        write_json(folder / 'done.json', known)
    name, _ = job.metric
    result = Result(member.name, {name: known['value']}, 0.0, 'given')
    task.finish(str(result))
    return result


def _bytes(member: Member) -> bytes:
    return Path(member.checkpoint or '').read_bytes()


def _tested(job: Job, folder: Path, environment: Mapping[str, str]) -> float:
    """The metric that tools/test.py finds."""
    config, weights = job.student
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
    key = job.metric[1]
    metrics = read_json(found[-1]) if found and not code else None
    if not metrics or key not in metrics:
        raise StageError(
            f'the test of {job.member.name} ended without {key}',
            available=metrics or (),
            hint=f'its log is {log}',
        )
    return float(metrics[key])


# -- what came out ------------------------------------------------------------


def entries(jobs: Sequence[Job], results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each member."""
    return [
        {
            **result.entry(),
            'params': job.params,
            'guides': list(job.member.guides),
            'metric': job.metric[0],
        }
        for job, result in zip(jobs, results, strict=True)
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """For the terminal."""
    made = Table('stage', 'parameters', rows[0]['metric'], 'seconds', 'taught by')
    for column in made.columns[1:4]:
        column.justify = 'right'
    for row in rows:
        given = row['command'] == 'given'
        made.add_row(
            row['name'],
            f'{row["params"] / 1e6:.2f} M',
            f'{row[row["metric"]]:.3f}',
            'given' if given else f'{row["seconds"]:.0f}',
            ', '.join(row['guides']) or '-',
        )
    return made


def draw(
    chains: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, metric: str
) -> None:
    """Metric over size, a line for each chain; its student is marked."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout='constrained')
    for label, rows in chains.items():
        sizes = [row['params'] / 1e6 for row in rows]
        values = [row[metric] for row in rows]
        (line,) = axes.plot(sizes, values, 'o-', label=label, alpha=0.8)
        axes.plot(sizes[-1], values[-1], '*', ms=15, color=line.get_color())
        for row, size, value in zip(rows, sizes, values):
            axes.annotate(row['name'], (size, value), xytext=(4, 4), size=8,
                          textcoords='offset points')  # fmt: skip
    axes.set(xlabel='parameters, millions', ylabel=metric, xscale='log')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def read_others(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Results of other chains.

    Raises:
        ConfigError: There are none in a folder.
    """
    found = {}
    for folder in folders:
        rows = read_json(folder / 'chain.json')
        if not rows:
            raise ConfigError(
                f'--beside: there is no finished chain in {folder}',
                expected='a work dir of train_chain.py, with chain.json',
            )
        found[folder.name] = rows
    return found


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Check all, train what is missing, show what came out."""
    args = parse_args(argv)
    quiet_libraries()
    cfg = read_config(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    chain = read_chain(cfg.to_dict())
    check_folder(args.work_dir, '--work-dir')
    others = read_others(args.beside)
    folder = args.work_dir
    with alone(folder, 'chain'):
        configs = make_configs(chain, folder)
        sizes = check_chain(chain, configs)
        jobs = make_jobs(chain, configs, sizes, folder)
        MMLogger.get_current_instance().setLevel('WARNING')
        try:
            with display(len(jobs), 'chain') as show:
                results = run_jobs(jobs, chain, args.devices, show)
        except KeyboardInterrupt:
            print('\nStopped. The same command goes on from here.')
            raise SystemExit(130) from None
        rows = entries(jobs, results)
        write_json(folder / 'chain.json', rows)
        metric = rows[0]['metric']
        draw({folder.name: rows, **others}, folder / 'chain.png', metric)
    console().print(table(rows))
    print(f'The student: {jobs[-1].student[1]}; the figure: {folder / "chain.png"}')


if __name__ == '__main__':
    raise SystemExit(main())
