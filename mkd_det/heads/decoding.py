"""Runs the decoders of DETR and its kin on given queries.

The call of a decoder is read by the tap `decoder:call` as one level: a tuple of float
tensors with the images first, so that it is cached and compared as any other level.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from mmdet.models.detectors import (
    DABDETR,
    DDQDETR,
    DETR,
    DINO,
    ConditionalDETR,
    DeformableDETR,
)
from mmdet.models.layers.transformer import inverse_sigmoid
from torch import Tensor, nn

from ..structures import Level

# What is read of a call: our name, and those of the decoders' arguments.
_MEMORY = {'memory': ('value', 'key'), 'mask': ('key_padding_mask',)}
_ATTENTION = {**_MEMORY, 'memory_pos': ('key_pos',)}
_DEFORMABLE = {
    **_MEMORY,
    'shapes': ('spatial_shapes',),
    'ratios': ('valid_ratios',),
    'points': ('reference_points',),
}
_QUERY = {'query': ('query',)}
_WITH_POSITIONS = {**_QUERY, 'positions': ('query_pos',)}
_CALLS: dict[type, Mapping[str, tuple[str, ...]]] = {
    DETR: {**_ATTENTION, **_WITH_POSITIONS},
    ConditionalDETR: {**_ATTENTION, **_WITH_POSITIONS},
    DABDETR: {**_ATTENTION, **_WITH_POSITIONS},
    DeformableDETR: {**_DEFORMABLE, **_WITH_POSITIONS},
    DINO: {**_DEFORMABLE, **_QUERY},
    DDQDETR: {**_DEFORMABLE, **_QUERY},
}


class Queries(NamedTuple):
    """What a decoder starts from; None for what it makes itself.

    Args:
        content: Content (N, Q, C).
        positions: Learned positions (N, Q, C).
        places: Points (N, Q, 2) or boxes (N, Q, 4) of centre and size, in units of the
            image's sides.
    """

    content: Tensor | None = None
    positions: Tensor | None = None
    places: Tensor | None = None


def knows_decoder(model: nn.Module) -> bool:
    """Return whether the decoder of a model can be run on given queries."""
    return type(model) in _CALLS


def query_parts(model: Any) -> frozenset[str]:
    """Return what the queries of a model consist of.

    Args:
        model: A detector that `knows_decoder` accepts.

    Returns:
        Some of 'content', 'positions', 'points' and 'boxes'. Other parts are zero, or
        the model makes them from its boxes.
    """
    kind = type(model)
    if kind is DABDETR:
        return frozenset({'boxes'} | ({'content'} if model.num_patterns else set()))
    if kind is DeformableDETR:
        if model.as_two_stage:
            return frozenset({'boxes'})
        return frozenset({'content', 'positions', 'points'})
    if kind in (DINO, DDQDETR):
        return frozenset({'content', 'boxes'})
    return frozenset({'positions'})


def call_layout(model: nn.Module) -> Callable[[Any], list[Level] | None] | None:
    """Return what makes a level of a call of the model's decoder.

    Args:
        model: A detector.
    """
    names = _CALLS.get(type(model))
    return None if names is None else partial(_call_level, names)


def _call_level(
    names: Mapping[str, tuple[str, ...]], given: Mapping[str, Any]
) -> list[Level]:
    """Return the arguments of a call, named as in `names`, as one level."""
    found: dict[str, Any] = {
        name: next((given[key] for key in keys if key in given), None)
        for name, keys in names.items()
    }
    memory = found['memory']
    if found['mask'] is None:  # no image is padded
        found['mask'] = memory.new_zeros(memory.shape[:2])
    if 'shapes' in found:
        found['shapes'] = found['shapes'].expand(len(memory), -1, -1)
    parts = found.values()
    return [tuple(p if p.is_floating_point() else p.float() for p in parts)]


def queries_of(model: Any, call: Sequence[Tensor]) -> Queries:
    """Return the queries that a decoder was called with.

    Args:
        model: A detector that `knows_decoder` accepts.
        call: The level that `decoder:call` yielded of it, in eval mode: in training
            there are denoising queries too.
    """
    parts, known = query_parts(model), _named(model, call)
    positions, places = known.get('positions'), known.get('points')
    if type(model) is DABDETR:
        assert positions is not None
        places = positions.sigmoid()
    return Queries(
        known['query'] if 'content' in parts else None,
        positions if 'positions' in parts else None,
        places,
    )


def run_decoder(
    model: Any, call: Sequence[Tensor], queries: Queries
) -> list[tuple[Tensor, ...]]:
    """Run the decoder and the head of a model on the memory of a call.

    Args:
        model: A detector that `knows_decoder` accepts.
        call: The level that `decoder:call` yielded of it; its queries are not used.
        queries: The queries, with the parts that `query_parts` names.

    Returns:
        Class logits (N, Q, K) and boxes (N, Q, 4), as centre and size, of each layer.
    """
    known = _named(model, call)
    padded = known['mask'] > 0.5
    given: dict[str, Any] = dict(
        memory=known['memory'],
        memory_mask=padded if bool(padded.any()) else None,
        memory_pos=known.get('memory_pos'),
    )
    if 'shapes' in known:
        shapes = known['shapes'][0].round().long()
        starts = shapes.prod(1).cumsum(0)
        given.update(
            spatial_shapes=shapes,
            level_start_index=torch.cat([starts.new_zeros(1), starts[:-1]]),
            valid_ratios=known['ratios'],
            dn_mask=None,
        )
    given.update(_start(model, known['memory'], queries))
    takes = inspect.signature(model.forward_decoder).parameters
    with _without_training_queries(model, given['query'].shape[1]):
        found = model.forward_decoder(**{k: v for k, v in given.items() if k in takes})
        layers = model.bbox_head(**found)
    return [tuple(layer) for layer in zip(*layers, strict=True)]


def _start(model: Any, memory: Tensor, queries: Queries) -> dict[str, Tensor]:
    """Return the arguments of a decoder for queries, as the model itself makes them."""
    content, positions, places = queries
    if type(model) is DeformableDETR and model.as_two_stage:
        assert places is not None
        encoded = model.get_proposal_pos_embed(inverse_sigmoid(places))
        both = model.pos_trans_norm(model.pos_trans_fc(encoded.to(memory.dtype)))
        positions, content = both.split(memory.shape[-1], 2)
    if type(model) is DABDETR:
        assert places is not None
        positions = inverse_sigmoid(places)
    if content is None:
        like = positions if positions is not None else places
        assert like is not None
        content = memory.new_zeros(*like.shape[:2], memory.shape[-1])
    start = dict(query=content, query_pos=positions, reference_points=places)
    return {name: value for name, value in start.items() if value is not None}


def _named(model: Any, call: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(_CALLS[type(model)], call, strict=True))


@contextmanager
def _without_training_queries(model: Any, count: int) -> Iterator[None]:
    """Run a DDQ without the dense and denoising queries that it has in training.

    Its modules share what they know of the queries of the last forward.

    Args:
        model: The model; nothing is done to others.
        count: Number of queries.
    """
    if type(model) is not DDQDETR:
        yield
        return
    parts = model.decoder, model.bbox_head
    modes, known = [part.training for part in parts], dict(model.cache_dict)
    try:
        for part in parts:
            part.training = False  # of the part alone: dropout goes on
        model.cache_dict['dis_query_info'] = [0, count]
        yield
    finally:
        for part, mode in zip(parts, modes):
            part.training = mode
        model.cache_dict.update(known)
