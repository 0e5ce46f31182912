"""Start the student with modules of its teacher."""

from __future__ import annotations

from mmengine.logging import MMLogger
from torch import nn

from ..config import InheritConfig
from ..errors import ConfigError, PlanError, nearest_names
from .bank import TeacherBank


class Inheritance:
    """Copies modules of a teacher into the student, before the first step.

    Figures of several papers (MGD, FGD) come from students that begin with the
    teacher's neck and head. Here the config and the log say so. A module fits
    completely, or nothing is copied.

    Args:
        config: The teacher, and the modules by path.
        student: The plain student.
        teachers: All teachers.

    Raises:
        ConfigError: There is no such module.
        PlanError: A module of the student has other tensors than the teacher's.
    """

    def __init__(
        self, config: InheritConfig, student: nn.Module, teachers: TeacherBank
    ) -> None:
        self.teacher, self.modules = config.teacher, config.modules
        for path in self.modules:
            _check_fit(path, student, teachers[self.teacher].model)

    def __str__(self) -> str:
        return f'inherit: {", ".join(self.modules)} of teacher {self.teacher}'

    def copy(self, student: nn.Module, teachers: TeacherBank) -> None:
        """Copy the modules, and log which.

        Args:
            student: The plain student, its branches detached.
            teachers: All teachers, loaded.
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


def _check_fit(path: str, student: nn.Module, teacher: nn.Module) -> None:
    """Raise unless the module has the same tensors in both models."""
    shapes = []
    for model, owner in ((student, 'student'), (teacher, 'teacher')):
        modules = dict(model.named_modules())
        if not path or path not in modules:
            names = [name for name in modules if name]
            raise ConfigError(
                f'inherit: {path!r} is no module of the {owner}',
                available=nearest_names(path, names, limit=8),
            )
        state = modules[path].state_dict()
        shapes.append({key: tuple(value.shape) for key, value in state.items()})
    ours, theirs = shapes
    every = sorted({*ours, *theirs})
    differing = [k for k in every if ours.get(k) != theirs.get(k)]
    if not every:
        raise ConfigError(f'inherit: {path} has no weights')
    if differing:
        shown = [f'{k}: {ours.get(k)}, teacher {theirs.get(k)}' for k in differing[:4]]
        raise PlanError(
            f'inherit: {path} of the student does not fit the teacher:'
            f' {len(differing)} of {len(every)} tensors differ; nothing is copied in'
            ' part',
            actual='; '.join(shown),
            fix='modules of equal widths, or no `inherit`',
        )
