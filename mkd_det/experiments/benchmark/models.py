"""The plain student and the distiller, from equal weights, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from ...registry import type_name
from ...structures import bytes_in
from ...teachers.engine import Engine
from ...training.runtime import build_model
from ...training.student_config import student_config
from ...weighting.sampler import TeacherSampler
from .batches import Batch

Phase = Callable[[Batch], Any]
# Beside the speeds of a teacher: its outputs are read from a disk.
CACHED = 'cached'


class BenchmarkModels:
    """The models of a benchmark, and its phases.

    Args:
        cfg: A distill config.
        device: Where to run.
        speeds: Speeds of the teachers in K, or `CACHED`; by default, the config's.
        each_count: Whether K runs with one, two, ... all teachers taking part.

    Attributes:
        random: Teachers whose file is missing; they keep random weights.
        taught: Teachers that are read, in a step of K.
        speeds: Speed of the teachers by variant of K; '' is the config's.
        active: Number of teachers that take part, by variant of K, where the sampler
            does not decide.
        engines: What runs each teacher, by speed; the first batch settles it.
    """

    def __init__(
        self,
        cfg: Config,
        device: str,
        speeds: Sequence[str] = (),
        each_count: bool = False,
    ) -> None:
        cfg = deepcopy(cfg)
        cfg.model = _without_downloads(cfg.model)
        self.random = _use_random_teachers(cfg)
        torch.manual_seed(0)
        self.student: Any = build_model(student_config(cfg))
        self.student.init_weights()
        self.distiller: Any = build_model(cfg)
        self.distiller.init_weights()
        self.distiller.load_state_dict(self.student.state_dict())
        self.device = device
        for model in (self.student, self.distiller):
            model.to(device).train()
        self.optim_s = build_optim_wrapper(self.student, deepcopy(cfg.optim_wrapper))
        self.optim_k = build_optim_wrapper(self.distiller, deepcopy(cfg.optim_wrapper))
        self.taught = self._taught(each_count)
        self.engines: dict[str, dict[str, Engine]] = {}
        self.cache = TemporaryDirectory(prefix='teacher_cache')
        self.speeds = {f'K {speed}': speed for speed in speeds} or {'K': ''}
        self.active: dict[str, int] = {}
        if each_count:
            count = len(self.taught) - len(self.distiller.sampler.copies)
            self.active = {f'K {i + 1} of {count}': i + 1 for i in range(count)}
            self.speeds = dict.fromkeys(self.active, speeds[0] if speeds else '')

    def _taught(self, all_teachers: bool) -> list[str]:
        plan = self.distiller.plan
        read = set().union(*map(plan.teachers_of, plan.terms.values()))
        # Outside of a run it is iteration 0, for the sampler too.
        return sorted(read if all_teachers else read & self.distiller.sampler.pick(0))

    @property
    def classes(self) -> int:
        """Number of classes of the student (an RPN says 1)."""
        found = [getattr(m, 'num_classes', 0) for m in self.student.modules()]
        return max([n for n in found if isinstance(n, int)] + [1])

    def phases(self) -> dict[str, Phase]:
        """Return what is measured, by name. Each takes a batch of its own."""
        variants = {name: partial(self._distill, name) for name in self.speeds}
        return {
            'S': lambda batch: self.student.train_step(batch, self.optim_s),
            'T': self._run_teachers,
            **variants,
        }

    def _distill(self, name: str, batch: Batch) -> None:
        with self.at_speed(self.speeds[name]), self.taught_by(self.active.get(name)):
            self.distiller.train_step(batch, self.optim_k)

    def _run_teachers(self, batch: Batch) -> None:
        reads = self.distiller.plan.reads
        # In the precision of the training, as in K.
        with self.at_speed('off'), self.optim_k.optim_context(self.distiller):
            for name, (inputs, samples) in batch.items():
                self.distiller.teachers.run(name, inputs, reads[name], samples)

    @contextmanager
    def taught_by(self, count: int | None) -> Iterator[None]:
        """Let `count` teachers take part; None leaves it to the sampler."""
        sampler = self.distiller.sampler
        if count is not None:
            names = [name for name in self.taught if name not in sampler.copies]
            self.distiller.sampler = TeacherSampler(
                names[:count], copies=sampler.copies
            )
        try:
            yield
        finally:
            self.distiller.sampler = sampler

    @contextmanager
    def at_speed(self, speed: str) -> Iterator[None]:
        """Run the teachers at `speed`; the first step at it settles their engines."""
        engines = self.engines.setdefault(speed, {})
        runners = self.distiller.teachers.runners
        configured = {name: runner.speed for name, runner in runners.items()}
        for name, runner in runners.items():
            runner.engine = engines.get(name)
            runner.cache = self.cache.name if speed == CACHED else None
            if speed and speed != CACHED:
                runner.speed = speed
        try:
            yield
        finally:
            for name, runner in runners.items():
                if runner.engine is not None:
                    engines[name] = runner.engine
                runner.speed, runner.cache = configured[name], None

    def prepare(self, name: str, batch: Batch) -> Batch:
        """Return a copy of the batch for a phase; for T, as each teacher wants it."""
        batch = deepcopy(batch)
        if name != 'T':
            return batch
        batch = self.student.data_preprocessor(batch, True)
        renormalizers = self.distiller.renormalizers
        inputs, samples = batch['inputs'], batch['data_samples']
        return {n: (renormalizers[n](inputs, samples), samples) for n in self.taught}

    def resident_bytes(self, name: str) -> int:
        """Return what stays between steps: weights, buffers, optimizer state."""
        teachers = [t.model for t in self.distiller.teachers.values()]
        if name == 'T':
            return sum(bytes_in(m.state_dict()) for m in teachers)
        plain = name == 'S'
        model = self.student if plain else self.distiller
        optim = self.optim_s if plain else self.optim_k
        states = getattr(optim, 'optimizer', optim).state_dict()
        own = bytes_in(list(model.parameters()) + list(model.buffers()))
        if plain:
            return own + bytes_in(states)
        copies = [
            engine.model.state_dict()
            for engine in self.engines.get(self.speeds[name], {}).values()
            if engine.speedup.speed != 'off'
        ]
        return own + bytes_in(states) + self.resident_bytes('T') + bytes_in(copies)


def _without_downloads(cfg: Any) -> Any:
    """Drop pre-trained weights to start from: they do not change the time."""
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            kind = value.get('type') if isinstance(value, dict) else None
            pretrained = type_name(kind) == 'Pretrained'
            cfg[key] = None if pretrained else _without_downloads(value)
    elif isinstance(cfg, (list, tuple)):
        return type(cfg)(_without_downloads(value) for value in cfg)
    return cfg


def _use_random_teachers(cfg: Config) -> list[str]:
    """Let teachers whose file is missing keep random weights; return their names."""
    absent = []
    for name, teacher in (cfg.model.get('teachers') or {}).items():
        path = teacher.get('checkpoint')
        if path is not None and not Path(path).is_file():
            teacher.checkpoint = None
        if teacher.get('checkpoint', '') is None:
            absent.append(name)
    return absent
