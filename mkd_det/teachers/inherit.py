"""A student that starts with modules of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import MMLogger
from torch import nn

from ..errors import ConfigError, PlanError, check_keys, nearest_names
from .bank import TeacherBank


class Inheritance:
    """Copies modules of a teacher into the student, before the first step.

    Figures of several papers (MGD, FGD) come from students that begin with the
    teacher's neck and head. Here that is said in the config, and in the log. Modules
    fit as a whole or not at all.

    Args:
        cfg: dict(teacher=..., modules=[...]); modules by path, the same in both.
        student: The plain student.
        teachers: All teachers.

    Raises:
        ConfigError: There is no such teacher or module.
        PlanError: A module of the student's has other tensors than the teacher's.
    """

    teacher: Any
    modules: Any

    def __init__(
        self, cfg: Mapping[str, Any], student: nn.Module, teachers: TeacherBank
    ) -> None:
        check_keys(cfg, ('teacher', 'modules'), 'inherit')
        self.teacher = cfg.get('teacher')
        self.modules = cfg.get('modules')
        if self.teacher not in teachers:
            raise ConfigError(
                'inherit: there is no such teacher',
                actual=self.teacher,
                available=list(teachers),
                fix="inherit=dict(teacher='t', modules=['neck', 'bbox_head'])",
            )
        if not isinstance(self.modules, Sequence) or isinstance(self.modules, str):
            raise ConfigError(
                'inherit: `modules` must be a list of paths',
                actual=self.modules,
                fix="inherit=dict(teacher='t', modules=['neck', 'bbox_head'])",
            )
        if not self.modules or teachers[self.teacher].checkpoint is None:
            raise ConfigError(
                'inherit: there is nothing to inherit',
                expected='modules, and a teacher with a checkpoint',
                actual=f'{len(self.modules)} modules, checkpoint'
                f' {teachers[self.teacher].checkpoint}',
            )
        for path in self.modules:
            _check_fit(path, student, teachers[self.teacher].model)

    def __str__(self) -> str:
        return f'inherit: {", ".join(self.modules)} of teacher {self.teacher}'

    def copy(self, student: nn.Module, teachers: TeacherBank) -> None:
        """Copy, and say in the log what was copied.

        Args:
            student: As above, its branches detached.
            teachers: As above, loaded.
        """
        for path in self.modules:
            module = teachers[self.teacher].model.get_submodule(path)
            own = student.get_submodule(path)
            own.load_state_dict(module.state_dict())
            count = sum(parameter.numel() for parameter in own.parameters())
            MMLogger.get_current_instance().info(
                f'The student inherits {path} of teacher {self.teacher!r}:'
                f' {len(own.state_dict())} tensors, {count} parameters'
            )


def _check_fit(path: Any, student: nn.Module, teacher: nn.Module) -> None:
    sides = [dict(model.named_modules()).get(path) for model in (student, teacher)]
    for module, model, who in zip(sides, (student, teacher), ('student', 'teacher')):
        if not path or module is None:
            names = [name for name, _ in model.named_modules() if name]
            raise ConfigError(
                f'inherit: {path!r} is no module of the {who}',
                available=nearest_names(str(path), names, limit=8),
            )
    ours, theirs = (
        {key: tuple(value.shape) for key, value in side.state_dict().items()}  # type: ignore[union-attr]
        for side in sides
    )
    every = sorted({*ours, *theirs})
    other = [k for k in every if ours.get(k) != theirs.get(k)]
    if not every:
        raise ConfigError(f'inherit: {path} has no weights')
    if other:
        shown = [f'{k}: {ours.get(k)}, teacher {theirs.get(k)}' for k in other[:4]]
        raise PlanError(
            f'inherit: {path} of the student does not fit the teacher: {len(other)} of'
            f' {len(every)} tensors differ; nothing is copied in part',
            actual='; '.join(shown),
            fix='modules of equal widths, or no `inherit`',
        )
