"""A finished distillation, as its page needs it: each part is built when asked for."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ....checkpoints.checkpoint import load_checkpoint_strict
from ....config_files.reading import load_config
from ....distiller.model import Distiller
from ....training.class_names import with_class_names
from ....training.runtime import build_model
from ....training.student_config import student_config
from ...runs.metrics import evaluators_of
from ..shipping import shipped_files

# Folder of a training of the student alone, in the work dir of the distillation.
ALONE = 'student'


class Missing(Exception):
    """A part of the page cannot be made; the message says why."""


class FinishedRun:
    """A distillation that has been trained.

    Args:
        work_dir: Folder of the distillation.
        config: The config that was trained.
        run_dir: Folder of the training.
        options: Overrides of the config that it was trained with, by dotted key.

    Attributes:
        cfg: The config, with names of classes.
        figures: All figures of the page, for json; parts of the page fill it.
    """

    def __init__(
        self,
        work_dir: Path,
        config: Path,
        run_dir: Path,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.work_dir, self.config, self.run_dir = work_dir, config, run_dir
        self.cfg = with_class_names(load_config(str(config), options))
        self.figures: dict[str, Any] = {}
        init_default_scope(self.cfg.get('default_scope') or 'mmdet')

    @cached_property
    def plain(self) -> Config:
        """The plain config of the student, whose COCO metrics also name classes."""
        cfg = student_config(self.cfg)
        for metric in evaluators_of(cfg):
            if str(metric.get('type')).rpartition('.')[2] == 'CocoMetric':
                metric['classwise'] = True
        return cfg

    @property
    def files(self) -> tuple[Path, Path]:
        """The config and the weights to ship.

        Raises:
            Missing: The training has written none.
        """
        found = shipped_files(self.run_dir)
        if found is None:
            raise Missing(f'there is no plain student in {self.run_dir}')
        return found

    @cached_property
    def student(self) -> Any:
        """The plain student, as it is shipped."""
        return self._load(self.plain, self.files[1], 'the student')

    @property
    def alone_dir(self) -> Path:
        """Folder of a training of the student alone."""
        return self.work_dir / ALONE

    @property
    def alone_weights(self) -> Path | None:
        """Weights of the student that was trained alone; None if there are none.

        The best ones where the best ones of the taught student are shipped.
        """
        best = sorted(self.alone_dir.glob('best_*.pth'))
        if best and 'best' in self.files[1].name:
            return best[-1]
        note = self.alone_dir / 'last_checkpoint'
        if not note.is_file():
            return None
        path = self.alone_dir / Path(note.read_text().strip()).name
        return path if path.is_file() else None

    @cached_property
    def alone(self) -> Any | None:
        """The student that was trained alone; None if it was not."""
        path = self.alone_weights
        return None if path is None else self._load(self.plain, path, 'the student')

    @cached_property
    def distiller(self) -> Distiller:
        """The distiller with its teachers loaded; its student is not trained."""
        model = build_model(self.cfg)
        model.teachers.load()
        return model

    @property
    def teachers(self) -> dict[str, Any]:
        """The teachers that terms read, by name."""
        read = self.distiller.plan.taps
        return {n: t for n, t in self.distiller.teachers.items() if n in read}

    @cached_property
    def val_data(self) -> Any:
        """The validation data.

        Raises:
            Missing: The config has none.
        """
        self.check_validation()
        return DATASETS.build(deepcopy(self.plain.val_dataloader.dataset))

    def check_validation(self) -> None:
        """Raise Missing unless the config has validation data."""
        if self.plain.get('val_dataloader') is None:
            raise Missing('the config has no validation data (val_dataloader)')

    def _load(self, cfg: Config, weights: Path, name: str) -> Any:
        model = build_model(cfg)
        load_checkpoint_strict(model, str(weights), name)
        return model.eval()
