"""Heads of queries (DETR and its kin): what is read of them, and how they are run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch import Tensor

import tiny
from mkd_det.errors import (
    HeadKindError,
    PlanError,
    ShapeMismatchError,
    TeacherClassesError,
)
from mkd_det.heads.readers.queries import QueryReader
from mkd_det.heads.running import run_features
from mkd_det.taps import Tap, capture

FAMILIES = {
    'detr': tiny.detr,
    'conditional': tiny.conditional_detr,
    'dab': tiny.dab_detr,
    'deformable': tiny.deformable_detr,
    'dino': tiny.dino,
    'ddq': tiny.ddq_detr,
}
QUERY = dict(type='QueryKD', student='head', teacher='t.head', layers='all')
MEMORY = dict(type='FeatureKD', student='memory', teacher='t.memory')
DECODER = dict(type='FeatureKD', student='decoder', teacher='t.decoder')


def distiller(student: Any, teacher: Any, term: Any, **more: Any) -> Any:
    taps = dict(
        head='bbox_head', memory='encoder', decoder='decoder.layers.*', fpn='neck'
    )
    cfg = tiny.distiller(
        student,
        teacher,
        taps=taps,
        adapters={},
        branches={},
        terms=dict(loss_it=term),
        **more,
    )
    model = tiny.build(cfg)
    tiny.fill_level_embeddings(model)
    return model


def losses(model: Any) -> Any:
    model.train()
    data = model.data_preprocessor(tiny.batch(), training=True)
    return model(**data, mode='loss')


@pytest.mark.parametrize('name', FAMILIES)
def test_memory_and_queries_are_distilled(name: str) -> None:
    family = FAMILIES[name]
    model = distiller(family(), family(), MEMORY, probe_size=64)
    assert losses(model)['loss_it'] > 0
    model = distiller(family(), family(base_channels=16), QUERY)
    found = losses(model)
    assert {'loss_it_cls', 'loss_it_l1', 'loss_it_giou'} <= set(found)
    total, _ = model.parse_losses(found)
    total.backward()
    assert all(torch.isfinite(found[f'loss_it_{k}']) for k in ('cls', 'l1', 'giou'))


@pytest.mark.parametrize('name', FAMILIES)
def test_decoder_layers_are_distilled(name: str) -> None:
    family = FAMILIES[name]
    assert losses(distiller(family(), family(), DECODER))['loss_it'] > 0


@pytest.mark.parametrize('name', ['dino', 'ddq'])
def test_decoder_layers_are_read_without_denoising_queries(name: str) -> None:
    """Those of training come after random boxes, and are no rows of the teacher's."""
    model = distiller(FAMILIES[name](), FAMILIES[name](), DECODER).train()
    student, tap = model.student, model.plan.taps['student']['decoder']
    data = model.data_preprocessor(tiny.batch(), training=True)
    raw = {'raw': Tap(tap.paths), 'own': tap}
    with capture(student, raw) as seen:
        student(**data, mode='loss')
    first = seen['raw'][0].shape[1] - student.num_queries
    if name == 'ddq':
        first = student.cache_dict['dis_query_info'][0]
    assert first > 0
    for whole, own in zip(seen['raw'], seen['own'], strict=True):
        assert torch.equal(own, whole[:, first : first + student.num_queries])


def test_queries_are_those_of_the_labelled_images_after_a_run_without_labels() -> None:
    """DDQ keeps the number of denoising queries of its last run, which has none."""
    model = distiller(tiny.ddq_detr(), tiny.ddq_detr(), DECODER).train()
    student, said = model.student, []
    student.bbox_head.register_forward_hook(lambda *given: said.append(given[-1]))
    student(**model.data_preprocessor(tiny.batch(), training=True), mode='loss')
    reader = QueryReader(student.bbox_head)
    reader.queries = student.num_queries
    levels = reader.layout(said[0])
    assert levels is not None
    first, more = student.cache_dict['dis_query_info']
    assert first > 0
    student.cache_dict['dis_query_info'] = [0, more]
    own = levels[-1][0][:, first : first + student.num_queries]
    assert torch.equal(reader.read(student.bbox_head, levels).scores, own.float())


