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
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import _environment  # noqa: F401
import torch
from export_student import META, export
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.table import Table
from train import check_before_start, check_count

from mkd_det.chain import LOADING, Chain, Member, read_chain, stage_config
from mkd_det.cli import (
    check_amp,
    config_parser,
    console,
    main_guard,
    quiet_libraries,
    read_config,
)
from mkd_det.errors import ConfigError, building, nearest
from mkd_det.hooks.atomic import write_atomically
from mkd_det.runtime import prepare, student_config
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

# What evaluators measure; the first counts, where the chain does not say.
METRICS = {
    'ClassAccuracy': ['accuracy/top1', 'accuracy/top5'],
    'CocoMetric': [
        f'coco/bbox_mAP{end}' for end in ('', '_50', '_75', '_s', '_m', '_l')
    ],
    'VOCMetric': ['pascal_voc/mAP', 'pascal_voc/AP50'],
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
        made_from: What it is, in names and words.
        stage: Its training, or None where it is given.
    """

    member: Member
    cfg: Config
    folder: Path
    params: int
    metric: tuple[str, str]
    made_from: Mapping[str, str]
    stage: Stage | None

    @property
    def student(self) -> tuple[Path, Path]:
        """Files of the plain model: config and weights."""
        return student_files(self.folder, self.member.name)

    @property
    def fingerprint(self) -> str:
        """Of what the plain model is made from."""
        text = json.dumps(sorted(self.made_from.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def student_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Config and weights of a plain model in the folder of a chain."""
    return folder / 'students' / f'{name}.py', folder / 'students' / f'{name}.pth'


def make_configs(chain: Chain, folder: Path) -> dict[str, Config]:
    """Write the configs of every member: of its training, and of its plain model."""
    students: dict[str, tuple[str, str]] = {}
    configs: dict[str, Config] = {}
    for member in chain.members:
        cfg = stage_config(member, students, chain)
        cfg.work_dir = str(folder / member.name)
        if member.checkpoint is not None:
            # What a training would say of it at its end.
            cfg.test_dataloader = cfg.get('val_dataloader')
            cfg.test_evaluator = cfg.get('val_evaluator')
            cfg.test_cfg = dict(type='TestLoop')
        config, weights = student_files(folder, member.name)
        write_config(config, student_config(cfg))
        write_config(folder / 'configs' / f'{member.name}.py', cfg)
        students[member.name] = str(config), str(weights)
        configs[member.name] = cfg
    return configs


def write_config(path: Path, cfg: Config) -> None:
    """Write a config, unless it is there."""
    text = cfg.pretty_text
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())


def check_chain(
    chain: Chain, configs: Mapping[str, Config], folder: Path
) -> dict[str, int]:
    """Raise for whatever would stop a stage later.

    Returns:
        Parameters of each plain model.
    """
    sizes = {}
    classes: dict[str, Any] = {}
    for member in chain.members:
        cfg = configs[member.name]
        metric_of(chain, cfg, member)
        if member.checkpoint is None:
            steps_of(cfg, member)
            check_amp(cfg)
            model = check_before_start(prepare(cfg), teachers=False)
        else:
            if (folder / 'students') in Path(member.checkpoint).absolute().parents:
                raise ConfigError(
                    f'chain: {member.name}: its checkpoint is where this chain writes',
                    actual=member.checkpoint,
                    hint='a copy elsewhere, or another --work-dir',
                )
            model = load_given(member, cfg).model
            check_count(classes_in(cfg), model)
        classes[member.name] = classes_in(cfg)['val']
        # Without branches: the last check has taken them off.
        plain = getattr(model, 'student', model)
        sizes[member.name] = sum(p.numel() for p in plain.parameters())
    check_classes_agree(classes)
    warn_of_order(chain, sizes)
    return sizes


def classes_in(cfg: Config) -> dict[str, Any]:
    """Names of the classes of the validation data, where they are known."""
    from mkd_det.data.check import classes_of

    return {'val': classes_of(cfg, 'val')}


def check_classes_agree(classes: Mapping[str, Any]) -> None:
    """Raise ConfigError where two members are trained on other classes."""
    known = {name: names for name, names in classes.items() if names}
    for name, names in known.items():
        first = next(iter(known))
        if tuple(names) != tuple(known[first]):
            raise ConfigError(
                f'chain: {name} is trained on other classes than {first}, or in another'
                ' order',
                expected=known[first],
                actual=names,
            )


