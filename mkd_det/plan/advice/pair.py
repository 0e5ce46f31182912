"""Two models, and what is known of them, for which recipes are planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.model import BaseModel
from torch import nn

from ...config import ProbeConfig


@dataclass(frozen=True)
class Pair:
    """A student and its teacher.

    Args:
        student: The student. Planning leaves it as it is.
        teacher: The teacher.
        size: (H, W) of the image that the models are run on, in pixels.
        probe: What the config says of input that is no usual image.
        class_map: The `class_map` of a teacher of other classes.
        classes: Names of the student's classes, where the class map needs them.
        teacher_classes: Those of the teacher's.
    """

    student: BaseModel
    teacher: nn.Module
    size: tuple[int, int] = (256, 256)
    probe: ProbeConfig | None = None
    class_map: Any = None
    classes: tuple[str, ...] = ()
    teacher_classes: tuple[str, ...] = ()

    def add_to(self, arguments: Mapping[str, Any], teacher: str) -> dict[str, Any]:
        """Return arguments of a `Distiller` with what is known of the pair.

        Args:
            arguments: Those of a recipe.
            teacher: Name of the teacher in the recipe.
        """
        own = arguments.get('teachers') or {}
        known = dict(class_map=self.class_map, classes=self.teacher_classes)
        teachers = {teacher: dict(cfg=teacher, checkpoint=None), **own}
        if self.class_map is not None:
            teachers = {name: {**given, **known} for name, given in teachers.items()}
        return dict(
            arguments,
            teachers=teachers,
            classes=self.classes,
            probe_size=self.size,
            probe=self.probe,
        )