@pytest.mark.parametrize(
    'term, teacher, count',
    [
        (DECODER, lambda: tiny.dino(queries=7), 7),
        (MEMORY, lambda: tiny.detr(), 4),
    ],
    ids=['other queries', 'other places'],
)
def test_sequences_of_other_lengths_are_refused(
    term: Any, teacher: Any, count: int
) -> None:
    with pytest.raises(ShapeMismatchError, match=f'of {count} in the teacher') as error:
        distiller(tiny.dino(queries=5), teacher(), term, probe_size=64)
    assert 'QueryKD' in error.value.fix and "fpn='neck'" in error.value.fix


@pytest.mark.parametrize('name', ['dino', 'ddq'])
def test_inside_of_layers_denoising_queries_cannot_be_told(name: str) -> None:
    family, term = FAMILIES[name], dict(DECODER)
    with pytest.raises(PlanError, match='denoising') as caught:
        tiny.build(
            tiny.distiller(
                family(),
                family(),
                taps=dict(decoder='decoder.layers.*.ffn'),
                adapters={},
                branches={},
                terms=dict(loss_it=term),
            )
        )
    assert 'decoder.layers.*' in caught.value.fix


def maps_of(model: Any) -> list[torch.Tensor]:
    """Maps like those that the encoder gets of an image of 128x128."""
    with torch.no_grad():
        return list(model.eval().extract_feat(torch.zeros(1, 3, 128, 128)))


@pytest.mark.parametrize('name', FAMILIES)
def test_a_head_is_read_as_it_predicts_in_both_modes(name: str) -> None:
    model: Any = tiny.build(FAMILIES[name]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    head = model.bbox_head
    read = QueryReader(head).prove(model, head, maps_of(model), 'head')
    assert read.trained.scores.shape == read.evaluated.scores.shape
    assert read.evaluated.boxes is not None and read.evaluated.earlier
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num())


@pytest.mark.parametrize('name', FAMILIES)
def test_a_head_that_is_read_wrong_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = tiny.build(FAMILIES[name]())
    head = model.bbox_head
    monkeypatch.setattr('mkd_det.heads.readers.queries._corners', lambda boxes: boxes)
    with pytest.raises(HeadKindError, match='boxes are not read as') as caught:
        QueryReader(head).prove(model, head, maps_of(model), 'head')
    assert "fpn='neck'" in caught.value.fix


@pytest.mark.parametrize('name', ['dino', 'ddq'])
def test_denoising_queries_that_are_read_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = tiny.build(FAMILIES[name]())
    monkeypatch.setattr(QueryReader, '_first', lambda self, head, count: 0)
    with pytest.raises(HeadKindError, match='otherwise in train'):
        QueryReader(model.bbox_head).prove(
            model, model.bbox_head, maps_of(model), 'head'
        )


