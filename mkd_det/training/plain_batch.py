"""A batch of a dataloader as plain types, for files that hold data only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmdet import structures as mmdet_structures
from mmdet.structures.bbox import BaseBoxes, get_box_type
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine import structures as mmengine_structures
from mmengine.structures import BaseDataElement

# Key of the type of a packed object.
_TYPE = '__type__'
_ARRAY, _BOXES, _BITMAPS, _POLYGONS = 'array', 'boxes', 'bitmaps', 'polygons'
_PLAIN = (str, int, float, bool, bytes, type(None), torch.Tensor)


def pack(value: Any, lost: list[str]) -> Any:
    """Return a value as tensors, numbers, texts and containers of them.

    Args:
        value: A batch, or a part of it.
        lost: Gets the types of what cannot be packed; None stands in its place.
    """
    if isinstance(value, BaseBoxes):
        name = get_box_type(type(value))[0]
        return {_TYPE: _BOXES, 'name': name, 'tensor': value.tensor.cpu()}
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.ndarray):
        return {_TYPE: _ARRAY, 'dtype': str(value.dtype), 'values': value.tolist()}
    if isinstance(value, BitmapMasks):
        masks = torch.from_numpy(np.ascontiguousarray(value.masks))
        return {_TYPE: _BITMAPS, 'masks': masks, 'size': _size(value)}
    if isinstance(value, PolygonMasks):
        polygons = [[part.tolist() for part in one] for one in value.masks]
        return {_TYPE: _POLYGONS, 'masks': polygons, 'size': _size(value)}
    if isinstance(value, BaseDataElement):
        return {
            _TYPE: type(value).__name__,
            'metainfo': pack(dict(value.metainfo_items()), lost),
            'data': pack(dict(value.items()), lost),
        }
    if isinstance(value, Mapping):
        return {key: pack(item, lost) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [pack(item, lost) for item in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    lost.append(type(value).__name__)
    return None


def unpack(value: Any) -> Any:
    """Return what `pack` was given.

    Args:
        value: What it has returned.
    """
    if isinstance(value, (list, tuple)):
        parts = [unpack(item) for item in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if not isinstance(value, Mapping):
        return value
    kind = value.get(_TYPE)
    if kind is None:
        return {key: unpack(item) for key, item in value.items()}
    if kind == _ARRAY:
        return np.array(value['values'], dtype=value['dtype'])
    if kind == _BOXES:
        return get_box_type(value['name'])[1](value['tensor'])
    if kind == _BITMAPS:
        return BitmapMasks(value['masks'].numpy(), *value['size'])
    if kind == _POLYGONS:
        masks = [[np.array(part) for part in one] for one in value['masks']]
        return PolygonMasks(masks, *value['size'])
    element = _element_class(kind)(metainfo=unpack(value['metainfo']))
    for key, item in value['data'].items():
        setattr(element, key, unpack(item))
    return element


def _size(masks: BitmapMasks | PolygonMasks) -> tuple[int, int]:
    return int(masks.height), int(masks.width)


def _element_class(name: str) -> Any:
    """Return a class of data elements; the base class for one of somebody else."""
    for module in (mmdet_structures, mmengine_structures):
        cls = getattr(module, name, None)
        if isinstance(cls, type) and issubclass(cls, BaseDataElement):
            return cls
    return BaseDataElement