def load_given(member: Member, cfg: Config) -> Teacher:
    """The model of a member that is taken as trained, with its weights.

    Raises:
        MkdError: They do not fit, or are of other classes than the data.
    """
    loading = {k: v for k, v in member.teacher.items() if k in LOADING}
    whole = {'cfg': cfg.model, 'checkpoint': member.checkpoint, **loading}
    teacher = Teacher.build(member.name, whole)
    teacher.load()
    names = classes_in(cfg)['val']
    if names:
        teacher.check_classes(names)
    return teacher


def metric_of(chain: Chain, cfg: Config, member: Member) -> tuple[str, str]:
    """What counts for a member: its name, and its key in the log.

    Raises:
        ConfigError: Nothing is evaluated, by an evaluator that is not known, or it
            does not measure what is to count.
    """
    evaluators = cfg.get('val_evaluator') or []
    if isinstance(evaluators, Mapping):
        evaluators = [evaluators]
    kinds = [str(e.get('type')).rpartition('.')[2] for e in evaluators]
    measured = [key for kind, e in zip(kinds, evaluators) for key in keys_of(kind, e)]
    key = chain.metric or next(iter(measured), '')
    if not kinds or not key:
        raise ConfigError(
            f'chain: {member.name}: it is not known which metric counts',
            expected='a `val_evaluator`, and one of those, or `metric`',
            actual=kinds or None,
            available=METRICS,
            hint="metric='coco/bbox_mAP'",
        )
    if set(kinds) <= set(METRICS) and key not in measured:
        raise ConfigError(
            f'chain: {member.name}: `metric` is not measured by its evaluator',
            actual=key,
            available=nearest(key, measured),
        )
    return key.rpartition('/')[2], key


def keys_of(kind: str, evaluator: Mapping[str, Any]) -> list[str]:
    """Names of metrics, as logged, that an evaluator is known to measure."""
    if kind == 'ClassAccuracy':
        topk = evaluator.get('topk', (1,))
        topk = [topk] if isinstance(topk, int) else topk
        return [f'accuracy/top{k}' for k in topk]
    return METRICS.get(kind, [])


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
    """What is to be done for each member."""
    jobs: dict[str, Job] = {}
    for member in chain.members:
        name, cfg = member.name, configs[member.name]
        made_from = settings_in(cfg, folder)
        metric, stage = metric_of(chain, cfg, member), None
        if member.checkpoint is not None:
            made_from |= {
                'checkpoint': _source(member.checkpoint),
                'how it is loaded': json.dumps(member.teacher, default=str),
            }
        else:
            guides = {f'guide {g}': jobs[g].fingerprint for g in member.guides}
            stage = make_stage(member, cfg, metric, folder, made_from, guides)
            made_from |= guides
        size = sizes[name]
        jobs[name] = Job(member, cfg, folder, size, metric, made_from, stage)
    return list(jobs.values())


def settings_in(cfg: Config, folder: Path) -> dict[str, str]:
    """All that a config says, by name; where its files lie does not matter."""
    text = json.dumps(cfg.to_dict(), default=str).replace(str(folder), 'WORK_DIR')
    return dict(_leaves(json.loads(text)))


def _leaves(value: Any, where: str = '') -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping) or not value:
        yield where, json.dumps(value)
        return
    for key, inner in value.items():
        yield from _leaves(inner, f'{where}.{key}' if where else key)


def _source(checkpoint: str) -> str:
    """What tells a given checkpoint from others: its content, or its address."""
    if '://' in checkpoint:
        return checkpoint
    return hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:16]


def make_stage(
    member: Member,
    cfg: Config,
    metric: tuple[str, str],
    folder: Path,
    settings: Mapping[str, str],
    guides: Mapping[str, str],
) -> Stage:
    """The training of a member."""
    from mmengine.runner import Runner

    steps, by_epoch = steps_of(cfg, member)
    length = len(Runner.build_dataloader(cfg.train_dataloader)) if by_epoch else 1
    taught = f', taught by {", ".join(member.guides)}' if member.guides else ''
    return Stage(
        name=member.name,
        title=member.name + taught,
        config=str((folder / 'configs' / f'{member.name}.py').resolve()),
        folder=Path(cfg.work_dir),
        epochs=steps,
        total=steps * length,
        after=guides,
        figures=dict([metric]),
        by_epoch=by_epoch,
        settings=settings,
    )


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
            if stop.is_set():
                raise KeyboardInterrupt
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
                wait(waiting)
            except BaseException:
                stop.set()
                raise
        # What was stopped because another one failed is no news.
        errors = [error for error in map(Future.exception, waiting) if error]
        errors.sort(key=lambda error: isinstance(error, KeyboardInterrupt))
        if errors:
            raise errors[0]
        results += [future.result() for future in waiting]
    return results


