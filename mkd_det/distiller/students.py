"""Which models can be students."""

from __future__ import annotations

from typing import Any

from mmdet.models import SemiBaseDetector
from mmdet.models.mot import BaseMOTModel
from mmengine.model import BaseTTAModel

from ..errors import ConfigError


def check_student(model: Any) -> None:
    """Raise ConfigError for a model that a distillation cannot train.

    Args:
        model: The student, built.

    Raises:
        ConfigError: It gets several batches at once, or videos, or trains nothing.
    """
    name = type(model).__name__
    if isinstance(model, SemiBaseDetector):
        raise ConfigError(
            f'student: {name} trains on several batches at once, labelled and not; its'
            ' teachers would not know which one is theirs',
            expected='a detector that trains on one batch of images',
            actual=f'{name}, which holds a student and a teacher of its own',
            fix=f'student=<the `detector` of {name}>, with the labelled data alone.\n'
            f'To learn from a trained {name}: teachers=dict(t=dict(\n'
            "    cfg=<that detector>, checkpoint=..., prefix='teacher.'))",
        )
    if isinstance(model, BaseMOTModel):
        raise ConfigError(
            f'student: {name} tracks objects in videos, and distillation knows images',
            expected='a detector of images',
            actual=name,
            fix=f'student=<the `detector` of {name}>',
        )
    if isinstance(model, BaseTTAModel):
        raise ConfigError(
            f'student: {name} tests a model, it does not train one',
            actual=name,
            fix='student=<its `module`>',
        )
