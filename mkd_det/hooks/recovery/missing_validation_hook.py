"""Make up for a validation that a kill has prevented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import is_number
from ...io.json_files import read_json, write_own_json
from ...io.random_state import preserved_random_state
from ...training.validation import (
    epoch_length,
    in_mid_epoch,
    steps_done,
    validates_after,
)

# Name of the note in the work dir.
NOTE = 'validated.json'


@HOOKS.register_module()
class MissingValidationHook(Hook):
    """Validates a resumed checkpoint whose validation a kill has prevented.

    A checkpoint is written before its validation. After a kill between the two,
    mmengine goes on with the next epoch, and the best checkpoint becomes another one.
    Each validation that was finished is noted in `validated.json` in the work dir, with
    the best checkpoint so far. A resumed checkpoint that should have been validated and
    is not noted is validated before the training goes on, without a trace in its random
    numbers. A training without iterations left is validated in any case.
    """

    # Before CheckpointHook reads which checkpoint is the best.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._start = 0
        self._due = False
        self._length: int | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note how long an epoch of the killed training was."""
        self._length = epoch_length(checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Find out whether a validation is missing; restore the best checkpoint."""
        self._start = runner.iter
        self._due = False
        if not (runner._resume and runner.iter):
            if is_main_process():
                Path(runner.work_dir, NOTE).unlink(missing_ok=True)
            return
        # All ranks validate, or none.
        notes = [_read_notes(runner) if is_main_process() else {}]
        broadcast_object_list(notes)
        best = notes[0].get(str(steps_done(runner.train_loop)))
        if best is None:
            self._due = _is_due(runner, self._length)
            return
        for key, value in best.items():
            runner.message_hub.update_info(key, value)

    def before_train_epoch(self, runner: Runner) -> None:
        """Validate before the first step."""
        if self._due:
            runner.logger.info(
                'The resumed checkpoint was not validated: it is validated now'
            )
            self._validate(runner)

    def after_train(self, runner: Runner) -> None:
        """Validate if nothing was left to train."""
        nothing_left = runner.iter == self._start > 0
        if self._due or (nothing_left and runner.val_loop is not None):
            self._validate(runner)

    @master_only
    def after_val(self, runner: Runner) -> None:
        """Note that this step is validated, and what is the best now."""
        if not isinstance(runner._train_loop, dict) and runner._train_loop is not None:
            notes = _read_notes(runner)
            best = {
                key: float(value) if is_number(value) else str(value)
                for key, value in runner.message_hub.runtime_info.items()
                if key.startswith(('best_ckpt', 'best_score'))
            }
            notes[str(steps_done(runner.train_loop))] = best
            write_own_json(Path(runner.work_dir, NOTE), notes)

    def _validate(self, runner: Runner) -> None:
        self._due = False
        with preserved_random_state():
            runner.val_loop.run()


def _is_due(runner: Runner, length: int | None) -> bool:
    """Return whether mmengine has validated at the resumed step, or would have."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    if in_mid_epoch(loop, length):
        return False
    return validates_after(loop, steps_done(loop))


def _read_notes(runner: Runner) -> dict[str, dict[str, Any]]:
    """Return what is the best after each validated step."""
    notes = read_json(Path(runner.work_dir, NOTE))
    if not isinstance(notes, dict):
        return {}
    return {
        step: {
            key: value
            for key, value in best.items()
            if key.startswith(('best_ckpt', 'best_score'))
            and isinstance(value, str if key.startswith('best_ckpt') else (int, float))
        }
        for step, best in notes.items()
        if isinstance(best, dict)
    }
