"""What the checks of the doctor look at: the training, built as far as they need."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from ...checkpoints.checkpoint import extract_state_dict, read_checkpoint
from ...distiller.model import Distiller
from ...errors import ConfigError, MkdError
from ...preflight.checks import check_before_start
from ...training.runtime import build_model, prepare_config

Batch = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How thorough the doctor is.

    Args:
        images: Validation images that teachers are measured on.
        batches: Training batches that are looked at.
        warmup: Training steps before the pull of the terms is measured; in the first
            ones it changes by orders of magnitude.
        ranks: Processes of a distributed training to try; 1 for none.
        quick: Leave out what takes long: speed, time and memory, plain training.

    Raises:
        ConfigError: A value is not possible.
    """

    images: int = 32
    batches: int = 4
    warmup: int = 6
    ranks: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        for name in ('images', 'batches', 'ranks'):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f'--{name} must be at least 1', actual=getattr(self, name)
                )


class NotExamined(Exception):
    """A check cannot run, because of what another one has reported."""


class Examination:
    """A distillation that is examined. Parts are built once, when a check asks.

    Args:
        cfg: A distill config, with `work_dir`. It is not changed.
        settings: How thorough to be.
        folder: Temporary folder for what runs write.

    Attributes:
        cfg: The config of the training, with the hooks that a training has.
        error: Why the training would not start, once `model` was asked for.
    """

    def __init__(self, cfg: Config, settings: Settings, folder: Path) -> None:
        self.cfg = prepare_config(cfg)
        self.settings, self.folder = settings, folder
        self.device = get_device()
        self.error: MkdError | None = None

    @cached_property
    def built(self) -> Distiller | None:
        """The distiller with its teachers loaded; None if that is not possible."""
        try:
            model: Any = check_before_start(self.cfg)
        except MkdError as error:
            self.error = error
            try:
                model = build_model(self.cfg)
                model.teachers.load()
            except MkdError:
                return None
        torch.manual_seed(0)
        try:
            model.init_weights()
            self._load_start(model)
        except (MkdError, OSError) as error:
            if isinstance(error, MkdError):
                self.error = self.error or error
            return None
        return model.to(self.device).train()

    @property
    def model(self) -> Distiller:
        """The distiller.

        Raises:
            NotExamined: It cannot be built; `error` says why.
        """
        if self.built is None:
            raise NotExamined
        return self.built

    def _load_start(self, model: nn.Module) -> None:
        """Load what the student starts from, as far as it fits."""
        path = self.cfg.get('load_from')
        if not path or self.cfg.get('resume'):
            return
        own = model.state_dict()
        weights = extract_state_dict(read_checkpoint(path), path)
        fitting = {
            key: value
            for key, value in weights.items()
            if key in own and own[key].shape == value.shape
        }
        model.load_state_dict({**own, **fitting})

    @cached_property
    def loader_cfg(self) -> Config:
        """The config with dataloaders that start no processes."""
        cfg = deepcopy(self.cfg)
        for split in ('train', 'val', 'test'):
            loader = cfg.get(f'{split}_dataloader')
            if loader is not None:
                loader.num_workers = 0
                loader.persistent_workers = False
                for key in ('prefetch_factor', 'timeout', 'multiprocessing_context'):
                    loader.pop(key, None)
        return cfg

    @cached_property
    def train_loader(self) -> Any:
        """The dataloader of the training.

        Raises:
            NotExamined: The training would not start for another reason.
        """
        try:
            return Runner.build_dataloader(self.loader_cfg.train_dataloader, seed=0)
        except Exception:
            if self.error is not None:
                raise NotExamined from None
            raise

    @cached_property
    def batches(self) -> list[Batch]:
        """The first batches of the training."""
        return list(islice(self.train_loader, self.settings.batches))

    def batch_copies(self) -> Iterator[Batch]:
        """Yield copies of the batches, in turns and without end."""
        while True:
            for batch in self.batches:
                yield deepcopy(batch)

    @property
    def iterations(self) -> int:
        """Iterations of the whole training."""
        loop = self.cfg.train_cfg
        if loop.get('max_iters'):
            return int(loop.max_iters)
        return int(loop.get('max_epochs', 1)) * len(self.train_loader)

    @cached_property
    def runner(self) -> Runner:
        """A runner for the evaluation of teachers, which writes to `folder` alone."""
        cfg, model = self.loader_cfg, self.model
        parts = ('val_dataloader', 'val_evaluator', 'val_cfg')
        return Runner(
            model=model,
            work_dir=str(self.folder),
            default_hooks=dict.fromkeys(
                ('logger', 'checkpoint', 'timer', 'param_scheduler', 'sampler_seed')
            ),
            default_scope=cfg.get('default_scope') or 'mmdet',
            log_level='ERROR',
            visualizer=dict(type='mmengine.Visualizer', vis_backends=[]),
            experiment_name=f'doctor_{self.folder.name}',
            cfg={k: v for k, v in cfg.items() if k not in ('model', 'work_dir')},
            **{key: deepcopy(cfg.get(key)) for key in parts},
        )

    def optimizer(self, model: nn.Module, slower: float = 1.0) -> Any:
        """Return an optimizer as the config describes it.

        Args:
            model: What it trains.
            slower: Factor on all learning rates.
        """
        wrapper = build_optim_wrapper(model, deepcopy(self.cfg.optim_wrapper))
        for optim in wrapper.values() if hasattr(wrapper, 'values') else [wrapper]:
            for group in optim.param_groups:
                group['lr'] *= slower
        return wrapper

    @cached_property
    def student_name(self) -> str:
        """Class of the student, for messages."""
        return type(self.model.student).__name__
