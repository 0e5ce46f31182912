"""Models are run once, whatever images they see, without leaving a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.models.dense_heads import FCOSHead, GFLHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmengine.model import BaseModel
from torch import Tensor, nn

import tiny
from mkd_det.errors import ConfigError, HeadKindError, ProbeError
from mkd_det.heads.model_input import image_channels
from mkd_det.heads.proofs.proof import reading
from mkd_det.heads.running import image_samples
from mkd_det.inspection import survey
from mkd_det.plan.probing import finite_parameters
from mkd_det.teachers.renormalize import Renormalizer
from plans import SMALL, build, refused, term

ATTENTION = term('AttentionKD', 'fpn', 't.fpn')


def gray(base: int, neck: int, mean: float = 100.0) -> dict[str, Any]:
    cfg = tiny.gfl(base, neck)
    cfg['data_preprocessor'].update(mean=[mean], std=[50.0], bgr_to_rgb=False)
    cfg['backbone']['in_channels'] = 1
    return cfg


def test_a_gray_pair_is_planned_and_trained() -> None:
    model = build(gray(4, 8), gray(8, 16, mean=90.0), terms=ATTENTION)
    assert image_channels(model.student) == 1
    shapes = {found.path: found.shapes for found in survey(model.student, (64, 64))}
    assert shapes['backbone.conv1'] == [(4, 32, 32)]
    data = model.data_preprocessor(tiny.batch(), True)
    data['inputs'] = data['inputs'][:, :1]
    assert model(**data, mode='loss')['loss_x'].isfinite()


def test_gray_images_are_renormalised() -> None:
    student, teacher = (
        tiny.build(gray(4, 8, mean=mean)).data_preprocessor for mean in (100.0, 90.0)
    )
    images = (torch.full((1, 1, 4, 4), 120.0) - 100.0) / 50.0
    shown = Renormalizer(student, teacher, 't')(images, None)
    torch.testing.assert_close(shown, torch.full((1, 1, 4, 4), 30.0 / 50.0))


def test_videos_are_renormalised_along_their_channels() -> None:
    class Videos(nn.Module):
        def __init__(self, mean: float, swapped: bool = False) -> None:
            super().__init__()
            values = torch.tensor([mean, mean + 10.0, mean + 20.0])
            self.mean, self.std = (
                values.view(-1, 1, 1, 1),
                torch.full((3, 1, 1, 1), 2.0),
            )
            self._channel_conversion = swapped

    shown = Renormalizer(Videos(10.0), Videos(12.0), 't')(
        torch.zeros(2, 3, 3, 4, 4), None
    )
    torch.testing.assert_close(shown, torch.full((2, 3, 3, 4, 4), -1.0))
    # Frames stay in their order; channels do not.
    frames = torch.arange(3.0).view(1, 1, 3, 1, 1).expand(1, 3, 3, 4, 4)
    shown = Renormalizer(Videos(0.0), Videos(0.0, swapped=True), 't')(frames, None)
    assert shown[0, 0, :, 0, 0].diff().tolist() == [1.0, 1.0]
    assert shown[0, :, 0, 0, 0].tolist() == [10.0, 0.0, -10.0]


def test_channels_are_those_of_the_preprocessor_or_the_first_convolution() -> None:
    assert image_channels(tiny.build(SMALL)) == 3
    plain = tiny.gfl(4, 8)
    plain['data_preprocessor'] = dict(type='DetDataPreprocessor')
    plain['backbone']['in_channels'] = 4
    assert image_channels(tiny.build(plain)) == 4


@pytest.fixture(autouse=True)
def _registered() -> Any:
    MODELS.register_module(module=Strange, force=True)
    yield
    MODELS.module_dict.pop('Strange')


class Strange(BaseModel):
    """A model of videos, of images not smaller than its kernel, or of samples."""

    def __init__(
        self, video: bool = False, samples: bool = False, kernel: int = 3
    ) -> None:
        super().__init__()
        layer = nn.Conv3d if video else nn.Conv2d
        self.stem, self.samples = layer(3, 4, kernel, stride=2), samples

    def forward(self, inputs: Tensor, samples: Any = None, mode: str = 'tensor') -> Any:
        if self.samples:
            samples[0].get('metainfo')
        out = self.stem(inputs).flatten(2).mean(2)
        return {'loss': out.sum()} if mode == 'loss' else out


STEM = dict(taps=dict(stem='stem'), adapters={}, branches={})


def test_a_model_that_needs_larger_images_gets_them_and_the_plan_says_so() -> None:
    large = dict(type='Strange', kernel=100)
    terms = term('FeatureKD', 'stem', 't.stem')
    pair = dict(student=large, teacher=large, terms=terms, **STEM)
    model = build(**pair, probe_size=64)
    assert 'note' in model.plan.table(200) and '384x384' in model.plan.table(200)
    assert not any('384' in line for line in model.plan.describe().values())
    assert not build(**pair, probe_size=384).plan.notes


def test_a_model_of_other_input_is_refused_with_advice_that_works() -> None:
    video = dict(type='Strange', video=True)
    terms = term('FeatureKD', 'stem', 't.stem')
    error = refused(ProbeError, student=video, teacher=video, terms=terms, **STEM)
    assert 'probe=dict(shape=(3, 8, 224, 224))' in error.fix
    assert 'the student, a Strange' in error.message
    shape = dict(shape=(3, 4, 16, 16))
    assert build(video, video, terms=terms, probe=shape, **STEM).plan.terms
    refused(
        ConfigError, student=video, teacher=video, terms=terms, probe=dict(shape=[3])
    )


def samples_for(model: Any) -> Any:
    """What the docs call `my_module.example`."""
    model.asked = True
    return torch.zeros(2, 3, 48, 32), image_samples(torch.zeros(2, 3, 48, 32))


def test_a_model_that_needs_data_samples_gets_them_from_a_function() -> None:
    needs = dict(type='Strange', samples=True)
    terms = term('FeatureKD', 'stem', 't.stem')
    pair = dict(student=dict(type='Strange'), teacher=needs, terms=terms, **STEM)
    error = refused(ProbeError, **pair)
    assert "teacher 't', a Strange" in error.message
    assert "probe='my_module.example'" in error.fix and 'TypeError' in error.actual

    for way in (f'{__name__}.samples_for', samples_for, dict(function=samples_for)):
        model = build(**pair, probe=way)
        assert [s.size for s in model.plan.specs['student', 'stem']] == [(23, 15)]
        assert not model.plan.notes
    images = torch.rand(2, 3, 48, 32)
    losses = model(images, image_samples(images), mode='loss')
    assert losses['loss_x'].isfinite()


def returns_nothing(model: Any) -> None:
    return None


def fails(model: Any) -> None:
    raise KeyError('frames')


def other_sizes(model: Any) -> Tensor:
    return torch.zeros(1, 3, *((32, 32) if model.samples else (64, 64)))


@pytest.mark.parametrize(
    ('function', 'message', 'actual'),
    [
        ('no_such_module.example', 'there is no function', 'no_such_module.example'),
        (f'{__name__}.STEM', 'there is no function', 'dict'),
        (returns_nothing, 'returns_nothing() returns no input', 'NoneType'),
        (fails, 'fails() fails for a Strange', "KeyError: 'frames'"),
    ],
)
def test_a_function_that_yields_no_input_is_named(
    function: Any, message: str, actual: str
) -> None:
    strange = dict(type='Strange')
    terms = term('FeatureKD', 'stem', 't.stem')
    pair = dict(student=strange, teacher=strange, terms=terms, **STEM)
    error = refused(ProbeError, **pair, probe=function)
    assert message in error.message and error.actual == actual
    assert 'def example(model)' in error.fix


def test_images_of_two_sizes_are_refused() -> None:
    terms = term('FeatureKD', 'stem', 't.stem')
    pair = dict(
        student=dict(type='Strange'),
        teacher=dict(type='Strange', samples=True),
        terms=terms,
        **STEM,
    )
    error = refused(ProbeError, **pair, probe=other_sizes)
    assert 'images of other sizes' in error.message and 'teacher' in error.message


@pytest.mark.parametrize('given', ['example', 3, dict(function=3), [3, 4]])
def test_a_probe_that_is_no_function_is_refused(given: Any) -> None:
    strange = dict(type='Strange')
    terms = term('FeatureKD', 'stem', 't.stem')
    pair = dict(student=strange, teacher=strange, terms=terms, **STEM)
    error = refused(ConfigError, **pair, probe=given)
    assert 'probe' in error.message


def test_uninitialised_memory_does_not_matter_and_stays_as_it_is() -> None:
    model = tiny.build(SMALL)
    stem = model.backbone.conv1.weight
    garbage = torch.full_like(stem.data, float('nan'))
    stem.data = garbage
    with finite_parameters(model):
        assert torch.equal(stem.data, torch.ones_like(stem.data))
    assert stem.data is not None and stem.data.isnan().all()
    assert stem.data.data_ptr() == garbage.data_ptr()


def test_a_pair_with_uninitialised_parameters_is_planned() -> None:
    """As SSD, whose L2Norm has none before `init_weights`."""
    from mmdet.models.necks.ssd_neck import L2Norm

    norm = L2Norm(4)
    norm.weight.data.fill_(float('inf'))
    with finite_parameters(norm):
        assert norm(torch.zeros(1, 4, 2, 2)).isfinite().all()
    assert norm.weight.isinf().all()


class Shifted(GFLHead):
    """A head whose boxes are not where a reader of its class takes them to be."""

    def predict_by_feat(self, *args: Any, **kwargs: Any) -> Any:
        found = super().predict_by_feat(*args, **kwargs)
        for one in found:
            one.bboxes = get_box_tensor(one.bboxes) + 7
        return found


class Outsider(BaseModel):
    """A detector that is none of mmdet's, with one of mmdet's heads."""

    def __init__(self, head: dict[str, Any], lists: bool = True) -> None:
        super().__init__()
        self.stem, self.lists = nn.Conv2d(3, 8, 3, stride=8, padding=1), lists
        given = dict(in_channels=8, feat_channels=8, **head)
        self.head = MODELS.build({**tiny.gfl()['bbox_head'], **given})

    def forward(self, inputs: Tensor, samples: Any = None, mode: str = 'tensor') -> Any:
        out = self.stem(inputs)
        levels = [nn.functional.max_pool2d(out, by) for by in (1, 2, 4, 8, 16)]
        found = self.head(levels) if self.lists else self.head(x=levels)
        return {'loss': found[0][0].sum()} if mode == 'loss' else found


@pytest.mark.parametrize('kind', ['GFLHead', 'Shifted'])
def test_a_head_outside_of_mmdets_detectors_is_proved_as_well(kind: str) -> None:
    modules = dict(Outsider=Outsider, Shifted=Shifted)
    for name, cls in modules.items():
        MODELS.register_module(name=name, module=cls, force=True)
    try:
        side = dict(type='Outsider', head=dict(type=kind))
        terms = term('SoftOutputKD', 'head', 't.head')
        pair = dict(taps=dict(head='head'), adapters={}, branches={}, terms=terms)
        if kind == 'GFLHead':
            assert build(side, side, **pair).plan.terms
            strange = {**side, 'lists': False}
            error = refused(HeadKindError, student=strange, teacher=strange, **pair)
            assert 'gets something else' in str(error)
        else:
            error = refused(HeadKindError, student=side, teacher=side, **pair)
            assert 'boxes are not read' in str(error)
    finally:
        for name in modules:
            MODELS.module_dict.pop(name)


def test_a_gray_teacher_teaches_a_student_of_coloured_images() -> None:
    parts = dict(taps=dict(fpn='neck'), adapters={}, branches={})
    terms = term('FeatureKD', 'fpn', 't.fpn')
    model: Any = build(tiny.gfl(4, 8), gray(8, 8), terms=terms, **parts).train()
    data = model.data_preprocessor(tiny.batch(), True)
    assert model(**data, mode='loss')['loss_x'] > 0


class Reordered(FCOSHead):
    """A head that yields its maps in another order, and knows it."""

    def forward(self, x: Any) -> Any:
        scores, boxes, centres = super().forward(x)
        return centres, scores, boxes

    def predict_by_feat(
        self, centres: Any, scores: Any, boxes: Any, **more: Any
    ) -> Any:
        return super().predict_by_feat(scores, boxes, centres, **more)


def test_a_head_of_another_form_than_its_base_is_a_typed_error() -> None:
    MODELS.register_module(module=Reordered, force=True)
    try:
        teacher = tiny.fcos(8, 16)
        teacher['bbox_head']['type'] = 'Reordered'
        terms = term('SoftOutputKD', 'head', 't.head')
        pair = dict(student=tiny.fcos(4, 8), teacher=teacher, terms=terms)
        parts = dict(taps=dict(head='bbox_head'), adapters={}, branches={})
        error = refused(HeadKindError, **pair, **parts)
        assert 'cannot read' in error.message and 't.head' in error.message
        assert error.expected == 'outputs in the form of FCOSHead'
    finally:
        MODELS.module_dict.pop('Reordered')


class OwnHead(nn.Module):
    """A head that is none of mmdet's."""

    def forward(self, levels: Any) -> Any:
        return [level.mean(1, keepdim=True) for level in levels]


def test_a_reader_of_a_users_that_fails_is_a_typed_error() -> None:
    with (
        pytest.raises(HeadKindError, match='cannot read') as caught,
        reading('term', OwnHead()),
    ):
        raise ValueError('three parts')
    assert caught.value.expected == 'outputs in the form of OwnHead'
    assert 'three parts' in str(caught.value.actual)
