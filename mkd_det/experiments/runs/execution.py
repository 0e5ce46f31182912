"""Runs a training in its own process: skipped when finished, resumed when stopped."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

from ...errors import ExperimentError
from ...io.json_files import write_own_json
from .history import read_history
from .jobs import RunningJob, find_job
from .launchers import Launcher, Running
from .progress import Display, Tracker
from .recovery import DONE, LOG, STATE, read_state
from .training_job import DIE_WITH_PARENT, end_process, peak_memory
from .training_run import TrainingResult, TrainingRun
from .work_dir import finished_before, make_resumable, prepare_work_dir

# Seconds between two looks at a training, and between two notes of its time.
_POLL, _SAVE = 0.5, 2.0
# The first line of a typed error, as a command prints it.
_TYPED_ERROR = re.compile(r'[A-Z][A-Za-z]*Error: ')


def run_training(
    run: TrainingRun,
    environment: Mapping[str, str],
    display: Display,
    stop: Event | None = None,
    launcher: Launcher | None = None,
) -> TrainingResult:
    """Run a training, resume it, or return the result of one that is finished.

    Args:
        run: The training.
        environment: Additional environment variables.
        display: Shows the progress.
        stop: Stops the training when set, as Ctrl-C does; for trainings in threads.
        launcher: Starts the training; as a process of this one by default.

    Raises:
        ExperimentError: The training failed; its log says why.
        KeyboardInterrupt: It was stopped.
    """
    tracker = display.start(run.title, run.iterations, 'iterations')
    prepare_work_dir(run, display)
    result = finished_before(run, display)
    if result is not None:
        tracker.finish(f'already finished ({result})')
        return result
    launcher = launcher or ProcessLauncher()
    running = _find_running(run, launcher, display)
    if running is None:
        make_resumable(run, display)
    state = read_state(run.folder)
    assert state is not None
    if running is None and state['seconds']:
        display.say(f'{run.title}: resumes after {state["seconds"]:.0f} s')

    def start() -> Running:
        return running or launcher.start(run, environment)

    spent = _train(run, state, start, tracker, stop or Event())
    metrics = run.read_metrics()
    if metrics is None:
        raise _failure(run, 'ended without a result')
    command, seconds = shell_command(run, environment), round(spent['seconds'], 1)
    result = TrainingResult(run.name, metrics, seconds, command, spent.get('memory'))
    done = {'seconds': seconds, 'command': command, 'memory': result.memory}
    write_own_json(run.folder / DONE, done)
    tracker.finish(f'{result}, {result.seconds:.0f} s')
    return result


def _find_running(
    run: TrainingRun, launcher: Launcher, display: Display
) -> Running | None:
    """Return the training if an earlier process has left it running in a queue."""
    record = (read_state(run.folder) or {}).get('job')
    if not isinstance(record, Mapping):
        return None
    running = launcher.find(run, record)
    if running is not None:
        display.say(f'{run.title}: still runs as job {record.get("id")}; follows it')
    return running


def _train(
    run: TrainingRun,
    state: dict,
    start: Callable[[], Running],
    tracker: Tracker,
    stop: Event,
) -> dict:
    """Run the training to its end; returns the state, with seconds over all starts."""
    state = {key: value for key, value in state.items() if key != 'job'}
    before, saved = state['seconds'], time.monotonic()
    memory = state.get('memory') or 0.0
    running = start()
    if running.record:
        write_own_json(run.folder / STATE, {**state, 'job': running.record})
    try:
        while (code := running.poll()) is None:
            if stop.wait(_POLL):
                raise KeyboardInterrupt
            memory = max(memory, running.memory())
            history = read_history(run.folder)
            loss = history.losses.get(history.last_iteration)
            note = f'own loss {loss:.2f}' if loss else 'starting'
            tracker.update(history.last_iteration, note)
            if time.monotonic() - saved > _SAVE:
                saved = time.monotonic()
                noted = {'seconds': before + running.seconds(), 'memory': memory}
                job = {'job': running.record} if running.record else {}
                write_own_json(run.folder / STATE, {**state, **noted, **job})
    finally:
        running.end()
        spent = {'seconds': before + running.seconds(), 'memory': memory}
        write_own_json(run.folder / STATE, {**state, **spent})
    if code:
        why = running.why() if isinstance(running, RunningJob) else ''
        raise _failure(run, f'failed with exit code {code}', why)
    memory = round(max(memory, running.memory()))
    return {**state, **spent, 'memory': memory or None}


class ProcessLauncher:
    """Starts each training in a process of its own, which dies with this one."""

    def start(self, run: TrainingRun, environment: Mapping[str, str]) -> Running:
        """Start a training, or resume it."""
        return _RunningProcess(_start_process(run, environment))

    def find(self, run: TrainingRun, record: Mapping[str, Any]) -> Running | None:
        """Return the training if it was left running in a queue."""
        return find_job(run, record)


class _RunningProcess:
    """A training in a process of its own."""

    record = None

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.began = process, time.monotonic()
        self.ended: float | None = None

    def poll(self) -> int | None:
        return self.process.poll()

    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began

    def memory(self) -> float:
        return peak_memory(self.process.pid)

    def end(self) -> None:
        end_process(self.process)
        self.ended = time.monotonic()


def _start_process(
    run: TrainingRun, environment: Mapping[str, str]
) -> subprocess.Popen:
    with open(run.folder / LOG, 'ab') as log:
        return subprocess.Popen(
            [
                *(sys.executable, '-c', DIE_WITH_PARENT, str(os.getpid())),
                *(sys.executable, *run.arguments, '--resume'),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # Ctrl-C reaches this process only, which then stops the training.
            start_new_session=True,
        )


def shell_command(run: TrainingRun, environment: Mapping[str, str]) -> str:
    """Return the command of a training, to be copied into a shell."""
    settings = [f'{k}={shlex.quote(v)}' for k, v in environment.items()]
    return ' '.join([*settings, 'python', *map(shlex.quote, run.arguments)])


def _failure(run: TrainingRun, how: str, why: str = '') -> ExperimentError:
    log = run.folder / LOG
    lines = log.read_text(errors='replace').splitlines() if log.is_file() else []
    errors = [line for line in lines if _TYPED_ERROR.match(line)]
    lines = [*([why] if why else []), *lines[-15:]]
    return ExperimentError(
        f'{run.title}: the training {how}' + (f': {errors[-1]}' if errors else ''),
        actual='\n    '.join(['the end of its log:', *lines]),
        fix=f'see the whole log: {log}',
    )
