"""Both decoders on the same queries: what is shared, what is not, and who learns."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

import tiny
from mkd_det.errors import ConfigError, HeadKindError, MkdError, TapNotFoundError
from mkd_det.heads.decoding import call_layout, queries_of, run_decoder
from mkd_det.heads.running import run_features
from mkd_det.taps import Tap, capture

TERM = dict(
    type='QueryKD',
    student='shared.student',
    teacher='shared.teacher',
    layers='all',
    negatives=0.0,
)


def two_stage(**sizes: Any) -> dict[str, Any]:
    """A Deformable DETR that starts from boxes; mmdet needs a width of 256 for it."""
    return {
        **tiny.deformable_detr(**{'width': 256, **sizes}),
        'as_two_stage': True,
        'with_box_refine': True,
    }


def patterns(**sizes: Any) -> dict[str, Any]:
    """A DAB-DETR whose queries have a learned content."""
    return {**tiny.dab_detr(**sizes), 'num_patterns': 2}


FAMILIES: dict[str, Callable[..., dict[str, Any]]] = {
    'detr': tiny.detr,
    'conditional': tiny.conditional_detr,
    'dab': tiny.dab_detr,
    'dab with patterns': patterns,
    'deformable': tiny.deformable_detr,
    'two-stage deformable': two_stage,
    'dino': tiny.dino,
    'ddq': tiny.ddq_detr,
}
OF_BOXES = ['dab', 'dab with patterns', 'two-stage deformable', 'dino', 'ddq']


def distiller(
    student: dict[str, Any],
    teacher: dict[str, Any],
    file: Path | None = None,
    tap: str = 'decoder:call',
    term: Any = TERM,
    teachers: Any = None,
    **settings: Any,
) -> Any:
    shared = dict(type='SharedQueries', student='decoder', teacher='t.decoder')
    model = tiny.build(
        tiny.distiller(
            student,
            teacher,
            file,
            taps=dict(decoder=tap),
            adapters=dict(shared={**shared, **settings}),
            branches={},
            terms=dict(loss_it=term),
            **({'teachers': teachers} if teachers else {}),
        )
    )
    if file is None:
        tiny.fill_level_embeddings(model)
    return model


def losses(model: Any, **batch: Any) -> dict[str, Tensor]:
    data = model.data_preprocessor(tiny.batch(**batch), training=True)
    found = model(**data, mode='loss')
    return {name: v for name, v in found.items() if name.startswith('loss_it')}


def freeze_norms(model: nn.Module) -> None:
    """Let batch norms of a training student do as those of its teacher."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def padded(size: tuple[int, int] = (48, 32)) -> list[DetDataSample]:
    """A sample whose image does not fill the batch."""
    metas = dict(img_shape=size, batch_input_shape=(64, 64))
    return [DetDataSample(metainfo=metas)]


@pytest.mark.parametrize('name', FAMILIES)
def test_a_decoder_is_run_again_as_it_ran(name: str) -> None:
    """On its own queries and memory it yields what it has yielded, padding included."""
    model: Any = tiny.build(FAMILIES[name]()).eval()
    layout = call_layout(model)
    taps = {
        'call': Tap(('decoder',), inputs=True, whole=True, layout=layout),
        'head': Tap(('bbox_head',), layout=lambda value: list(zip(*value))),
    }
    with capture(model, taps) as seen, torch.no_grad():
        run_features(model, torch.randn(1, 3, 64, 64), padded())
    call: Any = seen['call'][0]
    with torch.no_grad():
        again = run_decoder(model, call, queries_of(model, call))
    for mine, own in zip(again, seen['head'], strict=True):
        for a, b in zip(mine, own, strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    'name, sampling',
    [(name, 'specific') for name in FAMILIES] + [(name, 'both') for name in OF_BOXES],
)
def test_the_same_model_as_teacher_and_student_gives_0(
    name: str, sampling: str, tmp_path: Path
) -> None:
    cfg = FAMILIES[name]
    file = tiny.write_checkpoint(cfg(), tmp_path / 't.pth')
    model = distiller(cfg(), cfg(), file, sampling=sampling)
    model.load_state_dict(torch.load(file)['state_dict'])
    model.teachers.load()
    model.train()  # with denoising and dense queries
    freeze_norms(model)
    found = losses(model)
    assert set(found) == {'loss_it_cls', 'loss_it_l1', 'loss_it_giou'}
    for part, value in found.items():
        assert float(value.detach()) == pytest.approx(0, abs=1e-4), part


@pytest.mark.parametrize(
    'name, sampling',
    [
        ('detr', 'specific'),
        ('dab', 'general'),
        ('deformable', 'specific'),
        ('dino', 'both'),
        ('ddq', 'both'),
    ],
)
def test_the_student_learns_and_the_teacher_does_not(name: str, sampling: str) -> None:
    cfg = FAMILIES[name]
    model = distiller(
        cfg(), cfg(base_channels=16, width=24), sampling=sampling, count=4
    ).train()
    before = deepcopy(model.teachers['t'].model.state_dict())
    found = losses(model)
    for part, value in found.items():
        assert torch.isfinite(value) and value > 0, part
    torch.stack(list(found.values())).sum().backward()
    student = model.student
    for part in (student.backbone, student.encoder, student.decoder, student.bbox_head):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    # Every parameter of the layers between widths is trained, so DDP is content.
    assert all(p.grad is not None for p in model.adapters.parameters())
    for key, value in model.teachers['t'].model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize('name', ['dab', 'ddq'])
