"""Trains a chain: checks everything, runs what is missing, writes the results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from ...config_files.paths import find_named_files
from ...config_files.reading import read_config
from ...errors import ExperimentError, as_config_error
from ...io.json_files import read_json, write_own_json
from ...io.lock import locked_folder
from ...training.export import export, save_student
from ..runs import (
    Display,
    Launcher,
    TrainingResult,
    make_display,
    run_in_parallel,
    run_training,
)
from .chain import Chain, read_chain
from .checks import check_chain, load_given
from .member_configs import write_member_configs
from .member_runs import MemberRun, make_member_runs
from .report import (
    FIGURE,
    RESULTS,
    chain_labels,
    chain_results,
    draw_sizes,
    read_other_chains,
)

# Trainings have processes of their own. Models in this process are built one at a
# time, since mmengine's registry scope is one for all threads.
_ONE_MODEL = Lock()


@dataclass(frozen=True)
class FinishedChain:
    """A chain that was trained to its end.

    Args:
        results: One dict for each member, as in `chain.json`.
        student: Weights of the plain student.
        figure: The figure of the metric over size.
    """

    results: list[dict[str, Any]]
    student: Path
    figure: Path


def run_chain(
    config: str,
    work_dir: str | Path,
    options: Mapping[str, Any] | None = None,
    devices: Sequence[str] = ('',),
    beside: Sequence[Path] = (),
    launcher: Launcher | None = None,
) -> FinishedChain:
    """Train a chain, or what is missing of it.

    Args:
        config: The chain file.
        work_dir: Folder of the chain.
        options: Overrides of the chain file.
        devices: GPUs for the stages of a parallel group, see `run_in_parallel`.
        beside: Work dirs of other chains, for the figure.
        launcher: Starts the trainings; as processes of this one by default.

    Raises:
        MkdError: The chain cannot be trained, or a training failed.
        KeyboardInterrupt: It was stopped; the same call resumes it.
    """
    cfg = read_config(config)
    if options:
        with as_config_error('--cfg-options'):
            cfg.merge_from_dict(dict(options))
    given = cfg.to_dict()
    if '::' not in config:
        find_named_files(given, Path(config).parent, 'chain')
    chain = read_chain(given)
    folder = Path(os.path.abspath(work_dir))
    with locked_folder(folder, 'chain'):
        configs = write_member_configs(chain, folder)
        sizes = check_chain(chain, configs, folder)
        runs = make_member_runs(chain, configs, sizes, folder)
        metric = runs[-1].metric[0]
        others = read_other_chains(beside, metric)
        remove_outdated(runs, folder)
        with make_display(len(runs), 'chain') as display:
            done = run_members(runs, chain, devices, display, launcher)
        results = chain_results(runs, done)
        write_own_json(folder / RESULTS, results)
        own = {folder.resolve(): results}
        chains = own | others | own  # its own first, even if `beside` names it
        labelled = dict(zip(chain_labels(list(chains)), chains.values()))
        draw_sizes(labelled, folder / FIGURE, metric)
    return FinishedChain(results, runs[-1].student[1], folder / FIGURE)


def remove_outdated(runs: Sequence[MemberRun], folder: Path) -> None:
    """Remove plain models and results that belong to an earlier state of the chain.

    Args:
        runs: Runs of all members.
        folder: Folder of the chain.
    """
    outdated = [run for run in runs if not run.has_student()]
    for run in outdated:
        weights = run.student[1]
        if weights.is_file():
            print(f'{run.member.name}: removed {weights}, which is outdated or damaged')
        for file in (weights, run.note):
            file.unlink(missing_ok=True)
    if outdated:
        for name in (RESULTS, FIGURE):
            (folder / name).unlink(missing_ok=True)


def run_members(
    runs: Sequence[MemberRun],
    chain: Chain,
    devices: Sequence[str],
    display: Display,
    launcher: Launcher | None = None,
) -> list[TrainingResult]:
    """Run all members in order, those of a parallel group on several devices.

    Args:
        runs: Runs of all members.
        chain: The chain.
        devices: GPUs, see `run_in_parallel`.
        display: Shows the progress.
        launcher: Starts the trainings.
    """
    by_name = {run.member.name: run for run in runs}

    def work(
        run: MemberRun, environment: Mapping[str, str], stop: Event
    ) -> TrainingResult:
        return run_member(run, environment, display, stop, launcher)

    results = []
    for group in chain.groups():
        of_group = [by_name[member.name] for member in group]
        results += run_in_parallel(of_group, devices, work)
    return results


def run_member(
    run: MemberRun,
    environment: Mapping[str, str],
    display: Display,
    stop: Event,
    launcher: Launcher | None = None,
) -> TrainingResult:
    """Train a member, or test a given one, and write its plain model.

    Args:
        run: Run of the member.
        environment: Additional environment variables.
        display: Shows the progress.
        stop: Stops the training when set.
        launcher: Starts the training.
    """
    if run.training is None:
        return evaluate_given(run, environment, display)
    result = run_training(run.training, environment, display, stop, launcher)
    if not run.has_student():
        config, weights = run.student
        with _ONE_MODEL:
            export(run.cfg, str(run.training.checkpoint), weights, config)
        run.write_note()
    return result


def evaluate_given(
    run: MemberRun, environment: Mapping[str, str], display: Display
) -> TrainingResult:
    """Test a given member once, and write its plain model.

    Args:
        run: Run of the member.
        environment: Additional environment variables.
        display: Shows the progress.
    """
    member, weights = run.member, run.student[1]
    tracker = display.start(f'{member.name}, given', 1, 'test')
    if not run.has_student():
        with _ONE_MODEL:
            teacher = load_given(member, run.cfg)
        save_student(weights, teacher.model.state_dict(), teacher.meta)
        run.write_note()
    name, key = run.metric
    note = read_json(run.note)
    if key not in note:
        run.write_note(**_test_given(run, environment))
        note = read_json(run.note)
    result = TrainingResult(member.name, {name: note[key]}, 0.0, 'given')
    tracker.finish(str(result))
    return result


def _test_given(run: MemberRun, environment: Mapping[str, str]) -> dict[str, float]:
    """Return all metrics that `mkd-det test` finds."""
    config, weights = run.student
    folder = run.folder / f'{run.member.name}.test'
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'mkd_det', 'test', str(config), str(weights)]
    log = folder / 'test.log'
    with open(log, 'wb') as file:
        code = subprocess.call(
            [*command, '--work-dir', str(folder)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    found = sorted(folder.glob('*/*.json'))
    metrics = read_json(found[-1]) if found and not code else None
    if not metrics or run.metric[1] not in metrics:
        raise ExperimentError(
            f'the test of {run.member.name} ended without {run.metric[1]}',
            available=metrics or (),
            fix=f'see its log: {log}',
        )
    return {key: float(value) for key, value in metrics.items()}