class OwnHead(DINOHead):
    """A user's head: its signatures say nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class SquaredHead(OwnHead):
    """One that does not predict what it yields."""

    def predict_by_feat(self, scores: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().predict_by_feat(2 * scores, *args, **kwargs)


@pytest.mark.parametrize('head', [OwnHead, SquaredHead])
def test_a_head_of_a_users_is_proved_whatever_its_base(head: Any) -> None:
    MODELS.register_module(module=head, force=True)
    try:
        cfg = tiny.dino()
        cfg['bbox_head']['type'] = head.__name__
        if head is OwnHead:
            assert losses(distiller(cfg, tiny.dino(), QUERY))['loss_it_cls'] > 0
            return
        with pytest.raises(HeadKindError, match='scores are not read'):
            distiller(cfg, tiny.dino(), QUERY)
    finally:
        MODELS.module_dict.pop(head.__name__)


@pytest.mark.parametrize('name', ['dino', 'ddq'])
def test_denoising_and_dense_queries_are_left_out(name: str) -> None:
    """In training the queries that are read are those of prediction."""
    model: Any = tiny.build(FAMILIES[name]())
    reader = QueryReader(model.bbox_head)
    tap = {'head': Tap(('bbox_head',), layout=QueryReader.layout)}
    data = model.data_preprocessor(tiny.batch(), training=True)
    with capture(model.eval(), tap) as seen, torch.no_grad():
        run_features(model, data['inputs'], data['data_samples'])
    evaluated = reader.read(model.bbox_head, seen['head'])
    with capture(model.train(), tap) as seen, torch.no_grad():
        model(**data, mode='loss')
    assert seen['head'][0][0].shape[1] > reader.queries
    trained = reader.read(model.bbox_head, seen['head'])
    assert trained.scores.shape == evaluated.scores.shape
    assert evaluated.earlier is not None and len(evaluated.earlier) == 1


def test_padding_reaches_a_teacher() -> None:
    """What is beside the image is masked: the metas of the batch are used."""
    model: Any = tiny.build(tiny.detr()).eval()
    images = torch.randn(1, 3, 64, 64)
    tap = {'memory': Tap(('encoder',))}
    seen = []
    for width in (64, 32):
        sample = DetDataSample(
            metainfo=dict(img_shape=(64, width), batch_input_shape=(64, 64))
        )
        with capture(model, tap) as found, torch.no_grad():
            run_features(model, images, [sample])
        seen.append(found['memory'][0])
    assert not torch.allclose(*seen)


def test_numbers_of_queries_and_layers_may_differ() -> None:
    teacher = tiny.deformable_detr(queries=9)
    teacher['decoder']['num_layers'] = 3
    assert losses(distiller(tiny.dino(queries=5), teacher, QUERY))['loss_it_cls'] > 0


def test_class_counts_and_activations_must_agree() -> None:
    with pytest.raises(TeacherClassesError) as caught:
        distiller(tiny.dino(), tiny.dino(num_classes=4), QUERY)
    assert 'num_classes' in caught.value.fix
    with pytest.raises(HeadKindError) as other:
        distiller(tiny.dino(), tiny.detr(), QUERY)
    assert "fpn='neck'" in other.value.fix
    # The advice works.
    fpn = dict(type='FeatureKD', student='fpn', teacher='t.fpn')
    assert losses(distiller(tiny.dino(), tiny.detr(), fpn))['loss_it'] > 0


def test_only_a_loss_that_matches_compares_queries() -> None:
    soft = dict(type='SoftOutputKD', student='head', teacher='t.head')
    with pytest.raises(HeadKindError) as caught:
        distiller(tiny.dino(), tiny.dino(), soft)
    assert 'QueryKD' in caught.value.fix


def test_stacked_decoder_layers_are_no_map() -> None:
    with pytest.raises(PlanError) as caught:
        tiny.build(
            tiny.distiller(
                tiny.detr(),
                tiny.detr(),
                taps=dict(d='decoder'),
                adapters={},
                branches={},
                terms=dict(loss_it=dict(type='FeatureKD', student='d', teacher='t.d')),
            )
        )
    assert 'decoder.layers.*' in caught.value.fix


class NamedOutputs(DINOHead):
    """A head that yields a dict."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        scores, boxes = super().forward(*args, **kwargs)
        return dict(scores=scores, boxes=boxes)


def test_a_head_that_yields_another_form_is_a_typed_error() -> None:
    MODELS.register_module(module=NamedOutputs, force=True)
    try:
        cfg = tiny.dino()
        cfg['bbox_head']['type'] = 'NamedOutputs'
        with pytest.raises(HeadKindError, match='something else than class logits'):
            distiller(cfg, tiny.dino(), QUERY)
    finally:
        MODELS.module_dict.pop('NamedOutputs')
