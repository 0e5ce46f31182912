"""Box heads of two-stage detectors: what is read, run, and refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
from mkd_det.errors import HeadKindError, PlanError, TeacherClassesError
from mkd_det.heads.base import TappedHead
from mkd_det.heads.readers.regions import RegionReader, logits_of_regions
from mkd_det.heads.running import run_features
from mkd_det.taps import Tap, capture

HEAD = 'roi_head.bbox_head'


def tapped(model: Any, images: int = 2) -> TappedHead:
    tap = Tap((HEAD,), layout=RegionReader.layout)
    with torch.no_grad(), capture(model, {'head': tap}) as seen:
        run_features(model, torch.randn(images, 3, 64, 64), rehearse=True)
    return TappedHead(model.get_submodule(HEAD), seen['head'])


def test_scores_are_the_logits_of_the_head() -> None:
    model = tiny.build(tiny.faster_rcnn()).eval()
    head, levels, *_ = tapped(model)
    assert len(levels) == 1 and len(levels[0]) == 2  # classes and deltas
    reader = RegionReader(head)
    output = reader.read(head, levels)
    assert output.scores.shape == (1, 2, 4)
    assert output.boxes is None  # whose regions are not known here
    assert reader.activation == 'softmax'
    assert torch.equal(output.scores[0], levels[0][0])


def test_other_classes_and_other_regions_are_refused() -> None:
    student, same = (tapped(tiny.build(tiny.faster_rcnn())) for _ in range(2))
    reader = RegionReader(student.head)
    reader.check_comparable(student, same, 'here')
    other = tapped(tiny.build(tiny.faster_rcnn(num_classes=5)))
    with pytest.raises(TeacherClassesError):
        reader.check_comparable(student, other, 'here')
    with pytest.raises(HeadKindError, match='different regions'):
        reader.check_comparable(
            student, tapped(tiny.build(tiny.faster_rcnn()), images=3), 'here'
        )


def test_sigmoid_classes_are_refused() -> None:
    head = tiny.build(tiny.faster_rcnn()).roi_head.bbox_head
    head.loss_cls.use_sigmoid = True
    with pytest.raises(HeadKindError):
        RegionReader(head)


def test_the_second_stage_of_a_teacher_is_not_tapped() -> None:
    model = tiny.build(tiny.faster_rcnn())
    tap = Tap.parse(f'{HEAD}.fc_cls')
    RegionReader.check_tap(model, tap, True, 'tap classes')
    with pytest.raises(PlanError) as caught:
        RegionReader.check_tap(model, tap, False, 'tap t.classes')
    assert 'ProposalHead' in caught.value.fix
    with pytest.raises(HeadKindError):
        RegionReader.check_tap(tiny.build(tiny.gfl(4, 8)), tap, True, 'tap classes')


def test_logits_of_a_cascade_are_those_of_its_stages() -> None:
    model = tiny.build(tiny.cascade_rcnn()).eval()
    features = model.extract_feat(torch.randn(1, 3, 64, 64))
    regions = torch.tensor([[0, 4, 4, 40, 60.0]])
    with torch.no_grad():
        assert [x.shape for x in logits_of_regions(model, features, regions)] == [
            (1, 4),
            (1, 4),
        ]
