"""Batches without objects, or with crowds alone, are trained on by every term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tiny
from mkd_det.plan.recipes import packaged_recipes

RECIPES = {recipe.name: recipe.arguments for recipe in packaged_recipes()}
PAIRS: dict[str, tuple[Callable, str]] = {
    'soft outputs and M-KD': (tiny.gfl, 'mkd_dense'),
    'regions of distributions': (tiny.gfl, 'ld_dense'),
    'objects in features': (tiny.gfl, 'fgd_dense'),
    'labels of proposals': (tiny.faster_rcnn, 'dkd_two_stage'),
    'masks': (tiny.mask_rcnn, 'mkd_two_stage'),
    'queries': (tiny.dino, 'mkd_query'),
    'dense queries': (tiny.ddq_detr, 'mkd_query'),
}


def crowd() -> dict[str, Any]:
    """A batch whose only annotation is a crowd, which mmdet ignores."""
    data = tiny.batch(boxes=0, masks=True)
    for sample in data['data_samples']:
        ignored = type(sample.ignored_instances)()
        ignored.bboxes = torch.tensor([[4.0, 4.0, 60.0, 60.0]])
        ignored.labels = torch.zeros(1, dtype=torch.long)
        sample.ignored_instances = ignored
    return data


@pytest.mark.parametrize('name', PAIRS)
def test_no_objects_and_crowds_alone_give_finite_losses_and_gradients(
    name: str,
) -> None:
    detector, recipe = PAIRS[name]
    cfg = tiny.distiller(
        detector(), detector(), **{'adapters': {}, 'branches': {}, **RECIPES[recipe]}
    )
    model: Any = tiny.build(cfg)
    tiny.fill_level_embeddings(model)
    for data in (tiny.batch(boxes=0, masks=True), crowd()):
        batch = model.data_preprocessor(data, True)
        losses = model(**batch, mode='loss')
        total, _ = model.parse_losses(losses)
        assert torch.isfinite(total)
        assert all(any(key.startswith(term) for key in losses) for term in model.losses)
        total.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads and all(torch.isfinite(grad).all() for grad in grads)
