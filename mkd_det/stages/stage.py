"""Runs a training as a stage: skipped when done, resumed when interrupted."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from ..errors import MkdError
from .files import read_json, write_json
from .history import MAP, MAP50, read_history
from .progress import Display, Task

ROOT = Path(__file__).resolve().parents[2]
LOG = 'train.log'
# While the stage runs: what it was started with, and its seconds so far.
STATE = 'stage.json'
# Once it is done: the same, with its result.
DONE = 'done.json'

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
        config: Path of the config file, from the repository's root.
        folder: Its work dir.
        epochs: How many epochs it trains; iterations, if `by_epoch` is off.
        total: How many iterations that makes.
        options: For `--cfg-options`.
        after: Fingerprints of what it builds on: the data, an earlier stage.
        figures: What counts: name in the results, and in the log.
        by_epoch: Whether the config counts in epochs.
        why: In what it differs from what was started before, in words.
    """

    name: str
    title: str
    config: str
    folder: Path
    epochs: int
    total: int
    options: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    figures: Mapping[str, str] = field(default_factory=lambda: DETECTION)
    by_epoch: bool = True
    why: str = ''

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, once the stage is done."""
        unit = 'epoch' if self.by_epoch else 'iter'
        return self.folder / f'{unit}_{self.epochs}.pth'

    @property
    def arguments(self) -> list[str]:
        """For the Python interpreter, from the folder we are in."""
        return [
            os.path.relpath(ROOT / 'tools' / 'train.py'),
            os.path.relpath(ROOT / self.config),
            '--work-dir',
            str(self.folder),
            *(['--cfg-options'] if self.options else []),
            *(f'{key}={value}' for key, value in self.options.items()),
        ]

    @property
    def fingerprint(self) -> str:
        """Changes when anything does that the stage is made from."""
        sources = [path.read_text() for path in _with_bases(ROOT / self.config)]
        made_from = [sources, sorted(self.options.items()), self.after, self.epochs]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """What came out of a stage; all numbers in results.json come from here.

    Args:
        name: The stage's.
        figures: By name, on the validation images, last epoch.
        seconds: That it took, over all its starts, evaluation included.
        command: That was run.
    """

    name: str
    figures: dict[str, float]
    seconds: float
    command: str

    def entry(self) -> dict[str, Any]:
        """As it stands in a json file."""
        rest = {'seconds': self.seconds, 'command': self.command}
        return {'name': self.name, **self.figures, **rest}

    @classmethod
    def of(cls, entry: Mapping[str, Any], stage: Stage) -> Result:
        """The reverse."""
        figures = {name: entry[name] for name in stage.figures}
        return cls(entry['name'], figures, entry['seconds'], entry['command'])

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
    fingerprint = stage.fingerprint
    done = read_json(stage.folder / DONE)
    if done and done['fingerprint'] == fingerprint and stage.checkpoint.is_file():
        result = Result.of(done['result'], stage)
        task.finish(f'done before ({result})')
        return result
    state = _open_folder(stage, fingerprint, show)
    seconds = _train(stage, state, environment, task, stop or Event())
    metrics = read_history(stage.folder).metrics.get(stage.epochs)
    if metrics is None or not stage.checkpoint.is_file():
        raise _failed(stage, 'ended without a result')
    result = Result(
        name=stage.name,
        figures={name: metrics[key] for name, key in stage.figures.items()},
        seconds=round(seconds, 1),
        command=_shown(stage, environment),
    )
    write_json(
        stage.folder / DONE, {'fingerprint': fingerprint, 'result': result.entry()}
    )
    task.finish(f'{result}, {result.seconds:.0f} s')
    return result


def _open_folder(stage: Stage, fingerprint: str, show: Display) -> dict:
    """The state of an interrupted start, or a fresh one in an empty folder."""
    state = read_json(stage.folder / STATE)
    if state and state['fingerprint'] == fingerprint:
        show.say(f'{stage.title}: goes on after {state["seconds"]:.0f} s')
        return state
    if state:
        old = stage.folder.with_name(f'{stage.folder.name}.old')
        shutil.rmtree(old, ignore_errors=True)
        stage.folder.rename(old)
        show.say(
            f'{stage.title}: {stage.why or "its settings have changed"}, so it starts'
            f' anew; what was there is in {old}'
        )
    elif stage.folder.exists() and any(stage.folder.iterdir()):
        raise StageError(
            f'{stage.folder} holds something else than a stage',
            available=sorted(path.name for path in stage.folder.iterdir())[:8],
            hint='--work-dir with another folder',
        )
    stage.folder.mkdir(parents=True, exist_ok=True)
    state = {'fingerprint': fingerprint, 'seconds': 0.0}
    write_json(stage.folder / STATE, state)
    return state


def _train(
    stage: Stage, state: dict, environment: Mapping[str, str], task: Task, stop: Event
) -> float:
    """Run the training to its end; returns its seconds over all starts."""
    before, began = state['seconds'], time.monotonic()
    saved = began
    process = _start(stage, environment)
    try:
        while process.poll() is None:
            if stop.wait(0.5):
                raise KeyboardInterrupt
            history = read_history(stage.folder)
            loss = history.losses.get(history.latest)
            task.update(history.latest, f'loss {loss:.2f}' if loss else 'starting')
            if time.monotonic() - saved > 2:
                saved = time.monotonic()
                seconds = before + saved - began
                write_json(stage.folder / STATE, {**state, 'seconds': seconds})
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
    return before + time.monotonic() - began


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
        f'the training of the {stage.title} {how}',
        actual='\n    '.join(['its last words:', *lines]),
        hint=f'the whole log is {log}',
    )


def _with_bases(config: Path) -> Sequence[Path]:
    """A config file and all of the repository that it inherits from."""
    found = [config]
    for node in ast.parse(config.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            for base in ast.literal_eval(node.value):
                if '::' not in base:
                    found += _with_bases((config.parent / base).resolve())
    return found
