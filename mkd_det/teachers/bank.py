"""All teachers of a distiller, outside of the module tree, and how they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TeacherConfig
from ..errors import TeacherError
from ..structures import Levels
from ..taps import TeacherReads
from .cache import TeacherCache
from .engine import Engine, dtype_name
from .engine_choice import choose_engine
from .loading import Teacher


class TeacherRunner:
    """Runs one teacher: through its engine, and its cache if it has one.

    Args:
        teacher: The teacher.

    Attributes:
        speed: How it is to run, see `TeacherConfig`.
        cache: Folder that keeps its outputs, or None.
        settled: Type of device, the speed that the part of the training which is
            resumed has chosen there, and its half precision, or ''; None in a new
            training.
        engine: The model that runs in its place, once the first batch has come.
        store: The cache, once the first batch has come.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.speed: str = teacher.config.speed
        self.cache = teacher.config.cache
        self.settled: tuple[str, str, str] | None = None
        self.engine: Engine | None = None
        self.store: TeacherCache | None = None

    @property
    def device_type(self) -> str:
        """Type of the device that the model is on."""
        return next(self.teacher.model.parameters()).device.type

    def run(
        self,
        inputs: Tensor,
        reads: TeacherReads,
        samples: Sequence[Any] | None = None,
    ) -> dict[str, Levels]:
        """Run the teacher as far as its taps need, without gradient.

        Args:
            inputs: Images as this teacher wants them, (N, 3, H, W).
            reads: What is read of it.
            samples: A data sample for each image, with its metas.

        Returns:
            Levels by tap name.

        Raises:
            TeacherError: The teacher is in training mode.
        """
        if self.teacher.outputs is not None:
            model, outputs = self.teacher.model, self.teacher.outputs
            return outputs.run(model, reads.taps, inputs, samples)
        if self.teacher.model.training:
            raise TeacherError(
                f'teacher {self.teacher.name!r} was put into training mode'
            )
        if self.engine is None:
            self.engine = self._choose_engine(inputs, reads, samples)
        run = self._runner(self.engine, reads)
        if self.cache is None:
            return run(inputs, samples)
        if self.store is None:
            self.store = TeacherCache(
                self.cache, self.teacher.model, reads.taps, self._engine_name()
            )
        return self.store.run(inputs, run, samples)

    def _runner(
        self, engine: Engine, reads: TeacherReads
    ) -> Callable[..., dict[str, Levels]]:
        calls = reads.calls or None
        return lambda images, samples=None: engine.run(
            images, reads.taps, calls, samples
        )

    def _choose_engine(
        self, inputs: Tensor, reads: TeacherReads, samples: Sequence[Any] | None
    ) -> Engine:
        device, speed, half = self.settled or ('', '', '')
        settled = device == self.device_type
        return choose_engine(
            self.teacher.name,
            self.teacher.model,
            speed if settled else self.speed,
            reads.norm_pairs,
            lambda engine: self._runner(engine, reads)(inputs, samples),
            settled,
            half,
        )

    def _engine_name(self) -> str:
        """Return what the outputs depend on: entries of one way serve no other."""
        assert self.engine is not None
        kind = self.device_type
        name = f'{self.engine.speedup} on {kind}'
        if self.engine.speedup.speed == 'off' and torch.is_autocast_enabled(kind):
            name += f', autocast to {torch.get_autocast_dtype(kind)}'
        return name


class TeacherBank(Mapping[str, Teacher]):
    """All teachers of a distiller.

    Not an `nn.Module`, so that a teacher is in no `parameters()`, `modules()`,
    `state_dict()`, optimizer, EMA copy or DDP bucket, and `train()` and
    `init_weights()` never reach it. The distiller hands `_apply` on to it.

    Args:
        configs: Config of each teacher, by name.

    Attributes:
        runners: What runs each teacher, by name.
        loaded: Whether the checkpoints are loaded.
    """

    def __init__(self, configs: Mapping[str, TeacherConfig | Mapping[str, Any]]):
        self._teachers = {
            name: Teacher.build(name, config) for name, config in configs.items()
        }
        self.runners = {n: TeacherRunner(t) for n, t in self._teachers.items()}
        self.loaded = not self._teachers

    def __getitem__(self, name: str) -> Teacher:
        return self._teachers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._teachers)

    def __len__(self) -> int:
        return len(self._teachers)

    def __deepcopy__(self, memo: dict) -> TeacherBank:
        # EMA copies the distiller; a frozen teacher needs no second copy.
        return self

    def load(self) -> None:
        """Load every checkpoint; the second call does nothing."""
        if not self.loaded:
            for teacher in self.values():
                teacher.load()
            self.loaded = True

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Do to the teachers what `nn.Module._apply` does to the student."""
        for name, teacher in self.items():
            model: nn.Module = teacher.model
            if not teacher.runs:
                continue
            model._apply(fn)
            # Moves no tensor any more, but tells the preprocessor where it is.
            model.to(next(model.parameters()).device)
            # A copy of the model as it was; the next batch makes another.
            self.runners[name].engine = self.runners[name].store = None

    @property
    def speeds(self) -> dict[str, list[str]]:
        """What the first batch settled, by name.

        Speed, type of device, what was wanted and, if there is one, half precision.
        """
        settled = {}
        for name, runner in self.runners.items():
            if runner.engine is not None:
                speedup = runner.engine.speedup
                half = [dtype_name(speedup.dtype)] if speedup.dtype else []
                settled[name] = [speedup.speed, runner.device_type, runner.speed, *half]
        return settled

    def keep_speeds(self, speeds: Mapping[str, Sequence[str]]) -> None:
        """Run as an earlier part of this training did, whatever the first batch says.

        Args:
            speeds: `speeds` of that part. A teacher whose `speed` has changed since is
                not in it.
        """
        for name, (speed, device, *more) in speeds.items():
            runner = self.runners.get(name)
            # Version 0.1 has only noted what 'auto' chose.
            wanted, half = [*more, *['auto', ''][len(more) :]][:2]
            if runner is not None and runner.speed == wanted:
                runner.settled = device, speed, half

    def run(
        self,
        name: str,
        inputs: Tensor,
        reads: TeacherReads,
        samples: Sequence[Any] | None = None,
    ) -> dict[str, Levels]:
        """Run one teacher as far as its taps need, without gradient.

        Never its loss, target assignment or NMS.

        Args:
            name: Which teacher.
            inputs: Images as this teacher wants them, (N, 3, H, W).
            reads: What is read of it; `Plan.reads` has it.
            samples: A data sample for each image, with its metas. Models with masks
                of padding (DETR and its kin) need them; None for no padding.

        Returns:
            Levels by tap name.
        """
        return self.runners[name].run(inputs, reads, samples)
