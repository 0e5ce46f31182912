"""Convolutions along rows: 1xK kernels instead of KxK ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..errors import ConfigError, nearest_names, prefix_errors

# Compared by exact type: a subclass (deformable, standardised) may compute something
# else.
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
    r"""Return a convolution with a 1xK kernel that replaces a KxK one.

    Line-based hardware processes one row of an image at a time. Son: "Densely Guided
    Knowledge Distillation using Multiple Teacher Assistants", thesis, Ajou University,
    2021, trains students with 1xN filters for it. The result is an ordinary `nn.Conv2d`
    along W; stride and output size are those of the KxK convolution. It equals the KxK
    convolution whose other rows are zero (see `to_square`). Loading a KxK weight takes
    its middle row.

    Use `conv_cfg=dict(type='RowConv')` in models that build their layers with mmcv;
    `RowModel` converts any model. 1x1 kernels stay unchanged.

    Args:
        in_channels: Channels C_in.
        out_channels: Channels C_out.
        kernel_size: K, odd.
        stride: Stride along both axes.
        padding: Must be dilation * (K - 1) / 2, which keeps the size of maps.
        dilation: Dilation along both axes.
        **rest: groups, bias, padding_mode, ... of `nn.Conv2d`.

    Shape:
        - input: (N, C_in, H, W)
        - output: (N, C_out, ceil(H / stride), ceil(W / stride))

    Raises:
        ConfigError: K is even, the kernel is not square, or the padding would change
            the size of maps.
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
    """Raise unless a row can replace a kernel of this size and padding."""
    pad = same if padding == 'same' else tuple(_pair(padding))
    if size[0] != size[1] or size[0] % 2 == 0 or pad != same:
        raise ConfigError(
            f'RowConv: a row cannot replace a {size[0]}x{size[1]} kernel with padding'
            f' {pad}',
            expected=f'an odd square kernel with padding {same}',
        )


@MODELS.register_module('RowModel')
def row_model(
    model: dict, on: str | Sequence[str] = 'backbone', data_preprocessor: Any = None
) -> nn.Module:
    """Build a model and convert its KxK convolutions to 1xK ones.

        model = dict(type='RowModel', model={{_base_.model}}, on='backbone')

    The result has the class and the state dict keys of the given model; only the shapes
    of kernels change.

    Args:
        model: Config of any detector or classifier.
        on: Paths of modules; all convolutions in them are converted. A part of the
            backbone gives a mixed model: `on=['backbone.layer3', 'backbone.layer4']`.
        data_preprocessor: Data preprocessor for a model whose config has none.

    Raises:
        ConfigError: A path does not exist, or no convolution there can be converted.
    """
    if data_preprocessor is not None:
        model = {'data_preprocessor': data_preprocessor, **model}
    converted = MODELS.build(model)
    to_rows(converted, on)
    return converted


def to_rows(model: nn.Module, on: str | Sequence[str] = 'backbone') -> list[str]:
    """Convert convolutions in place, keeping the middle rows of their kernels.

    Args:
        model: Any model.
        on: Paths of modules; all KxK convolutions in them are converted.

    Returns:
        Paths of the converted convolutions.

    Raises:
        ConfigError: A path does not exist, or no convolution there can be converted.
    """
    converted: list[str] = []
    modules = dict(model.named_modules(remove_duplicate=False))
    rows: dict[nn.Module, nn.Module] = {}  # shared layers stay shared
    for path in [on] if isinstance(on, str) else on:
        if path not in modules:
            raise ConfigError(
                f'RowModel: the model has no module {path!r}',
                actual=path,
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
                f'RowModel: no KxK convolution at or below {path!r}',
                expected='an nn.Conv2d with K > 1',
                actual=type(modules[path]).__name__,
            )
        for name in below:
            square = modules[name]
            if square not in rows:
                with prefix_errors(f'RowModel: {name}'):
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
    """Return the middle row of a kernel (O, I, K, K) where (O, I, 1, K) is wanted.

    Other tensors are returned unchanged.
    """
    if given.dim() != 4 or given.shape == wanted.shape:
        return given
    *channels, height, width = given.shape
    if height == width and height % 2 and wanted.shape == (*channels, 1, width):
        return given[:, :, height // 2, None]
    return given


def to_square(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a converted model for the unconverted model.

    Kernels are padded to KxK with rows of zeros, so predictions are equal.

    Args:
        weights: State dict of the converted model.
        model: The unconverted model.
    """
    squares = dict(weights)
    for key, wanted in model.state_dict().items():
        row = squares.get(key)
        if row is not None and middle_row(wanted, row).shape != wanted.shape:
            square = torch.zeros_like(wanted, dtype=row.dtype)
            square[:, :, wanted.shape[2] // 2] = row[:, :, 0]
            squares[key] = square
    return squares
