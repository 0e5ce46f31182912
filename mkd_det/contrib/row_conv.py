"""Convolutions along rows: 1xK kernels in the place of KxK ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..errors import ConfigError, nearest_names, prefix_errors

# By exact type: a subclass (deformable, standardised) may be no plain convolution.
_CONVS = (nn.Conv2d, Conv2d)
Kernel = int | tuple[int, int]


@MODELS.register_module('RowConv')
def row_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: Kernel,
    stride: Kernel = 1,
    padding: Kernel | str = 0,
    dilation: Kernel = 1,
    **rest: Any,
) -> nn.Conv2d:
    r"""A convolution with a 1xK kernel, for what would have had a KxK one.

    Line-based hardware sees a row of the image at a time; Son: "Densely Guided
    Knowledge Distillation using Multiple Teacher Assistants", thesis, Ajou University,
    2021, trains students of 1xN filters for it. It is an ordinary `nn.Conv2d` that
    looks along W only; stride and output size are those of the KxK convolution. It
    equals that one exactly where all rows of the kernel but the middle one are zero
    (see `to_square`). A weight of KxK that is loaded into it gives its middle row.

    In models that build their layers by mmcv, it is asked for by
    `conv_cfg=dict(type='RowConv')`; `RowModel` converts any model. A 1x1 kernel stays.

    Args:
        in_channels: Channels C_in.
        out_channels: Channels C_out.
        kernel_size: K, odd.
        stride: Along both axes.
        padding: dilation * (K - 1) / 2, so that maps keep their size.
        dilation: Along both axes.
        rest: groups, bias, padding_mode, as `nn.Conv2d` has them.

    Shape:
        - input: (N, C_in, H, W)
        - output: (N, C_out, ceil(H / stride), ceil(W / stride))

    Raises:
        ConfigError: K is even, the kernel is no square, or maps would change size.
    """
    height, width = _pair(kernel_size)
    if height == width == 1:
        return nn.Conv2d(
            in_channels, out_channels, 1, stride, padding, dilation, **rest
        )
    same = tuple(d * (height - 1) // 2 for d in _pair(dilation))
    _check_square((height, width), padding, same)
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        (1, width),
        stride,
        (0, same[1]),
        dilation,
        **rest,
    )
    conv.register_load_state_dict_pre_hook(_take_middle_row)
    return conv


def _check_square(
    size: tuple[int, int], padding: Kernel | str, same: tuple[int, ...]
) -> None:
    """Raise unless a row can stand for a kernel of this size and padding."""
    pad = same if padding == 'same' else tuple(_pair(padding))
    if size[0] != size[1] or size[0] % 2 == 0 or pad != same:
        raise ConfigError(
            f'RowConv: no row can stand for a kernel of {size[0]}x{size[1]} with'
            f' padding {pad}',
            expected=f'an odd square kernel with padding {same}',
        )


@MODELS.register_module('RowModel')
def row_model(
    model: dict, on: str | Sequence[str] = 'backbone', data_preprocessor: Any = None
) -> nn.Module:
    """Builds a model and converts its convolutions to rows.

        model = dict(type='RowModel', model={{_base_.model}}, on='backbone')

    What comes back is the model itself, of its own class, with the keys it always had:
    to all who use it nothing has changed but the shape of kernels.

    Args:
        model: Config of any detector or classifier.
        on: Paths of modules to convert, with all below them. A part of the backbone
            makes a mixed model: `on=['backbone.layer3', 'backbone.layer4']`.
        data_preprocessor: For a model that has none of its own.

    Raises:
        ConfigError: A path is not there, or holds nothing that can be converted.
    """
    if data_preprocessor is not None:
        model = {'data_preprocessor': data_preprocessor, **model}
    built = MODELS.build(model)
    to_rows(built, on)
    return built


def to_rows(model: nn.Module, on: str | Sequence[str] = 'backbone') -> list[str]:
    """Convert convolutions in place; kernels keep their middle rows.

    Args:
        model: Any model.
        on: Paths of modules; all KxK convolutions there and below.

    Returns:
        Paths of what was converted.

    Raises:
        ConfigError: A path is not there, or holds nothing that can be converted.
    """
    converted: list[str] = []
    modules = dict(model.named_modules(remove_duplicate=False))
    rows: dict[nn.Module, nn.Module] = {}  # one that several share stays one
    for path in [on] if isinstance(on, str) else on:
        if path not in modules:
            raise ConfigError(
                f'rows: {path!r} names no module',
                available=nearest_names(path, modules),
                fix="on='backbone'",
            )
        below = [
            name
            for name, module in modules[path].named_modules(
                prefix=path, remove_duplicate=False
            )
            if type(module) in _CONVS and max(module.kernel_size) > 1
        ]
        if not below:
            raise ConfigError(
                f'rows: there is no KxK convolution at or below {path!r}',
                expected='an nn.Conv2d with K > 1',
                actual=type(modules[path]).__name__,
            )
        for name in below:
            square = modules[name]
            if square not in rows:
                with prefix_errors(f'rows: {name}'):
                    rows[square] = _row_of(square)
            parent, _, leaf = name.rpartition('.')
            setattr(model.get_submodule(parent), leaf, rows[square])
        converted += below
    return converted


def _row_of(square: nn.Conv2d) -> nn.Conv2d:
    row = row_conv(
        square.in_channels,
        square.out_channels,
        square.kernel_size,
        square.stride,
        square.padding,
        square.dilation,
        groups=square.groups,
        bias=square.bias is not None,
        padding_mode=square.padding_mode,
        device=square.weight.device,
        dtype=square.weight.dtype,
    )
    row.load_state_dict(square.state_dict())
    row.requires_grad_(square.weight.requires_grad)
    return row.train(square.training)


def _take_middle_row(
    conv: nn.Conv2d, state: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    key = f'{prefix}weight'
    if key in state:
        state[key] = middle_row(state[key], conv.weight)


def middle_row(given: Tensor, wanted: Tensor) -> Tensor:
    """The middle row of a kernel (O, I, K, K) where (O, I, 1, K) is wanted; anything
    else as it is given."""
    if given.dim() != 4 or given.shape == wanted.shape:
        return given
    *channels, height, width = given.shape
    if height == width and height % 2 and wanted.shape == (*channels, 1, width):
        return given[:, :, height // 2, None]
    return given


def to_square(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a converted model for the model that it was made from: kernels KxK
    with zeros above and below the row. It then predicts the same.

    Args:
        weights: State dict of the converted model.
        model: A model of the class it was made from, unconverted.
    """
    squares = dict(weights)
    for key, wanted in model.state_dict().items():
        row = squares.get(key)
        if row is not None and middle_row(wanted, row).shape != wanted.shape:
            square = torch.zeros_like(wanted, dtype=row.dtype)
            square[:, :, wanted.shape[2] // 2] = row[:, :, 0]
            squares[key] = square
    return squares
