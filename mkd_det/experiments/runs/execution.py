"""Runs a training in its own process: skipped when finished, resumed when stopped."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event

from ...errors import ExperimentError
from ...io.json_files import write_json
from .history import read_history
from .progress import Display, Tracker
from .recovery import DONE, LOG, STATE, read_state
from .training_run import TrainingResult, TrainingRun
from .work_dir import finished_before, make_resumable, prepare_work_dir

# Makes Linux kill the training when its parent dies, however that happens; a training
# left behind would write into the folder that the next start resumes.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
# Seconds between two looks at a training, and between two notes of its time.
_POLL, _SAVE = 0.5, 2.0
# The first line of a typed error, as a command prints it.
_TYPED_ERROR = re.compile(r'[A-Z][A-Za-z]*Error: ')


def run_training(
    run: TrainingRun,
    environment: Mapping[str, str],
    display: Display,
    stop: Event | None = None,
) -> TrainingResult:
    """Run a training, resume it, or return the result of one that is finished.

    Args:
        run: The training.
        environment: Additional environment variables.
        display: Shows the progress.
        stop: Stops the training when set, as Ctrl-C does; for trainings in threads.

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
    make_resumable(run, display)
    state = read_state(run.folder)
    assert state is not None
    if state['seconds']:
        display.say(f'{run.title}: resumes after {state["seconds"]:.0f} s')
    spent = _train(run, state, environment, tracker, stop or Event())
    metrics = run.read_metrics()
    if metrics is None:
        raise _failure(run, 'ended without a result')
    command, seconds = shell_command(run, environment), round(spent['seconds'], 1)
    result = TrainingResult(run.name, metrics, seconds, command, spent.get('memory'))
    done = {'seconds': seconds, 'command': command, 'memory': result.memory}
    write_json(run.folder / DONE, done)
    tracker.finish(f'{result}, {result.seconds:.0f} s')
    return result


def _train(
    run: TrainingRun,
    state: dict,
    environment: Mapping[str, str],
    tracker: Tracker,
    stop: Event,
) -> dict:
    """Run the training to its end; returns the state, with seconds over all starts."""
    before, began = state['seconds'], time.monotonic()
    saved, memory = began, state.get('memory') or 0.0
    process = _start_process(run, environment)
    try:
        while process.poll() is None:
            if stop.wait(_POLL):
                raise KeyboardInterrupt
            memory = max(memory, _peak_memory(process.pid))
            history = read_history(run.folder)
            loss = history.losses.get(history.last_iteration)
            note = f'own loss {loss:.2f}' if loss else 'starting'
            tracker.update(history.last_iteration, note)
            if time.monotonic() - saved > _SAVE:
                saved = time.monotonic()
                state = {**state, 'seconds': before + saved - began, 'memory': memory}
                write_json(run.folder / STATE, state)
    finally:
        _end_process(process)
    if process.returncode:
        raise _failure(run, f'failed with exit code {process.returncode}')
    seconds = before + time.monotonic() - began
    return {**state, 'seconds': seconds, 'memory': round(memory) or None}


def _start_process(
    run: TrainingRun, environment: Mapping[str, str]
) -> subprocess.Popen:
    with open(run.folder / LOG, 'ab') as log:
        return subprocess.Popen(
            [
                *(sys.executable, '-c', _DIE_WITH_PARENT, str(os.getpid())),
                *(sys.executable, *run.arguments, '--resume'),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # Ctrl-C reaches this process only, which then stops the training.
            start_new_session=True,
        )


def _end_process(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _peak_memory(process: int) -> float:
    """Return the peak memory of a process in MiB on Linux, 0 elsewhere."""
    try:
        text = Path(f'/proc/{process}/status').read_text()
    except OSError:
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith('VmHWM:')]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def shell_command(run: TrainingRun, environment: Mapping[str, str]) -> str:
    """Return the command of a training, to be copied into a shell."""
    settings = [f'{k}={shlex.quote(v)}' for k, v in environment.items()]
    return ' '.join([*settings, 'python', *map(shlex.quote, run.arguments)])


def _failure(run: TrainingRun, how: str) -> ExperimentError:
    log = run.folder / LOG
    lines = log.read_text(errors='replace').splitlines()
    errors = [line for line in lines if _TYPED_ERROR.match(line)]
    lines = lines[-15:]
    return ExperimentError(
        f'{run.title}: the training {how}' + (f': {errors[-1]}' if errors else ''),
        actual='\n    '.join(['the end of its log:', *lines]),
        fix=f'see the whole log: {log}',
    )
