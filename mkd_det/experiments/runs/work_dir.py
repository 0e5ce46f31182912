"""Prepares the work dir of a training: new, resumed, or taken back."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import ExperimentError
from ...io.json_files import write_own_json
from .progress import Display
from .recovery import (
    DONE,
    STATE,
    holds_training,
    move_aside,
    read_done,
    read_state,
    repair_checkpoints,
)
from .training_run import TrainingResult, TrainingRun


def prepare_work_dir(run: TrainingRun, display: Display) -> None:
    """Make the work dir of a training belong to exactly this training.

    Keeps it if it does already, takes back one that was moved aside, or starts a new
    one. A work dir of another or an unknown training is moved aside.

    Args:
        run: The training.
        display: Reports what is done.

    Raises:
        ExperimentError: The folder holds something that no training has written.
    """
    folder = run.folder
    state = read_state(folder)
    if state and state['fingerprint'] == run.fingerprint:
        return
    if state:
        changed = _changed(state.get('made_from', {}), run.made_from)
        old = move_aside(folder)
        display.say(f'{run.title}: has changed ({changed}); moved the old run to {old}')
    elif holds_training(folder):
        old = move_aside(folder)
        display.say(
            f'{run.title}: {folder / STATE} is damaged or missing, so it is unknown'
            f' what was trained there; starts anew; moved the old run to {old}'
        )
    elif folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        inside = folder.iterdir() if folder.is_dir() else ()
        raise ExperimentError(
            f'{folder} holds something that is not a training',
            available=sorted(path.name for path in inside)[:8],
            fix='use --work-dir with another folder',
        )
    if not _take_back(run, display):
        _write_new_state(run)


def finished_before(run: TrainingRun, display: Display) -> TrainingResult | None:
    """Return the result of a training that finished before, if all of it is there."""
    if not (run.folder / DONE).exists():
        return None
    done, metrics = read_done(run.folder), run.read_metrics()
    if done and metrics:
        memory = done.get('memory')
        seconds, command = done['seconds'], done['command']
        return TrainingResult(run.name, metrics, seconds, command, memory)
    lost = 'its checkpoint, student or metrics are' if done else f'its {DONE} is'
    display.say(f'{run.title}: was finished, but {lost} damaged or missing; resumes')
    return None


def make_resumable(run: TrainingRun, display: Display) -> None:
    """Repair the checkpoints in the work dir; start anew if none is left."""
    title, pattern = run.title, run.checkpoint_pattern
    if repair_checkpoints(run.folder, pattern, title, display.say):
        return
    old = move_aside(run.folder)
    display.say(
        f'{title}: no checkpoint is left to resume from; starts anew; moved the old'
        f' run to {old}'
    )
    _write_new_state(run)


def _take_back(run: TrainingRun, display: Display) -> bool:
    """Rename a work dir of this very training that was moved aside, if there is one."""
    folder = run.folder
    for old in sorted(folder.parent.glob(f'{folder.name}.old*')):
        known = read_state(old)
        if known and known['fingerprint'] == run.fingerprint:
            if folder.exists():
                folder.rmdir()
            old.rename(folder)
            display.say(f'{run.title}: {old} is the same training; taken back')
            return True
    return False


def _write_new_state(run: TrainingRun) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    state = {'fingerprint': run.fingerprint, 'made_from': run.made_from}
    write_own_json(run.folder / STATE, {**state, 'seconds': 0.0})


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """List names that differ: dependencies (names of several words) before settings."""
    names = [n for n in dict.fromkeys([*old, *new]) if old.get(n) != new.get(n)]
    names.sort(key=lambda name: ' ' not in name)
    return ', '.join(names[:6]) + (', ...' if len(names) > 6 else '')