def _environment_of(device: str) -> dict[str, str]:
    if device == '':
        return {}
    return {'CUDA_VISIBLE_DEVICES': '' if device == 'cpu' else device}


def run_job(
    job: Job, environment: Mapping[str, str], show: Display, stop: Event
) -> Result:
    """Train a member, or test one that is given; leaves its plain model."""
    if job.stage is None:
        return test_given(job, environment, show)
    result = run_stage(job.stage, environment, show, stop)
    if not is_written(job):
        config, weights = job.student
        export(job.cfg, str(job.stage.checkpoint), weights, config)
        note_written(job)
    return result


def is_written(job: Job) -> bool:
    """Whether the plain model is there, made from what it is to be made from."""
    weights = job.student[1]
    known = read_json(weights.with_suffix('.json'))
    return weights.is_file() and bool(known) and known['of'] == job.fingerprint


def note_written(job: Job, **more: Any) -> None:
    """Note what the plain model is made from."""
    write_json(job.student[1].with_suffix('.json'), {'of': job.fingerprint, **more})


def test_given(job: Job, environment: Mapping[str, str], show: Display) -> Result:
    """What a member that is taken as trained reaches; its plain model is written."""
    member, weights = job.member, job.student[1]
    task = show.start(f'{member.name}, given', 1, 'test')
    if not is_written(job):
        teacher = load_given(member, job.cfg)
        meta = {key: teacher.meta[key] for key in META if key in teacher.meta}
        buffer = io.BytesIO()
        torch.save(dict(state_dict=teacher.model.state_dict(), meta=meta), buffer)
        write_atomically(weights, buffer.getbuffer())
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
            hint=f'its log is {log}',
        )
    return {key: float(value) for key, value in metrics.items()}


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
    ticks = sorted({row['params'] / 1e6 for rows in chains.values() for row in rows})
    axes.set_xticks(ticks, [f'{tick:.2f}' for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.margins(x=0.12, y=0.1)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def read_others(
    folders: Sequence[Path], metric: str
) -> dict[str, list[dict[str, Any]]]:
    """Results of other chains.

    Raises:
        ConfigError: There are none in a folder, or of another metric.
    """
    found = {}
    for folder in folders:
        rows = read_json(folder / 'chain.json')
        if not rows:
            raise ConfigError(
                f'--beside: there is no finished chain in {folder}',
                expected='a work dir of train_chain.py, with chain.json',
            )
        if rows[0]['metric'] != metric:
            raise ConfigError(
                f'--beside: {folder} counts another metric',
                expected=metric,
                actual=rows[0]['metric'],
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
        with building('--cfg-options'):
            cfg.merge_from_dict(args.cfg_options)
    chain = read_chain(cfg.to_dict())
    folder = Path(os.path.abspath(args.work_dir))
    with alone(folder, 'chain'):
        configs = make_configs(chain, folder)
        sizes = check_chain(chain, configs, folder)
        jobs = make_jobs(chain, configs, sizes, folder)
        metric = jobs[-1].metric[0]
        others = read_others(args.beside, metric)
        MMLogger.get_current_instance().setLevel('WARNING')
        try:
            with display(len(jobs), 'chain') as show:
                results = run_jobs(jobs, chain, args.devices, show)
        except KeyboardInterrupt:
            print('\nStopped. The same command goes on from here.')
            raise SystemExit(130) from None
        rows = entries(jobs, results)
        write_json(folder / 'chain.json', rows)
        draw({folder.name: rows, **others}, folder / 'chain.png', metric)
    console().print(table(rows))
    print(f'The student: {jobs[-1].student[1]}; the figure: {folder / "chain.png"}')


if __name__ == '__main__':
    raise SystemExit(main())
