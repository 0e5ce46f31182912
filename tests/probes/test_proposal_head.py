"""The teacher's second stage on the student's proposals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch.nn import functional as F

import hook_runs
import tiny
from mkd_det.errors import (
    ConfigError,
    HeadKindError,
    MkdError,
    PlanError,
    ShapeMismatchError,
    TapNotFoundError,
)
from mkd_det.heads.readers.regions import check_box_heads
from mkd_det.heads.running import run_features
from mkd_det.losses.outputs.dkd import ProposalDKD
from mkd_det.registry import LOSSES
from mkd_det.taps import Tap, capture
from mkd_det.training.runtime import prepare_config

ROIS = 'roi_head.bbox_roi_extractor:in1'
CLASSES = 'roi_head.bbox_head.fc_cls'
LABELS = 'roi_head.bbox_head.loss_cls:in1'


def proposing(
    student: dict, teacher: dict, file: Any = None, **more: Any
) -> dict[str, Any]:
    """Config with soft outputs of the second stage."""
    term = dict(type='SoftOutputKD', student='classes', teacher='proposals.teacher')
    parts: dict[str, Any] = dict(
        taps=dict(pyramid='neck', rois=ROIS, classes=CLASSES, labels=LABELS),
        adapters=dict(
            proposals=dict(type='ProposalHead', student='rois', teacher='t.pyramid')
        ),
        branches={},
        terms=dict(loss_roi=term),
    )
    return tiny.distiller(student, teacher, file, **{**parts, **more})


def loss_of(model: Any) -> dict[str, Any]:
    return model(**model.data_preprocessor(tiny.batch(), True), mode='loss')


def dkd(**more: Any) -> dict[str, Any]:
    sides = dict(student='classes', teacher='proposals.teacher', labels='labels')
    return dict(loss_dkd=dict(type='ProposalDKD', **{**sides, **more}))


def test_a_teacher_that_is_the_student_says_what_the_student_says(
    tmp_path: Path,
) -> None:
    """Bit for bit, on the regions that the student has sampled."""
    cfg = tiny.faster_rcnn()
    file = tiny.write_checkpoint(cfg, tmp_path / 't.pth')
    model = tiny.build(proposing(cfg, cfg, file, terms=dkd()))
    model.load_state_dict(torch.load(file)['state_dict'])
    model.student.eval()  # as the teacher is
    forward = model.adapters['proposals'].forward
    kept: list[Any] = []

    def watched(*levels: Any) -> Any:
        kept.append((levels[0], forward(*levels)))
        return kept[-1][1]

    model.adapters['proposals'].forward = watched
    with capture(model.student, {'classes': Tap.parse(CLASSES)}) as ours:
        losses = loss_of(model)
    (rois, output) = kept[0]
    assert rois[0].shape[1] == 5 and len(rois[0]) > 8
    assert torch.equal(output.teacher[0], ours['classes'][0])
    assert output.student == ()
    assert abs(float(losses['loss_dkd_target'])) < 1e-6
    assert abs(float(losses['loss_dkd_rest'])) < 1e-6


def test_labels_are_those_the_student_learns() -> None:
    model = tiny.build(proposing(tiny.faster_rcnn(), tiny.faster_rcnn(), terms=dkd()))
    found: list[Any] = []

    class Watcher:
        def on_knowledge(self, student: Any, teachers: Any) -> None:
            found.append(student['labels'])

        def on_terms(self, losses: Any) -> None: ...

    model.observers.append(Watcher())
    loss_of(model)
    labels = found[0].levels[0]
    assert labels.dtype == torch.long and labels.unique().tolist()[-1] == 3
    assert len(labels.unique()) > 1  # background and boxes


def test_the_student_learns_and_the_teacher_does_not(tmp_path: Path) -> None:
    teacher, student = tiny.faster_rcnn(8, 16), tiny.faster_rcnn(4, 8)
    file = tiny.write_checkpoint(teacher, tmp_path / 't.pth')
    model = tiny.build(proposing(student, teacher, file))
    whole = model.teachers['t'].model
    before = copy.deepcopy(whole.state_dict())
    losses = loss_of(model)
    assert float(losses['loss_roi']) > 0
    losses['loss_roi'].backward()
    head = model.student.roi_head.bbox_head
    for layer in (
        head.fc_cls,
        head.shared_fcs[0],
        model.student.backbone.layer2[0].downsample,
    ):
        assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
    # What it says of boxes is for the labels alone.
    assert all(p.grad is None for p in head.fc_reg.parameters())
    assert all(p.grad is None for p in whole.parameters())
    after = whole.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    theirs = {id(p) for p in whole.parameters()}
    assert not theirs & {id(p) for p in model.parameters()}
    assert list(model.state_dict()) == list(tiny.build(student).state_dict())
    twin = copy.deepcopy(model)
    assert twin.teachers['t'].model is whole
    assert twin.adapters['proposals']._teacher.module is whole


def test_of_a_cascade_the_mean_of_its_stages() -> None:
    student, teacher = tiny.faster_rcnn(4, 8), tiny.cascade_rcnn(8, 16)
    model = tiny.build(proposing(student, teacher))
    whole = model.teachers['t'].model
    features = whole.extract_feat(torch.randn(2, 3, 64, 64))
    rois = torch.tensor([[0, 3, 4, 40, 60], [1, 0, 0, 64, 32.0]])
    said = model.adapters['proposals']((rois,), features).teacher[0]
    stages = [
        whole.roi_head._bbox_forward(n, features, rois)['cls_score'] for n in (0, 1)
    ]
    torch.testing.assert_close(said, (stages[0] + stages[1]) / 2)
    assert not said.requires_grad
    assert float(loss_of(model)['loss_roi']) > 0


def test_a_cascade_learns_stage_by_stage() -> None:
    student, teacher = tiny.cascade_rcnn(4, 8), tiny.faster_rcnn(8, 16)
    taps = dict(
        pyramid='neck',
        rois='roi_head.bbox_roi_extractor.1:in1',
        classes='roi_head.bbox_head.1.fc_cls',
    )
    losses = loss_of(tiny.build(proposing(student, teacher, taps=taps)))
    assert float(losses['loss_roi']) > 0


def test_proposals_beside_the_rpn_and_features() -> None:
    """All that M-KD teaches a dense head, and the second stage."""
    student, teacher = tiny.faster_rcnn(4, 8), tiny.faster_rcnn(8, 16)
    cfg = proposing(student, teacher)
    cfg['taps'].update(dense='rpn_head', stages='backbone')
    cfg['terms'].update(
        loss_dense=dict(type='SoftOutputKD', student='dense', teacher='t.dense'),
        loss_dist=dict(type='DIST', student='classes', teacher='proposals.teacher'),
        loss_attention=dict(type='AttentionKD', student='stages', teacher='t.stages'),
    )
    losses = loss_of(tiny.build(cfg))
    for name in ('loss_roi', 'loss_dense_cls', 'loss_dense_box', 'loss_dist_classes'):
        assert float(losses[name]) > 0, name


def test_numbers_of_the_loss_by_hand() -> None:
    student = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 2.0]])
    teacher = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    labels = [torch.tensor([0, 2])]
    parts = ProposalDKD()([student], [teacher], labels=labels)
    target, rest = [], []
    for s, t, label in zip(student, teacher, (0, 2)):  # a box, the background
        p, q = t.softmax(0), s.softmax(0)
        two = [torch.stack([x[label], 1 - x[label]]) for x in (p, q)]
        target.append((two[0] * (two[0] / two[1]).log()).sum())
        others = [i for i in range(3) if i != label]
        p, q = p[others] / p[others].sum(), q[others] / q[others].sum()
        rest.append((p * (p / q).log()).sum())
    torch.testing.assert_close(parts['target'], torch.stack(target).mean())
    torch.testing.assert_close(parts['rest'], 0.25 * torch.stack(rest).mean())
    same = F.log_softmax(teacher, -1)
    for part in ProposalDKD()([same], [teacher], labels=labels).values():
        assert abs(float(part)) < 1e-6


BAD: list[tuple[dict[str, Any], type[MkdError], str]] = [
    (dict(terms=dkd(labels='t.pyramid')), ConfigError, 'labels='),
    (dict(terms=dkd(labels=None)), ConfigError, '`labels` is missing'),
    (dict(terms=dkd(labels='pyramid')), ShapeMismatchError, 'labels'),
    (dict(terms=dkd(labels='rois')), ShapeMismatchError, 'labels'),
    (dict(terms=dkd(student='pyramid')), ShapeMismatchError, 'levels'),
    (dict(terms=dkd(teacher='t.classes')), PlanError, 'ProposalHead'),
    (dict(terms=dkd(student='proposals.student')), ConfigError, 'proposals.teacher'),
    (
        dict(taps=dict(pyramid='neck', rois='neck', classes=CLASSES)),
        ShapeMismatchError,
        'regions',
    ),
    (
        dict(taps=dict(pyramid='neck.fpn_convs.*', rois=ROIS, classes=CLASSES)),
        TapNotFoundError,
        'neck',
    ),
    (
        dict(taps=dict(pyramid='neck', rois=ROIS.replace('in1', 'in2'))),
        MkdError,
        'in2',
    ),
]


@pytest.mark.parametrize('change, kind, part', BAD)
def test_what_does_not_fit_is_told_before_training(
    change: dict, kind: type[MkdError], part: str
) -> None:
    cfg = proposing(tiny.faster_rcnn(4, 8), tiny.faster_rcnn(8, 16))
    cfg['taps'].update(change.pop('taps', {}))
    cfg.update(copy.deepcopy(change))
    with pytest.raises(kind) as error:
        tiny.build(cfg)
    assert part in str(error.value)


def test_detectors_of_one_stage_have_no_proposals() -> None:
    with pytest.raises(HeadKindError, match='GFL has no box head'):
        tiny.build(proposing(tiny.faster_rcnn(4, 8), tiny.gfl(8, 16)))
    with pytest.raises(HeadKindError, match='GFL has no box head'):
        tiny.build(proposing(tiny.gfl(4, 8), tiny.faster_rcnn(8, 16)))


@pytest.mark.parametrize('side', ['student', 'teacher'])
@pytest.mark.parametrize('kind', ['sigmoid', 'Seesaw'])
def test_heads_of_another_kind_are_told(side: str, kind: str) -> None:
    both = dict(student=tiny.faster_rcnn(4, 8), teacher=tiny.faster_rcnn(8, 16))
    head = both[side]['roi_head']['bbox_head']
    if kind == 'Seesaw':
        head['loss_cls'] = dict(type='SeesawLoss', num_classes=3)
    else:
        head['loss_cls']['use_sigmoid'] = True
    with pytest.raises(HeadKindError, match='softmax'):
        tiny.build(proposing(**both, terms=dkd()))


@pytest.mark.parametrize(
    'head', ['TridentRoIHead', 'SparseRoIHead', 'HybridTaskCascadeRoIHead']
)
def test_second_stages_that_ask_for_more_are_told(head: str) -> None:
    model = tiny.build(tiny.faster_rcnn())
    model.roi_head.__class__ = MODELS.get(head)
    with pytest.raises(HeadKindError, match='no box head'):
        check_box_heads(model, 'here')


@pytest.mark.parametrize('sampler', ['OHEMSampler', 'ScoreHLRSampler'])
def test_samplers_that_run_the_head_are_told(sampler: str) -> None:
    student = tiny.faster_rcnn(4, 8)
    student['train_cfg']['rcnn']['sampler']['type'] = sampler
    if sampler == 'ScoreHLRSampler':
        student['train_cfg']['rcnn']['sampler'].update(k=0.5, bias=0.0)
    with pytest.raises(HeadKindError, match='RandomSampler'):
        tiny.build(proposing(student, tiny.faster_rcnn(8, 16)))


def test_the_way_out_of_a_sampler_names_each_stage_of_a_cascade() -> None:
    student = tiny.cascade_rcnn(4, 8)
    for stage in student['train_cfg']['rcnn']:
        stage['sampler']['type'] = 'OHEMSampler'
    rois = 'roi_head.bbox_roi_extractor.0:in1'
    taps = dict(pyramid='neck', rois=rois, classes='roi_head.bbox_head.0.fc_cls')
    with pytest.raises(HeadKindError) as error:
        tiny.build(proposing(student, tiny.faster_rcnn(8, 16), taps=taps))
    for stage in range(len(student['train_cfg']['rcnn'])):
        assert f'train_cfg.rcnn.{stage}.sampler.type=RandomSampler' in error.value.fix


def test_stages_of_a_cascade_are_not_mixed() -> None:
    taps = dict(
        pyramid='neck',
        rois='roi_head.bbox_roi_extractor.0:in1',
        classes='roi_head.bbox_head.1.fc_cls',
    )
    cfg = proposing(tiny.cascade_rcnn(4, 8), tiny.faster_rcnn(8, 16), taps=taps)
    with pytest.raises(PlanError, match='several stages'):
        tiny.build(cfg)


@pytest.mark.parametrize('detector', [tiny.faster_rcnn, tiny.cascade_rcnn])
def test_other_class_counts_are_told(detector: Any) -> None:
    cfg = proposing(tiny.faster_rcnn(4, 8), detector(8, 16, num_classes=5), terms=dkd())
    with pytest.raises(MkdError, match='num_classes') as error:
        tiny.build(cfg)
    assert 'GuidanceLayer' not in str(error.value)


@pytest.mark.parametrize('loss', ['SoftOutputKD', 'DIST', 'ProposalDKD'])
def test_a_batch_without_proposals_counts_nothing(loss: str) -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    labels = dict(labels=[torch.zeros(0, dtype=torch.long)])
    value = LOSSES.build(dict(type=loss))(
        [nothing], [nothing], **(labels if loss == 'ProposalDKD' else {})
    )
    parts = value if isinstance(value, dict) else {'': value}
    total = torch.stack(list(parts.values())).sum()
    total.backward()
    assert float(total.detach()) == 0


def test_regions_are_run_where_they_are_given_alone() -> None:
    model = tiny.build(tiny.faster_rcnn())
    image = torch.zeros(1, 3, 64, 64)
    taps = {'classes': Tap.parse(CLASSES)}
    with pytest.raises(MkdError), capture(model, taps):
        run_features(model, image)
    with capture(model, taps) as seen:
        run_features(model, image, rehearse=True)
    assert seen['classes'][0].shape == (1, 4)


def test_a_whole_training_ends_with_a_plain_student(
    coco_root: Path, tmp_path: Path
) -> None:
    teacher, student = tiny.faster_rcnn(8, 16), tiny.faster_rcnn(4, 8)
    file = tiny.write_checkpoint(teacher, tmp_path / 't.pth')
    model = proposing(student, teacher, file, terms=dkd())
    cfg = tiny.runner_cfg(model, coco_root, tmp_path / 'run')
    cfg.default_hooks.teacher_check = None  # nobody has trained it
    runner = hook_runs.build(prepare_config(cfg), 'two_stages')
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss_dkd_target').data[0]
    assert 0 < losses[0] < float('inf')
    saved = torch.load(tmp_path / 'run/student_last.pth', weights_only=False)
    plain = tiny.build(Config.fromfile(tmp_path / 'run/student_config.py').model)
    plain.load_state_dict(saved['state_dict'], strict=True)
    assert type(plain).__name__ == 'FasterRCNN'
