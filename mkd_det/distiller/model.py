"""The model that trains a student with its teachers' knowledge."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..config import DistillConfig
from ..errors import ConfigError
from ..heads.model_input import image_channels
from ..plan.plan import Plan
from ..plan.planner import Planner
from ..registry import BALANCES, argument_names, build_component, find_class
from ..teachers.bank import TeacherBank
from ..teachers.inherit import Inheritance
from ..teachers.renormalize import Renormalizer
from ..weighting.gradient_share import shared_parameters, shares_of
from ..weighting.sampler import TeacherSampler
from ..weighting.teacher_weights import TeacherWeights
from .loss_names import check_loss_names
from .losses import STATISTIC, StepLosses
from .state import attach_state_hooks
from .step import training_step
from .students import check_student


class _Original:
    """Marks the distiller that its teachers move with.

    Copies are not marked: they share the teachers, and EMA may keep its copy on
    another device.
    """

    def __deepcopy__(self, memo: dict) -> None:
        return None


class _Observers(list):
    """Hooks that watch a distiller.

    Copies of the model start unwatched: a hook holds the runner, which EMA must not
    copy.
    """

    def __deepcopy__(self, memo: dict) -> _Observers:
        return _Observers()


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains `student` on its own task and on what `teachers` know.

    The student alone is shipped: `predict` is the student's, and `state_dict()` has
    the plain student's keys and loads into the plain student. `step.py` has the
    training step, `state.py` the distillation state in a checkpoint.

    Args:
        student: Config of any mmengine `BaseModel`.
        data_preprocessor: Config for the student, if it has none of its own.
        init_cfg: None; that of the student is read.
        **distill: Keys of `DistillConfig`: `teachers`, `taps`, `adapters`,
            `branches`, `terms` and others.

    Attributes:
        config: The parsed `DistillConfig`.
        plan: What is read where, and what meets what.
        teachers: The teachers, outside of the module tree.
        observers: Hooks that watch the training steps.
        saw_unlabelled: Whether a step had images without labels: statistics then say
            how many of each a step has.

    Raises:
        MkdError: The config does not fit the models; see `errors.py`.
    """

    def __init__(
        self,
        student: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        **distill: Any,
    ) -> None:
        if init_cfg is not None:
            raise ConfigError(
                'model.init_cfg would not be read: the student has its own',
                actual=f'init_cfg={init_cfg!r}',
                fix='student=dict(init_cfg=...)',
            )
        config = DistillConfig.parse(distill, student)
        if data_preprocessor is not None:
            student = {'data_preprocessor': data_preprocessor, **student}
        model = MODELS.build(student)
        check_student(model)
        super().__init__(model.data_preprocessor)
        self.config = config
        self.student = model
        self.observers: list[Any] = _Observers()
        self.saw_unlabelled = False
        self._original: _Original | None = _Original()
        # What follows draws random numbers (teachers, adapters). The student's
        # own initialisation must not notice.
        with torch.random.fork_rng(devices=[]):
            self.teachers = TeacherBank(config.teachers)
            self.inherit = (
                Inheritance(config.inherit, model, self.teachers)
                if config.inherit
                else None
            )
            self.plan = Planner(model, self.teachers, config).build()
        _check_terms(config)
        check_loss_names(self.plan, model)
        self.branches = self.plan.branches
        self.adapters = nn.ModuleDict(
            {name: node.adapter for name, node in self.plan.adapters.items()}
        )
        self.losses = nn.ModuleDict(
            {name: term.loss for name, term in self.plan.terms.items()}
        )
        self.weigher = TeacherWeights(config.weighed_taps, self.plan.class_maps)
        self.balance = _build_balance(config, model)
        self.sampler = _build_sampler(config, self.plan)
        self.renormalizers = _build_renormalizers(model, self.teachers)
        attach_state_hooks(self)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Run the student; in mode 'loss', add the terms.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: A data sample per image.
            mode: 'loss', 'predict' or 'tensor'.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs: Tensor, data_samples: list | None) -> StepLosses:
        """Compute the student's losses and the terms; see `training_step`.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: A data sample per image, with its ground truth.
        """
        return training_step(self, inputs, data_samples)

    def parse_losses(self, losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses as mmengine does; log statistics and do not train on them.

        Args:
            losses: Losses and statistics of one step, by name.

        Returns:
            The total, and what is logged.
        """
        stats = {k: v for k, v in losses.items() if k.startswith(STATISTIC)}
        total, logged = super().parse_losses(
            {k: v for k, v in losses.items() if k not in stats}
        )
        logged.update({name: value.detach().mean() for name, value in stats.items()})
        return total, logged

    def init_weights(self) -> None:
        """Initialise the student as it would be alone; load the teachers."""
        for branch in self.branches.values():
            branch.detach()
        self.student.init_weights()
        self.teachers.load()
        if self.inherit is not None:
            self.inherit.copy(self.student, self.teachers)
        for branch in self.branches.values():
            branch.attach(self.student)

    def _apply(self, fn: Any, recurse: bool = True) -> Distiller:
        # `.to()`, `.cuda()`, `.double()`, also of a module around this one.
        super()._apply(fn, recurse)
        if self._original is not None:
            self.teachers.apply(fn)
        return self

    def __getattr__(self, name: str) -> Any:
        # Hooks of mmdet reach for `model.bbox_head` and the like.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith('_') or 'student' not in self.__dict__['_modules']:
                raise
            return getattr(self.student, name)


def _check_terms(config: DistillConfig) -> None:
    """Raise where teachers would be loaded for nothing."""
    if config.teachers and not config.terms and not config.inherit:
        raise ConfigError(
            'there are teachers, but no terms: nothing would be distilled',
            fix="**_base_.pop('recipe') at the end of model=dict(...), with a"
            ' recipe in _base_; or terms=dict(...)',
        )


def _build_balance(config: DistillConfig, student: nn.Module) -> Any | None:
    if config.balance is None:
        return None
    given = config.balance.to_build()
    shares = shares_of(config.terms)
    if shares and 'shares' in argument_names(find_class(BALANCES, given, 'balance')):
        given.setdefault('shares', shares)
    balance = build_component(BALANCES, given, 'balance', terms=list(config.terms))
    shared_parameters(student, balance.on)  # raises where there are none
    return balance


def _build_sampler(config: DistillConfig, plan: Plan) -> TeacherSampler:
    """Return the sampler of the teachers that a term reads."""
    read = set().union(*map(plan.teachers_of, plan.terms.values()))
    copies = {n: source for n, source in config.pruned_copies.items() if source in read}
    names = [name for name in config.teachers if name in read and name not in copies]
    return TeacherSampler(names, config.sampling, copies)


def _build_renormalizers(
    student: nn.Module, teachers: TeacherBank
) -> dict[str, Renormalizer]:
    ours: Any = student.data_preprocessor
    channels = image_channels(student)
    return {
        name: Renormalizer(
            ours,
            teacher.model.get_submodule('data_preprocessor'),
            name,
            (channels, image_channels(teacher.model)),
        )
        for name, teacher in teachers.items()
    }
