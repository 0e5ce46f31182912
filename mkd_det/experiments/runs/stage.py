"""Runs a training as a stage: skipped when done, resumed when interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from ...errors import MkdError
from ...io.paths import relative_to_cwd
from ...io.json_files import write_json
from .history import MAP, MAP50, is_of_coco, read_history
from .recovery import (DONE, LOG, STATE, STUDENT, is_a_stages, is_complete_checkpoint, mend_checkpoints, put_aside, read_done, read_state)
from .progress import Display, Task

ROOT = Path(__file__).resolve().parents[3]
DETECTION = {'box_map': MAP, 'box_map_50': MAP50}

# Linux kills the child when its parent dies, whatever the parent died of; a
# training left behind would write into the folder that the next start resumes.
_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class StageError(MkdError):
    """A stage failed."""


@dataclass(frozen=True)
class Stage:
    """One training.

    Args:
        name: Of its folder and in the results.
        title: What people read.
        config: Path of the config file; from the repository's root, or absolute.
        folder: Its work dir.
        epochs: How many epochs it trains; iterations, if `by_epoch` is off.
        total: How many iterations that makes.
        settings: What the config says, by name.
        options: For `--cfg-options`.
        after: What it builds on, by name (the data, an earlier stage), and its
            fingerprint.
        figures: What counts: name in the results, and in the log.
        by_epoch: Whether the config counts in epochs.
    """

    name: str
    title: str
    config: str
    folder: Path
    epochs: int
    total: int
    settings: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=lambda: DETECTION)
    by_epoch: bool = True

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, once the stage is done."""
        return self.folder / self.checkpoints.replace('*', str(self.epochs))

    @property
    def checkpoints(self) -> str:
        """Pattern of their names."""
        return 'epoch_*.pth' if self.by_epoch else 'iter_*.pth'

    @property
    def arguments(self) -> list[str]:
        """For the Python interpreter, from the folder we are in."""
        return [
            os.path.relpath(ROOT / 'tools' / 'train.py'),
            os.path.relpath(ROOT / self.config),
            '--work-dir',
            relative_to_cwd(self.folder),
            *(['--cfg-options'] if self.options else []),
            *(f'{key}={value}' for key, value in self.options.items()),
        ]

    @property
    def made_from(self) -> dict[str, str]:
        """All that would make it another stage if it changed, by name."""
        return {
            **self.settings,
            **{key: str(value) for key, value in self.options.items()},
            **self.after,
            'epochs': str(self.epochs),
        }

    @property
    def fingerprint(self) -> str:
        """Changes when anything does that the stage is made from."""
        return digest(sorted(self.made_from.items()))

    def measured(self) -> dict[str, float] | None:
        """Its figures, once it is trained and its last checkpoint is there, whole.
        The student that was exported has to be whole, too: if not, going on from the
        checkpoint writes it again.

        Raises:
            StageError: It was measured, but not what counts.
        """
        metrics = read_history(self.folder).metrics.get(self.epochs)
        files = [self.checkpoint, *self.folder.glob(STUDENT)]
        if metrics is None or not all(map(is_complete_checkpoint, files)):
            return None
        if not any(map(is_of_coco, metrics)):
            # It says nothing where there is not a single detection: that is zero.
            coco = filter(is_of_coco, self.figures.values())
            metrics = {**dict.fromkeys(coco, 0.0), **metrics}
        missing = [key for key in self.figures.values() if key not in metrics]
        if missing:
            raise StageError(
                f'{self.title}: {missing[0]} was not measured',
                available=sorted(metrics),
            )
        return {name: metrics[key] for name, key in self.figures.items()}


