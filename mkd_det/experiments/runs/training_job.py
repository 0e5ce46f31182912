"""What a job runs: the process of one training. Needs the standard library only.

Jobs get this module by value, so that they start at once and need not import the
package, which imports torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLL = 0.5

# Makes Linux kill the training when its parent dies, however that happens; a training
# left behind would write into the folder that the next start resumes.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class TrainingJob:
    """One start of a training, as submitit runs it.

    Args:
        command: The command.
        folder: Current folder of the command.
        log: File that its output is appended to.
        note: File with the start, and at the end the exit code, seconds and memory.
        environment: Additional environment variables; None removes one.
        stop: The job ends when this file is there.
        owner: Process on this machine that the job ends with; None for none.
    """

    command: list[str]
    folder: str
    log: str
    note: str
    environment: dict[str, str | None]
    stop: str
    owner: int | None

    def __call__(self) -> int:
        """Run the command to its end, and return its exit code."""
        begun = time.time()
        _write(self.note, dict(begun=begun))
        given = {**os.environ, **self.environment}
        environment = {k: v for k, v in given.items() if v is not None}
        wrapper = [sys.executable, '-c', DIE_WITH_PARENT, str(os.getpid())]
        memory = 0.0
        with open(self.log, 'ab') as log:
            process = subprocess.Popen(
                [*wrapper, *self.command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while process.poll() is None and not self._must_end():
                memory = max(memory, peak_memory(process.pid))
                time.sleep(_POLL)
        finally:
            code = end_process(process)
        memory = max(memory, _memory_of_children())
        seconds = time.time() - begun
        end = dict(begun=begun, seconds=seconds, memory=memory, code=code)
        _write(self.note, end)
        return code

    def checkpoint(self) -> Any:
        """Continue in a new job, after a preemption or at the time limit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _must_end(self) -> bool:
        if os.path.exists(self.stop):
            return True
        if self.owner is None:
            return False
        try:
            os.kill(self.owner, 0)
        except ProcessLookupError:
            return True
        return False


def end_process(process: subprocess.Popen) -> int:
    """Stop a process if it runs, and return its exit code.

    Args:
        process: The process.
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def _write(path: str, content: dict[str, Any]) -> None:
    """Write json, complete or not at all."""
    partial = f'{path}.partial'
    Path(partial).write_text(json.dumps(content))
    os.replace(partial, path)


def _memory_of_children() -> float:
    """Return the peak memory in MiB of the largest child that has ended; 0 if unknown.

    A training that ends between two looks is known by this alone.
    """
    if sys.platform != 'linux':
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def peak_memory(process: int | str) -> float:
    """Return the peak memory of a process in MiB on Linux, 0 elsewhere.

    Args:
        process: Its number, or 'self'.
    """
    try:
        text = Path(f'/proc/{process}/status').read_text()
    except OSError:
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith('VmHWM:')]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0
