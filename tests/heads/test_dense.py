"""Dense heads are read exactly as their own prediction reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

import tiny
from mkd_det.heads.readers.dense import DenseReader, is_dense_head
from mkd_det.structures import HeadOutput

SIZE = (64, 96)


def norm_on_bbox(base: int, neck: int) -> dict[str, Any]:
    cfg = tiny.fcos(base, neck)
    cfg['bbox_head'] |= dict(norm_on_bbox=True, centerness_on_reg=True)
    return cfg


def softmax(base: int, neck: int) -> dict[str, Any]:
    cfg = tiny.retinanet(base, neck)
    cfg['bbox_head']['loss_cls'] = dict(type='CrossEntropyLoss', use_sigmoid=False)
    return cfg


HEADS = {
    'gfl': tiny.gfl,
    'atss': tiny.atss,
    'retinanet': tiny.retinanet,
    'retinanet with softmax': softmax,
    'fcos': tiny.fcos,
    'fcos with norm_on_bbox': norm_on_bbox,
}
# Their scores in a result are multiplied by centerness.
CENTERED = ('atss', 'fcos', 'fcos with norm_on_bbox')


def head_of(name: str) -> nn.Module:
    """A head whose outputs are spread over their whole range."""
    head = tiny.build(HEADS[name](4, 8)).bbox_head
    torch.manual_seed(3)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
    for index, scale in enumerate(getattr(head, 'scales', ())):
        nn.init.constant_(scale.scale, 0.5 + 0.25 * index)
    if name == 'fcos':  # whose sides are exponentials
        nn.init.constant_(head.conv_reg.bias, 2.0)
    return head.eval()


def features(images: int = 2) -> list[Tensor]:
    torch.manual_seed(4)
    sizes = [(-(-SIZE[0] // s), -(-SIZE[1] // s)) for s in (8, 16, 32, 64, 128)]
    return [torch.randn(images, 8, *size) for size in sizes]


def levels_of(head: nn.Module, maps: list[Tensor]) -> list[tuple[Tensor, ...]]:
    return list(zip(*head(maps)))


def read(head: nn.Module, maps: list[Tensor] | None = None) -> HeadOutput:
    return DenseReader(head).read(head, levels_of(head, maps or features()))


def clipped(boxes: Tensor) -> Tensor:
    """As mmdet clips its results to the image."""
    limit = torch.tensor([SIZE[1], SIZE[0]] * 2)
    return torch.minimum(boxes.clamp_min(0), limit)


@pytest.mark.parametrize('name', HEADS)
def test_boxes_scores_and_their_order_are_those_of_mmdets_predictions(
    name: str,
) -> None:
    head, maps = head_of(name), features()
    # Everything is kept: no threshold, no NMS.
    cfg = ConfigDict(nms_pre=10**6, score_thr=-1.0, min_bbox_size=-1, max_per_img=10**6)
    metas = [dict(img_shape=SIZE, scale_factor=(1.0, 1.0))] * 2
    with torch.no_grad():
        results = head.predict_by_feat(
            *head(maps), batch_img_metas=metas, cfg=cfg, with_nms=False
        )
        output = read(head, maps)
    sigmoid = getattr(head, 'use_sigmoid_cls', True)
    scores = output.scores.sigmoid() if sigmoid else output.scores.softmax(-1)[..., :3]
    anchors = 9 if name.startswith('retinanet') else 1
    counts = [anchors * m.shape[-2] * m.shape[-1] for m in maps]
    for image, result in enumerate(results):
        boxes, labels, confidences = [], [], []
        for part, box in zip(
            scores[image].split(counts), output.boxes[image].split(counts), strict=True
        ):
            # mmdet sorts each level, one entry for each pair of place and class.
            confidence, index = part.flatten().sort(descending=True)
            boxes.append(box[index // 3])
            labels.append(index % 3)
            confidences.append(confidence)
        expected = clipped(torch.cat(boxes))
        torch.testing.assert_close(result.bboxes, expected, rtol=1e-5, atol=1e-4)
        assert torch.equal(result.labels, torch.cat(labels))
        if name not in CENTERED:
            torch.testing.assert_close(result.scores, torch.cat(confidences))
        # Boxes of many sizes, so that this says something.
        assert (result.bboxes[:, 2:] - result.bboxes[:, :2]).std() > 2


@pytest.mark.parametrize('name', HEADS)
def test_in_training_mode_the_same_is_read_as_in_eval_mode(name: str) -> None:
    head = head_of(name)
    evaluated = read(head)
    trained = read(head.train())
    torch.testing.assert_close(trained.scores, evaluated.scores)
    torch.testing.assert_close(trained.boxes, evaluated.boxes, rtol=1e-5, atol=1e-4)


def test_norm_on_bbox_yields_other_numbers_in_training_mode() -> None:
    """Or the test above would be none."""
    head, maps = head_of('fcos with norm_on_bbox'), features()
    evaluated = head(maps)[1][1].clone()
    assert not torch.allclose(head.train()(maps)[1][1], evaluated)


def test_places_are_in_the_order_of_mmdets_priors() -> None:
    head = head_of('retinanet')
    nn.init.zeros_(head.retina_reg.weight)  # no delta: each box is its anchor
    nn.init.zeros_(head.retina_reg.bias)
    maps = features(images=1)
    priors = head.prior_generator.grid_priors(
        [m.shape[-2:] for m in maps], device='cpu'
    )
    torch.testing.assert_close(read(head, maps).boxes[0], torch.cat(priors))


def test_bins_are_the_distributions_that_the_boxes_are_the_means_of() -> None:
    head, maps = head_of('gfl'), features()
    output = read(head, maps)
    places = sum(m.shape[-2] * m.shape[-1] for m in maps)
    assert output.bins.shape == (2, places, 4, 17)
    priors = torch.cat(
        head.prior_generator.grid_priors([m.shape[-2:] for m in maps], device='cpu')
    )
    centers = (priors[:, :2] + priors[:, 2:]) / 2
    strides = torch.cat(
        [
            torch.full((m.shape[-2] * m.shape[-1],), float(s))
            for m, (s, _) in zip(maps, head.prior_generator.strides)
        ]
    )
    sides = head.integral(output.bins[0].flatten(1)) * strides[:, None]
    expected = torch.cat([centers - sides[:, :2], centers + sides[:, 2:]], 1)
    torch.testing.assert_close(output.boxes[0], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('name', HEADS)
def test_gradients_reach_the_head_through_scores_and_boxes(name: str) -> None:
    head = head_of(name).train()
    for part in ('scores', 'boxes'):
        head.zero_grad()
        getattr(read(head), part).square().sum().backward()
        assert any(p.grad is not None and p.grad.any() for p in head.parameters())


def test_what_is_read_is_float32_whatever_the_head_yields() -> None:
    head, maps = head_of('gfl'), features()
    half = [tuple(t.bfloat16() for t in level) for level in levels_of(head, maps)]
    output = DenseReader(head).read(head, half)
    assert {t.dtype for t in (*output[:3], *output.priors)} == {torch.float32}
    torch.testing.assert_close(output.boxes, read(head, maps).boxes, rtol=0.1, atol=2.0)


@pytest.mark.parametrize('name', HEADS)
def test_what_is_read_under_autocast_is_the_same(name: str) -> None:
    head, maps = head_of(name), features()
    with torch.no_grad():
        levels = levels_of(head, maps)
        wanted = DenseReader(head).read(head, levels)
        with torch.autocast('cpu', torch.bfloat16):
            found = DenseReader(head).read(head, levels)
    assert torch.equal(found.scores, wanted.scores)
    assert torch.equal(found.boxes, wanted.boxes)


def test_one_reader_reads_images_of_any_size() -> None:
    head = head_of('gfl')
    reader, small, large = DenseReader(head), features(), features()
    small = [m[..., : m.shape[-1] // 2 + 1] for m in small]
    first = reader.read(head, levels_of(head, large))
    second = reader.read(head, levels_of(head, small))
    again = reader.read(head, levels_of(head, large))
    assert second.boxes.shape[1] < first.boxes.shape[1]
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(second.boxes, read(head, small).boxes)


def test_the_activation_says_what_class_logits_are_for() -> None:
    assert DenseReader(head_of('gfl')).activation == 'sigmoid'
    assert DenseReader(head_of('fcos')).activation == 'sigmoid'
    reader = DenseReader(head_of('retinanet with softmax'))
    assert reader.activation == 'softmax'
    assert read(head_of('retinanet with softmax')).scores.shape[-1] == 4


def test_boxes_are_not_decoded_where_no_loss_needs_them() -> None:
    head = head_of('gfl')
    reader = DenseReader(head)
    reader.decodes = False
    levels = levels_of(head, features())
    output = reader.read(head, levels)
    assert output.boxes is None
    assert torch.equal(output.bins, DenseReader(head).read(head, levels).bins)


def test_heads_without_distributions_yield_none() -> None:
    assert read(head_of('atss')).bins is None
    assert DenseReader(head_of('atss')).bins == 0
    assert DenseReader(head_of('gfl')).bins == 17


def test_what_is_no_dense_head_is_not_taken_for_one() -> None:
    model = tiny.build(tiny.gfl(4, 8))
    assert is_dense_head(model.bbox_head)
    assert not is_dense_head(model.neck)
    assert not is_dense_head(model.bbox_head.gfl_cls)