def digest(value: Any) -> str:
    """A few letters that change when a value does, which json must know."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """What came out of a stage; all numbers in results.json come from here.

    Args:
        name: The stage's.
        figures: By name, on the validation images, last epoch.
        seconds: That it took, over all its starts, evaluation included.
        command: That was run.
        memory: MiB that its process has held at most, without those that load data;
            None where the system does not say.
    """

    name: str
    figures: dict[str, float]
    seconds: float
    command: str
    memory: float | None = None

    def entry(self) -> dict[str, Any]:
        """As it stands in a json file."""
        rest = {'seconds': self.seconds, 'command': self.command}
        return {'name': self.name, **self.figures, **rest}

    def __str__(self) -> str:
        name, value = next(iter(self.figures.items()))
        return f'{name} {value:.3f}'


def run_stage(
    stage: Stage,
    environment: Mapping[str, str],
    show: Display,
    stop: Event | None = None,
) -> Result:
    """Train, or go on training, or return the result of a stage that is done.

    Args:
        stage: What to train.
        environment: Additional environment variables.
        show: Where progress goes.
        stop: Ends the training early when set, as Ctrl-C does: for stages that run in
            threads.

    Raises:
        StageError: Training failed; its log says why.
        KeyboardInterrupt: It was stopped.
    """
    task = show.start(stage.title, stage.total, 'iterations')
    _settle_folder(stage, show)
    result = _done_before(stage, show)
    if result is not None:
        task.finish(f'done before ({result})')
        return result
    if not mend_checkpoints(stage.folder, stage.checkpoints, stage.title, show.say):
        old = put_aside(stage.folder)
        show.say(
            f'{stage.title}: no checkpoint is left to go on from; begins anew; what was'
            f' there is in {old}'
        )
        _begin(stage)
    state = read_state(stage.folder)
    assert state is not None
    if state['seconds']:
        show.say(f'{stage.title}: goes on after {state["seconds"]:.0f} s')
    spent = _train(stage, state, environment, task, stop or Event())
    figures = stage.measured()
    if figures is None:
        raise _failed(stage, 'ended without a result')
    command, seconds = _shown(stage, environment), round(spent['seconds'], 1)
    result = Result(stage.name, figures, seconds, command, spent.get('memory'))
    done = {'seconds': seconds, 'command': command, 'memory': result.memory}
    write_json(stage.folder / DONE, done)
    task.finish(f'{result}, {result.seconds:.0f} s')
    return result


def _done_before(stage: Stage, show: Display) -> Result | None:
    """The result of a stage that is done, if all of it is there."""
    if not (stage.folder / DONE).exists():
        return None
    done, figures = read_done(stage.folder), stage.measured()
    if done and figures:
        memory = done.get('memory')
        return Result(stage.name, figures, done['seconds'], done['command'], memory)
    lost = 'its checkpoint, student or figures are' if done else f'its {DONE} is'
    show.say(f'{stage.title}: was done, but {lost} damaged or gone; goes on')
    return None


def _settle_folder(stage: Stage, show: Display) -> None:
    """Make the stage's folder one of this very stage: the one that is there, one that
    was put aside, or a new one. What is there of another stage, or of one that it does
    not say, is put aside."""
    folder, fingerprint = stage.folder, stage.fingerprint
    state = read_state(folder)
    if state and state['fingerprint'] == fingerprint:
        return
    if state:
        changed = _changes(state.get('made_from', {}), stage.made_from)
        old = put_aside(folder)
        show.say(
            f'{stage.title} is another than it was ({changed}); what was there is in'
            f' {old}'
        )
    elif is_a_stages(folder):
        old = put_aside(folder)
        show.say(
            f'{stage.title}: {folder / STATE} is damaged or gone, so nobody knows what'
            f' was trained there; begins anew; what was there is in {old}'
        )
    elif folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        inside = folder.iterdir() if folder.is_dir() else ()
        raise StageError(
            f'{folder} is or holds something else than a stage',
            available=sorted(path.name for path in inside)[:8],
            fix='--work-dir with another folder',
        )
    for old in sorted(folder.parent.glob(f'{folder.name}.old*')):
        known = read_state(old)
        if known and known['fingerprint'] == fingerprint:
            if folder.exists():
                folder.rmdir()
            old.rename(folder)
            show.say(f'{stage.title}: {old} is the very same, and is taken')
            return
    _begin(stage)


def _begin(stage: Stage) -> None:
    stage.folder.mkdir(parents=True, exist_ok=True)
    made = {'fingerprint': stage.fingerprint, 'made_from': stage.made_from}
    write_json(stage.folder / STATE, {**made, 'seconds': 0.0})


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Names of what differs: what it builds on (in words) before settings."""
    names = [n for n in dict.fromkeys([*old, *new]) if old.get(n) != new.get(n)]
    names.sort(key=lambda name: ' ' not in name)
    return ', '.join(names[:6]) + (', ...' if len(names) > 6 else '')


def _train(
    stage: Stage, state: dict, environment: Mapping[str, str], task: Task, stop: Event
) -> dict:
    """Run the training to its end; returns the state, its seconds over all starts."""
    before, began = state['seconds'], time.monotonic()
    saved, held = began, state.get('memory') or 0.0
    process = _start(stage, environment)
    try:
        while process.poll() is None:
            if stop.wait(0.5):
                raise KeyboardInterrupt
            held = max(held, _memory_of(process.pid))
            history = read_history(stage.folder)
            loss = history.losses.get(history.latest)
            task.update(history.latest, f'own loss {loss:.2f}' if loss else 'starting')
            if time.monotonic() - saved > 2:
                saved = time.monotonic()
                state = {**state, 'seconds': before + saved - began, 'memory': held}
                write_json(stage.folder / STATE, state)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if process.returncode:
        raise _failed(stage, f'failed with exit code {process.returncode}')
    seconds = before + time.monotonic() - began
    return {**state, 'seconds': seconds, 'memory': round(held) or None}


def _memory_of(process: int) -> float:
    """MiB that a process has held so far at most, as Linux tells; 0 elsewhere."""
    try:
        text = Path(f'/proc/{process}/status').read_text()
    except OSError:
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith('VmHWM:')]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def _start(stage: Stage, environment: Mapping[str, str]) -> subprocess.Popen:
    with open(stage.folder / LOG, 'ab') as log:
        return subprocess.Popen(
            [
                *(sys.executable, '-c', _WITH_PARENT, str(os.getpid())),
                *(sys.executable, *stage.arguments, '--resume'),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # Ctrl-C comes to us, and we stop it.
            start_new_session=True,
        )


def _shown(stage: Stage, environment: Mapping[str, str]) -> str:
    """The command, to be copied into a shell."""
    settings = [f'{k}={shlex.quote(v)}' for k, v in environment.items()]
    return ' '.join([*settings, 'python', *map(shlex.quote, stage.arguments)])


def _failed(stage: Stage, how: str) -> StageError:
    log = stage.folder / LOG
    lines = log.read_text(errors='replace').splitlines()[-15:]
    return StageError(
        f'{stage.title}: the training {how}',
        actual='\n    '.join(['its last words:', *lines]),
        fix=f'the whole log is {log}',
    )
