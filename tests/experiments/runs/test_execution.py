"""The process of a training: started, stopped, and its failure reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from experiment_runs import finish_run, make_run
from mkd_det.errors import ExperimentError
from mkd_det.experiments.runs import (
    LineDisplay,
    TrainingResult,
    TrainingRun,
    execution,
    run_training,
    training_job,
)


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> list[subprocess.Popen]:
    """Let Python code stand in for the training; returns its processes."""
    monkeypatch.setattr(TrainingRun, 'arguments', ['-c', code])
    started: list[subprocess.Popen] = []
    start = execution._start_process

    def start_and_note(run: TrainingRun, environment: dict) -> subprocess.Popen:
        started.append(start(run, environment))
        return started[-1]

    monkeypatch.setattr(execution, '_start_process', start_and_note)
    return started


def test_a_finished_training_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = stand_in(monkeypatch, '')
    run = finish_run(make_run(tmp_path / 'run'), seconds=12.0)
    metrics = {'box_map': 0.25, 'box_map_50': 0.5}
    expected = TrainingResult('a', metrics, 12.0, 'python x', 100)
    assert run_training(run, {}, LineDisplay(1)) == expected
    assert not started


def test_an_interrupt_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = stand_in(monkeypatch, 'import time; time.sleep(600)')
    stop = Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        run_training(make_run(tmp_path / 'run'), {}, LineDisplay(1), stop)
    assert started[0].returncode
    assert not (tmp_path / 'run' / 'done.json').exists()


@pytest.mark.skipif(sys.platform != 'linux', reason='prctl')
def test_a_training_dies_with_its_parent(tmp_path: Path) -> None:
    """Even if the parent is killed with SIGKILL."""
    code = (
        'import os, subprocess, sys\n'
        'sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]\n'
        f'wrapper = {training_job.DIE_WITH_PARENT!r}\n'
        'command = [sys.executable, "-c", wrapper, str(os.getpid()), *sleeper]\n'
        'child = subprocess.Popen(command)\n'
        'while b"prctl" in open(f"/proc/{child.pid}/cmdline", "rb").read(): pass\n'
        'print(child.pid, flush=True)\n'
        'os.kill(os.getpid(), 9)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120
    )
    status = Path('/proc', done.stdout.strip(), 'status')
    for _ in range(1000):
        if not status.exists() or 'State:\tZ' in status.read_text():
            return
        Event().wait(0.02)
    pytest.fail('the training is still running')


def test_a_failing_training_shows_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, 'print("last line"); raise SystemExit(3)')
    with pytest.raises(ExperimentError, match='exit code 3') as caught:
        run_training(make_run(tmp_path / 'run'), {}, LineDisplay(1))
    assert 'last line' in caught.value.actual
    assert str(tmp_path / 'run' / 'train.log') in caught.value.fix


def test_the_command_can_be_copied_into_a_shell(tmp_path: Path) -> None:
    run = make_run(tmp_path, config='mkd_det::a.py', options={'x': '[1, 2]'})
    command = execution.shell_command(run, {'DIGITS_ROOT': 'a b'})
    assert command.startswith("DIGITS_ROOT='a b' python -m mkd_det train mkd_det::a.py")
    assert command.endswith("'x=[1, 2]'")
