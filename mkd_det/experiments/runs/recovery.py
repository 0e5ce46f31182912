"""Finds out what earlier starts of a training left, and repairs it.

Trainings are killed, disks fill up, files are copied in part. Nothing damaged is ever
deleted: files are renamed, folders are moved aside, and both is reported.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...io.atomic import write_own
from ...io.json_files import read_json

# What identifies the training in a folder, and its seconds so far. The file keeps
# its name of version 0.1, so that trainings begun with it can be resumed.
STATE = 'stage.json'
# Seconds and command of a finished training. Metrics are read from its log.
DONE = 'done.json'
LOG = 'train.log'
POINTER = 'last_checkpoint'  # written by mmengine
STUDENT = 'student_last.pth'  # written by ExportStudentHook

Say = Callable[[str], None]


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the state of the training in a folder; None if missing or damaged."""
    return _valid(read_json(folder / STATE), fingerprint=str, seconds=(int, float))


def read_done(folder: Path) -> dict[str, Any] | None:
    """Read the note about a finished training; None if missing or damaged."""
    return _valid(read_json(folder / DONE), seconds=(int, float), command=str)


def _valid(content: Any, **types: Any) -> dict[str, Any] | None:
    fits = isinstance(content, dict) and all(
        isinstance(content.get(key), kind) for key, kind in types.items()
    )
    return content if fits else None


def holds_training(folder: Path) -> bool:
    """Tell whether a training has written into a folder, complete or not."""
    names = (STATE, f'.{STATE}.*.partial', DONE, LOG)
    return any(True for name in names for _ in folder.glob(name))


def is_complete_checkpoint(checkpoint: Path) -> bool:
    """Tell whether a checkpoint file is there and undamaged.

    Files of torch.save are zip archives with a checksum of each member.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many types for damaged archives
        return False


def move_aside(folder: Path) -> Path:
    """Rename a folder to the next free `<name>.old<number>`, and return that."""
    number = 1
    while (old := folder.with_name(f'{folder.name}.old{number}')).exists():
        number += 1
    return folder.rename(old)


def repair_checkpoints(folder: Path, pattern: str, title: str, say: Say) -> bool:
    """Make a work dir fit to be resumed.

    Renames damaged checkpoints, and lets mmengine's pointer name the newest one that
    is complete.

    Args:
        folder: Work dir of the training.
        pattern: Pattern of its checkpoints' names, such as `epoch_*.pth`.
        title: Title of the training, for messages.
        say: Receives a message for each repair.

    Returns:
        Whether the training can be resumed, or has not begun.
    """
    steps = {path: path.stem.rpartition('_')[2] for path in folder.glob(pattern)}
    found = [path for path, step in steps.items() if step.isdigit()]
    complete = []
    for path in sorted(found, key=lambda path: int(steps[path])):
        if is_complete_checkpoint(path):
            complete.append(path)
        else:
            path.rename(path.with_name(f'{path.name}.damaged'))
            say(f'{title}: {path} is damaged; renamed to {path.name}.damaged')
    pointer = folder / POINTER
    if not pointer.exists():
        return bool(complete) or not found
    named = Path(pointer.read_text(errors='replace').strip().replace('\0', ''))
    if named.is_file() and any(path.samefile(named) for path in complete):
        return True
    if complete:
        write_own(pointer, str(complete[-1]).encode())
        say(
            f'{title}: {POINTER} names no complete checkpoint; resumes from'
            f' {complete[-1].name}'
        )
    return bool(complete)
