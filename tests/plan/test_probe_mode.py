"""The plan reads heads in the mode in which it has run them."""

from __future__ import annotations

import pytest

import tiny
from mkd_det.plan.planner import Planner
from plans import build, term


def test_a_model_has_nothing_to_learn_from_itself_in_the_plan() -> None:
    cfg = tiny.fcos(8, 16)
    # Its boxes are in pixels in eval mode, and in strides in training.
    cfg['bbox_head'] |= dict(norm_on_bbox=True, centerness_on_reg=True)
    terms = term('SoftOutputKD', 'head', 't.head', boxes='giou')
    model = build(cfg, cfg, taps=dict(head='bbox_head'), terms=terms).train()
    model.student.load_state_dict(model.teachers['t'].model.state_dict())
    plan = Planner(model.student, model.teachers, model.config).build()
    (planned,) = plan.terms.values()
    assert planned.tried['box'] == pytest.approx(0, abs=1e-4)
    assert model.student.bbox_head.training
