"""Small distillers whose plan a test looks at."""

from __future__ import annotations

from typing import Any

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config

import tiny
from mkd_det.distiller.model import Distiller
from mkd_det.errors import MkdError

SMALL, BIG = tiny.gfl(4, 8), tiny.gfl(8, 16)
ATTENTION = dict(type='AttentionKD', student='fpn', teacher='t.fpn')


def build(student: dict = SMALL, teacher: dict = BIG, **changes: Any) -> Distiller:
    """Build a distiller whose only term is attention on the neck, unless changed."""
    parts = dict(adapters={}, branches={}, terms=dict(loss_attention=ATTENTION))
    cfg = tiny.distiller(student, teacher, **{**parts, **changes})
    return MODELS.build(Config(dict(model=cfg)).model)


def term(type: str, student: str, teacher: str, **more: Any) -> dict[str, Any]:
    """Return the config of one term, called `loss_x`."""
    return dict(loss_x=dict(type=type, student=student, teacher=teacher, **more))


def guide(student: str = 'stages', teacher: str = 't.stages', **more: Any) -> dict:
    """Return the config of a guidance layer, called `guide`."""
    kwargs = dict(type='GuidanceLayer', student=student, teacher=teacher, **more)
    return dict(guide=kwargs)


def refused(error: type[MkdError], **changes: Any) -> MkdError:
    """Return the error of that very type that building a distiller raises."""
    with pytest.raises(error) as caught:
        build(**changes)
    assert type(caught.value) is error
    return caught.value
