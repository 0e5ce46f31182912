"""Evaluates the students of finished trainings, each once for a split."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import MODELS

from ....checkpoints.checkpoint import load_checkpoint_strict
from ....config_files.reading import plain_model_cfg
from ....io.atomic import write_own
from ....registry import build_mmengine_model
from ....training.student_config import student_config
from ...runs import TrainingRun
from ...runs.settings import checkpoint_id
from .evaluation import Evaluation, evaluate
from .image_results import from_arrays, to_arrays

# Entry of a file that tells what was evaluated, and the metrics.
_ABOUT = 'about'


@dataclass(frozen=True)
class StudentEvaluator:
    """Evaluates students on a split, and keeps what was found beside the checkpoint.

    Args:
        split: 'val' or 'test'.
        key: Key of the figure that counts.
        only_known: Only read what was evaluated before.
    """

    split: str
    key: str
    only_known: bool = False

    def __call__(self, cfg: Config, training: TrainingRun) -> Evaluation | None:
        """Return what the student of a training reaches at its end.

        Args:
            cfg: Config of the row.
            training: The training.

        Returns:
            None if it was not evaluated before and is not to be evaluated now.

        Raises:
            MkdError: The checkpoint is missing or damaged.
        """
        file = self.file(training)
        identity = self._identity(cfg, training.checkpoint)
        known = _read(file, identity)
        if known is not None or self.only_known:
            return known
        model = load_student(cfg, training.checkpoint, training.title)
        print(f'Evaluating {training.title} on the {self.split} data', flush=True)
        found = evaluate(model, cfg, self.split, key=self.key)
        write_own(file, _as_bytes(found, identity))
        return found

    def file(self, training: TrainingRun) -> Path:
        """Return the file of a training: predictions, and which of them are right."""
        return training.folder / f'{self.split}_predictions.npz'

    def _identity(self, cfg: Config, checkpoint: Path) -> str:
        """Return a hash of all that determines the result."""
        weights = checkpoint_id(str(checkpoint)) if checkpoint.is_file() else ''
        keys = (f'{self.split}_dataloader', f'{self.split}_evaluator')
        text = json.dumps([weights, self.key, [cfg.get(k) for k in keys]], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_student(cfg: Config, checkpoint: Path, title: str) -> Any:
    """Return the plain student of a training with its weights.

    Args:
        cfg: Config of the training.
        checkpoint: The file.
        title: Whose student it is, for messages.

    Raises:
        MkdError: The file is missing, damaged or of another model.
    """
    plain = plain_model_cfg(student_config(cfg))
    model = build_mmengine_model(MODELS, Config(dict(model=plain)).model, 'student')
    load_checkpoint_strict(model, str(checkpoint), f'the student of {title}')
    return model


def _as_bytes(found: Evaluation, identity: str) -> bytes:
    kind = '' if found.images is None else type(found.images).__name__
    about = dict(identity=identity, kind=kind, metrics=found.metrics)
    arrays: dict[str, Any] = {_ABOUT: np.array(json.dumps(about))}
    if found.images is not None:
        arrays |= to_arrays(found.images)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _read(file: Path, identity: str) -> Evaluation | None:
    """Return what a file holds; None if it is missing, damaged or of something else."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays[_ABOUT]))
            if about['identity'] != identity:
                return None
            images = from_arrays(about['kind'], arrays)
            return Evaluation(about['metrics'], images)
    except Exception:  # numpy and zipfile raise many types; it is evaluated again
        return None
