"""What earlier starts of a stage have left, as far as it can be gone on from.

Runs are killed, disks fill up, files are copied by halves. What is damaged is never
deleted: files get another name, folders are put aside, and both is said.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..atomic import write_atomically
from .files import read_json

# What a stage is made from, and its seconds so far.
STATE = 'stage.json'
# Once it is done: its seconds and its command. Figures are read from its log.
DONE = 'done.json'
LOG = 'train.log'
NOTE = 'last_checkpoint'
STUDENT = 'student_last.pth'  # as ExportStudentHook calls it

Say = Callable[[str], None]


def read_state(folder: Path) -> dict[str, Any] | None:
    """What a folder says of the stage in it; None where it says nothing whole."""
    return _whole(read_json(folder / STATE), fingerprint=str, seconds=(int, float))


def read_done(folder: Path) -> dict[str, Any] | None:
    """What is noted of a stage that is done; None where nothing whole is."""
    return _whole(read_json(folder / DONE), seconds=(int, float), command=str)


def _whole(content: Any, **kinds: Any) -> dict[str, Any] | None:
    fits = isinstance(content, dict) and all(
        isinstance(content.get(key), kind) for key, kind in kinds.items()
    )
    return content if fits else None


def is_a_stages(folder: Path) -> bool:
    """Whether a stage has written into a folder, whatever is left of that."""
    names = (STATE, f'.{STATE}.*.partial', DONE, LOG)
    return any(True for name in names for _ in folder.glob(name))


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is there to its last byte, each as it was written: torch's
    files are archives, with a sum of each part."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except Exception:  # whatever a damaged archive makes zipfile stumble over
        return False


def put_aside(folder: Path) -> Path:
    """Give a folder another name, which is returned."""
    number = 1
    while (old := folder.with_name(f'{folder.name}.old{number}')).exists():
        number += 1
    return folder.rename(old)


def mend_checkpoints(folder: Path, pattern: str, what: str, say: Say) -> bool:
    """Leave in a folder nothing that a training would fail to go on from.

    Damaged checkpoints get another name, and the note of the last one names the newest
    that is whole.

    Args:
        folder: Of the run.
        pattern: Of its checkpoints' names, as `epoch_*.pth`.
        what: The stage, for what is said.
        say: Is told what was done.

    Returns:
        Whether the run can be gone on from, or was never begun.
    """
    steps = {path: path.stem.rpartition('_')[2] for path in folder.glob(pattern)}
    found = [path for path, step in steps.items() if step.isdigit()]
    whole = []
    for path in sorted(found, key=lambda path: int(steps[path])):
        if is_whole(path):
            whole.append(path)
        else:
            path.rename(path.with_name(f'{path.name}.damaged'))
            say(f'{what}: {path} is damaged; it is now {path.name}.damaged')
    note = folder / NOTE
    if not note.exists():
        return bool(whole) or not found
    named = Path(note.read_text(errors='replace').strip().replace('\0', ''))
    if named.is_file() and any(path.samefile(named) for path in whole):
        return True
    if whole:
        write_atomically(note, str(whole[-1]).encode())
        say(f'{what}: {NOTE} names none that is whole; goes on from {whole[-1].name}')
    return bool(whole)