def test_a_cached_call_of_the_decoder_is_as_good(name: str, tmp_path: Path) -> None:
    """It is read from the disk image by image, in half precision."""
    teacher = dict(cfg=FAMILIES[name](), checkpoint=None, speed='off')
    parts = {}
    for cache in (None, str(tmp_path)):
        model = distiller(
            FAMILIES[name](), {}, teachers=dict(t=dict(teacher, cache=cache))
        ).train()
        parts[cache] = losses(model), losses(model)
    store = model.teachers.runners['t'].store
    assert (store.hits, store.misses) == (2, 2)
    for key, value in parts[None][0].items():
        for found in parts[str(tmp_path)]:
            torch.testing.assert_close(found[key], value, rtol=0.02, atol=1e-3)


def test_all_queries_of_both_sets_meet() -> None:
    model = distiller(
        tiny.dino(queries=5), tiny.dino(queries=7), sampling='both', count=4
    )
    levels = model.plan.specs['shared', 'student']
    assert len(levels) == 2
    node = model.plan.adapters['shared']
    seen = model.plan.terms['loss_it'].loss
    assert seen.aligned and node.adapter.aligned
    assert losses(model.train())['loss_it_cls'] > 0


def test_other_kinds_share_boxes() -> None:
    """A teacher with more parts of a query teaches a student with fewer."""
    model = distiller(tiny.dab_detr(), tiny.dino(), sampling='both').train()
    assert losses(model)['loss_it_l1'] > 0


def test_general_queries_are_drawn_anew() -> None:
    model = distiller(tiny.dab_detr(), tiny.dab_detr(), sampling='general').eval()
    first, second = (float(losses(model)['loss_it_l1'].detach()) for _ in range(2))
    assert first != second


def test_no_ground_truth_is_no_trouble() -> None:
    for cfg in (tiny.dino, tiny.ddq_detr):
        model = distiller(cfg(), cfg(base_channels=16), sampling='both').train()
        found = losses(model, boxes=0)
        assert all(torch.isfinite(value) for value in found.values())


def test_the_distillers_own_loss_of_a_ddq_is_as_without_the_probe() -> None:
    """Its modules share what they know of their queries."""
    model = distiller(tiny.ddq_detr(), tiny.ddq_detr()).train()
    before = dict(model.student.cache_dict)
    losses(model)
    after = model.student.cache_dict
    assert after['dis_query_info'][0] > 0  # of its own training, with denoising
    assert model.student.decoder.training and model.student.bbox_head.training
    assert set(before) <= set(after)


def test_a_copy_of_the_distiller_runs_its_own_student() -> None:
    model = distiller(tiny.dab_detr(), tiny.dab_detr()).eval()
    copy = deepcopy(model)
    assert copy.adapters['shared'].head_of('student') is copy.student.bbox_head
    with torch.no_grad():
        for parameter in copy.student.decoder.parameters():
            parameter.add_(0.1)
    assert losses(copy)['loss_it_cls'] != losses(model)['loss_it_cls']


def test_nothing_of_the_student_is_in_the_probe() -> None:
    model = distiller(tiny.dino(), tiny.dino())
    assert not list(model.adapters['shared'].parameters())
    plain = tiny.build(tiny.dino()).state_dict()
    assert set(model.state_dict()) == set(plain)


# -- bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    'student, teacher, given, kind, fix',
    [
        (tiny.detr, tiny.detr, dict(sampling='general'), ConfigError, "='specific'"),
        (tiny.deformable_detr, tiny.deformable_detr, dict(sampling='both'), ConfigError,
         "='specific'"),
        (tiny.dino, tiny.dino, dict(sampling='random'), ConfigError, 'general'),
        (tiny.dino, tiny.dino, dict(count=0), ConfigError, 'count'),
        (tiny.dino, tiny.deformable_detr, {}, HeadKindError, 'QueryKD'),
        (tiny.deformable_detr, tiny.dino, {}, HeadKindError, 'QueryKD'),
        (tiny.dino, tiny.dino, dict(tap='encoder'), MkdError, 'decoder:call'),
        (tiny.dino, tiny.dino, dict(tap='encoder:call'), TapNotFoundError,
         'decoder:call'),
        (tiny.gfl, tiny.gfl, dict(tap='neck:call'), HeadKindError, "fpn='neck'"),
        (tiny.dino, tiny.detr, {}, HeadKindError, "fpn='neck'"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_told_before_training(
    student: Callable,
    teacher: Callable,
    given: dict[str, Any],
    kind: type[MkdError],
    fix: str,
) -> None:
    with pytest.raises(kind) as caught:
        distiller(student(), teacher(), **given)
    assert fix in str(caught.value)


@pytest.mark.parametrize('student, teacher', [(tiny.dino, tiny.deformable_detr)])
def test_the_advice_for_other_queries_works(student: Any, teacher: Any) -> None:
    term = dict(type='QueryKD', student='queries', teacher='t.queries')
    model = tiny.build(
        tiny.distiller(
            student(),
            teacher(),
            taps=dict(queries='bbox_head'),
            adapters={},
            branches={},
            terms=dict(loss_it=term),
        )
    )
    assert 'loss_it' in model.plan.terms


def test_a_call_is_no_feature() -> None:
    term = dict(type='FeatureKD', student='decoder', teacher='t.decoder')
    with pytest.raises(MkdError, match='tuple of tensors'):
        tiny.build(
            tiny.distiller(
                tiny.dino(),
                tiny.dino(),
                taps=dict(decoder='decoder:call'),
                adapters={},
                branches={},
                terms=dict(loss_it=term),
            )
        )


def test_only_a_loss_that_knows_queries_compares_them() -> None:
    term = dict(type='SoftOutputKD', student='shared.student', teacher='shared.teacher')
    with pytest.raises(HeadKindError, match='no common order'):
        distiller(tiny.dino(), tiny.dino(), term=term)
