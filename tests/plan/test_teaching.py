"""Parts of a loss that have no gradient at the shapes of a pair are noted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import plans
import tiny
from mkd_det.plan.checks.teaching import find_idle_parts
from mkd_det.registry import LOSSES, build_component
from mkd_det.structures import GroundTruth, HeadOutput

LABEL = GroundTruth((), (torch.tensor(0),), (64, 64))
CLASSES = 'roi_head.bbox_head.fc_cls'


def idle(type: str, *shapes: tuple[int, ...], **more: Any) -> set[str]:
    """Return the names of the idle parts of a loss of levels of these shapes."""
    loss = build_component(LOSSES, dict(type=type, **more), 'here')
    sides = {s: tuple(torch.zeros(x) for x in shapes) for s in ('student', 'teacher')}
    for side in loss.also:
        sides[side] = sides['teacher']
    truth = {'truth': LABEL} if loss.truth else {}
    return set(find_idle_parts(loss, sides, **truth))


IDLE: list[tuple[str, tuple, dict, set[str]]] = [
    ('DIST', ((6, 2),), {}, {'classes'}),
    ('DIST', ((6, 2),), dict(beta=0.0), set()),
    ('DIST', ((6, 1),), {}, {'classes', 'samples'}),
    ('DIST', ((6, 3),), {}, set()),
    ('DIST', ((1, 2, 4, 4),), {}, {'classes'}),
    ('DKD', ((1, 2),), {}, {'rest'}),
    ('DKD', ((1, 2),), dict(beta=0.0), set()),
    ('DKD', ((1, 3),), {}, set()),
    ('SoftOutputKD', ((1, 1),), {}, {''}),
    ('SoftOutputKD', ((1, 1),), dict(classes='sigmoid'), set()),
    ('SoftOutputKD', ((1, 2),), {}, set()),
    ('LossAggregation', ((1, 1),), {}, {''}),
    ('LossAggregation', ((1, 1),), dict(losses=[dict(type='BinaryCE')]), set()),
    ('LossAggregation', ((1, 2),), {}, set()),
    ('DLKD', ((1, 1),), {}, {''}),
    ('DLKD', ((1, 3),), {}, set()),
    ('AttentionKD', ((1, 8, 1, 1),), {}, {''}),
    ('AttentionKD', ((1, 8, 1, 1), (1, 8, 2, 2)), {}, set()),
    ('AttentionKD', ((1, 1, 4, 4),), {}, set()),
    ('AttentionKD', ((1, 1, 8),), {}, {''}),
    ('FeatureKD', ((1, 8, 1, 1),), dict(form='channel'), {''}),
    ('FeatureKD', ((1, 8, 1, 1),), dict(form='l2'), set()),
    ('FeatureKD', ((1, 8, 4, 4),), dict(form='channel'), set()),
    ('FeatureKD', ((1, 8),), {}, set()),
    ('FeatureKD', ((1, 1, 1, 1),), {}, set()),
    ('RelationKD', ((1, 1, 4, 4), (1, 1, 2, 2)), {}, {''}),
    ('RelationKD', ((1, 1, 4, 4), (1, 1, 2, 2)), dict(normalize=False), set()),
    ('RelationKD', ((1, 4, 4, 4), (1, 8, 2, 2)), {}, set()),
    ('RelationKD', ((1, 8, 1, 1),), dict(relation='spatial'), {''}),
    ('RelationKD', ((1, 1, 4, 4),), dict(relation='spatial'), {''}),
    ('RelationKD', ((1, 8, 40, 40),), dict(relation='spatial'), set()),
]


@pytest.mark.parametrize('type, shapes, more, parts', IDLE)
def test_parts_that_cannot_teach(
    type: str, shapes: tuple, more: dict, parts: set[str]
) -> None:
    assert idle(type, *shapes, **more) == parts


@pytest.mark.parametrize('bins, parts', [(1, {'box'}), (8, set())])
def test_a_box_distribution_of_one_bin_cannot_teach(bins: int, parts: set) -> None:
    output = HeadOutput(torch.zeros(1, 9, 3), None, torch.zeros(1, 9, 4, bins))
    loss = build_component(LOSSES, dict(type='SoftOutputKD'), 'here')
    found = find_idle_parts(loss, dict(student=(output,), teacher=(output,)))
    assert set(found) == parts


def test_boxes_and_queries_can_teach() -> None:
    output = HeadOutput(torch.zeros(1, 9, 1), torch.zeros(1, 9, 4), earlier=())
    for type in ('SoftOutputKD', 'QueryKD'):
        loss = build_component(LOSSES, dict(type=type), 'here')
        assert not find_idle_parts(loss, dict(student=(output,), teacher=(output,)))


def test_a_loss_that_forgets_the_student_is_found() -> None:
    loss = build_component(LOSSES, dict(type='FeatureKD', form='l2'), 'here')
    loss.pair = lambda student, teacher, mask=None: (student.detach() - teacher).mean()
    sides = {s: (torch.zeros(1, 4, 2, 2),) for s in ('student', 'teacher')}
    assert set(find_idle_parts(loss, sides)) == {''}


def test_a_loss_that_demands_more_of_numbers_is_left_alone() -> None:
    loss = build_component(LOSSES, dict(type='FeatureKD'), 'here')

    def pair(student: Any, teacher: Any, mask: Any = None) -> Any:
        raise ValueError('needs probabilities')

    loss.pair = pair
    sides = {s: (torch.zeros(1, 4, 2, 2),) for s in ('student', 'teacher')}
    assert find_idle_parts(loss, sides) == {}


def two_stages(classes: int, **more: Any) -> Any:
    """Return the plan of DIST between second stages of so many classes."""
    return plans.build(
        tiny.faster_rcnn(4, 8, num_classes=classes),
        tiny.faster_rcnn(8, 16, num_classes=classes),
        taps=dict(
            pyramid='neck', rois='roi_head.bbox_roi_extractor:in1', classes=CLASSES
        ),
        adapters=dict(
            proposals=dict(type='ProposalHead', student='rois', teacher='t.pyramid')
        ),
        terms=plans.term('DIST', 'classes', 'proposals.teacher', **more),
    ).plan


def test_dist_of_one_class_and_the_background_is_noted_with_what_to_write() -> None:
    plan = two_stages(1)
    assert len(plan.notes) == 1
    assert plan.notes[0].startswith('loss_x_classes cannot teach: DIST')
    assert 'beta=0' in plan.notes[0]
    assert 'cannot teach' in plan.table(200)
    # As the note says:
    assert two_stages(1, beta=0).notes == []
    assert two_stages(2).notes == []


@pytest.mark.parametrize('boxes, noted', [('auto', True), ('off', False)])
def test_soft_outputs_that_find_no_boxes_say_so(boxes: str, noted: bool) -> None:
    student = tiny.faster_rcnn(4, 8)
    student['roi_head']['bbox_head']['with_reg'] = False
    plan = plans.build(
        student,
        tiny.faster_rcnn(8, 16),
        taps=dict(
            pyramid='neck',
            rois='roi_head.bbox_roi_extractor:in1',
            box_head='roi_head.bbox_head',
        ),
        adapters=dict(
            regions=dict(type='RegionHead', student='rois', teacher='t.pyramid')
        ),
        terms=plans.term('SoftOutputKD', 'box_head', 'regions.teacher', boxes=boxes),
    ).plan
    said = 'loss_x compares no boxes: box_head and regions.teacher do not both'
    assert [note.startswith(said) for note in plan.notes] == [True] * noted


def test_measuring_leaves_random_states_as_they_are() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(())
    torch.manual_seed(3)
    idle('DIST', (6, 2))
    assert torch.rand(()) == wanted
