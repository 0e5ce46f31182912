"""Trainings for the tests of experiments: invented ones, and fast real ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hook_runs import PROCESSES
from mkd_det.experiments.runs import TrainingRun
from mkd_det.experiments.runs.history import BOX_MAP, BOX_MAP_50
from mkd_det.experiments.runs.recovery import DONE, LOG, POINTER, STATE

SCALARS = '*/vis_data/scalars.json'


def make_run(folder: Path, **more: Any) -> TrainingRun:
    """A training of two epochs whose config does not exist."""
    values: dict[str, Any] = dict(
        name='a',
        title='a',
        config='missing.py',
        folder=folder,
        budget=2,
        iterations=6,
        settings={},
    )
    return TrainingRun(**{**values, **more})


def log_metrics(folder: Path, step: int, start: str = '20250101', **more: Any) -> None:
    """Log the metrics of a validation, as mmengine does."""
    metrics = {BOX_MAP: 0.25, BOX_MAP_50: 0.5} | more
    log_entries(folder, {**metrics, 'data_time': 0.1, 'step': step}, start=start)


def log_entries(folder: Path, *entries: dict, start: str = '20250101') -> None:
    """Append entries to the log of one start of a training."""
    scalars = folder / start / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True, exist_ok=True)
    with open(scalars, 'a') as file:
        file.writelines(json.dumps(entry) + '\n' for entry in entries)


def finish_run(run: TrainingRun, seconds: float = 9.0, **metrics: Any) -> TrainingRun:
    """Write everything that a finished training of two epochs leaves."""
    for epoch in (1, 2):
        log_metrics(run.folder, epoch, **metrics)
        torch.save(dict(epoch=torch.arange(999)), run.folder / f'epoch_{epoch}.pth')
    (run.folder / POINTER).write_text(str(run.checkpoint))
    state = dict(fingerprint=run.fingerprint, made_from=run.made_from, seconds=seconds)
    (run.folder / STATE).write_text(json.dumps(state))
    done = dict(seconds=seconds, command='python x', memory=100)
    (run.folder / DONE).write_text(json.dumps(done))
    (run.folder / LOG).touch()
    return run


class ForkedTraining:
    """Stands in for the process of a training: forked, with everything imported.

    Put it in place of `mkd_det.experiments.runs.execution._start_process`.

    Args:
        run: The training.
        environment: Additional environment variables.
    """

    def __init__(self, run: TrainingRun, environment: Mapping[str, str]) -> None:
        assert run.arguments[:3] == ['-m', 'mkd_det', 'train']
        arguments = [*run.arguments[2:], '--resume']
        log = run.folder / LOG
        self.process = PROCESSES.Process(
            target=_train, args=(arguments, log, {**os.environ, **environment})
        )
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self, timeout: float | None = None) -> None:
        self.process.join(timeout)

    kill = terminate


def _train(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    from yapf.yapflib import yapf_api

    from mkd_det.cli import main

    os.environ.update(environment)
    with open(log, 'ab') as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    torch.set_num_threads(1)
    # Most of the time of so short a training would go into formatting its config.
    yapf_api.FormatCode = lambda text, **_: (text, True)
    os._exit(main(arguments))
