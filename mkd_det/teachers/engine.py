"""Frozen models at inference speed: folded norms, channels-last, half precision.

A frozen network needs nothing that training needs. `accelerate` makes a copy of it
that yields the same and costs less; the model itself stays as it was loaded.
`engine_choice.py` checks copies against the model and picks one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..config import Speed
from ..heads.running import run_features
from ..structures import Level, Levels
from ..taps import Tap, capture
from .norm_pairs import CONVOLUTIONS, NormPairs

SPEEDS: tuple[str, ...] = get_args(Speed)


@dataclass(frozen=True)
class Speedup:
    """What is done to a teacher.

    Args:
        speed: 'off', 'exact' or 'fast'.
        pairs: Paths of convolutions, each with that of the norm folded into it.
        dtype: Half precision of 'fast'.
    """

    speed: str
    pairs: NormPairs = ()
    dtype: torch.dtype | None = None

    def __str__(self) -> str:
        if self.speed == 'off':
            return 'as it is'
        dtype = dtype_name(self.dtype or torch.float32)
        return f'{len(self.pairs)} batch norms folded, channels-last, {dtype}'


def half_types(device: torch.device) -> tuple[torch.dtype, ...]:
    """Return the half precisions that `device` computes in, in the order of trial.

    bfloat16 has the range of float32; float16 rounds to an eighth of bfloat16's steps.
    """
    if device.type == 'cpu':
        native = torch.ops.mkldnn._is_mkldnn_fp16_supported()
        return (torch.bfloat16, torch.float16) if native else (torch.bfloat16,)
    if device.type == 'cuda':
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, torch.float16) if native else (torch.float16,)
    return (torch.float16,) if device.type == 'mps' else ()


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype, such as 'float16'."""
    return str(dtype).removeprefix('torch.')


def accelerate(model: nn.Module, speedup: Speedup) -> nn.Module:
    """Return a copy of `model` for inference; it shares no weights with `model`.

    Args:
        model: In eval mode, without gradients.
        speedup: What to do.
    """
    copy = deepcopy(model)
    for conv_path, norm_path in speedup.pairs:
        conv: Any = copy.get_submodule(conv_path)
        norm: Any = copy.get_submodule(norm_path)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        parent, _, name = norm_path.rpartition('.')
        setattr(copy.get_submodule(parent), name, nn.Identity())
    if speedup.dtype is not None:
        # Autocast would convert frozen weights anew in every step.
        for module in copy.modules():
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
                module.to(speedup.dtype)
    copy.to(memory_format=torch.channels_last)
    return copy.eval().requires_grad_(False)


@dataclass
class Engine:
    """The model that runs in place of a teacher.

    Args:
        model: The teacher's model itself, or a copy made by `accelerate`.
        speedup: What was done to it.
    """

    model: nn.Module
    speedup: Speedup

    def run(
        self,
        inputs: Tensor,
        taps: Mapping[str, Tap],
        stop_after: Mapping[str, int] | None = None,
        samples: Sequence[Any] | None = None,
    ) -> dict[str, Levels]:
        """Return levels by tap name, in the layout of the plain model.

        Runs under `no_grad`, not `inference_mode`: the student's backward saves
        tensors that come from here.

        Args:
            inputs: Images as the model wants them, (N, 3, H, W).
            taps: Taps to read.
            stop_after: See `taps.capture`.
            samples: A data sample for each image, see `run_features`.
        """
        dtype, plain = self.speedup.dtype, self.speedup.speed == 'off'
        if not plain and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        kind = inputs.device.type
        # The plain model follows the training's autocast; an engine has a dtype.
        own = torch.autocast(kind, dtype, enabled=dtype is not None)
        with (
            torch.no_grad(),
            nullcontext() if plain else own,
            capture(self.model, taps, stop_after=stop_after) as seen,
        ):
            run_features(self.model, inputs, samples)
        if plain:
            return seen
        return {
            name: tuple(_plain_layout(level, dtype is not None) for level in levels)
            for name, levels in seen.items()
        }


def _plain_layout(level: Level, widen: bool) -> Level:
    """Return a level as the plain model yields it: contiguous, float32 if `widen`."""
    if isinstance(level, tuple):
        parts: Any = (_plain_layout(part, widen) for part in level)
        return tuple(parts)
    dtype = torch.float32 if widen else level.dtype
    return level.to(dtype, memory_format=torch.contiguous_format)
