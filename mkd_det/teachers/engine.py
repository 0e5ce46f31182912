"""Frozen models at inference speed: folded norms, channels-last, half precision.

A frozen network needs nothing that training needs. `settle` makes a copy of it that
says the same and costs less, and checks both; the model itself stays as it was
loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from mmengine.dist import all_gather_object, broadcast_object_list
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..structures import Level, Levels, first_tensor, tensors_in
from ..taps import Tap, capture
from ..heads.running import run_features

SPEEDS = ('auto', 'fast', 'exact', 'off')

# Paths of convolutions, each with that of the norm folded into it.
Pairs = tuple[tuple[str, str], ...]

# How far a tap may be from the plain teacher's, in relative L2 norm. Folding costs
# some 1e-6, bfloat16 0.006 to 0.01 on trained detectors.
LIMITS = {'exact': 1e-3, 'fast': 0.03}

# 'auto' takes half precision only where it saves at least a tenth.
WORTHWHILE = 0.9

# Exact types: a subclass may change the weight before it uses it.
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2d)


@dataclass(frozen=True)
class Speedup:
    """What is done to a teacher.

    Args:
        speed: 'off', 'exact' or 'fast'.
        pairs: Paths of convolutions, each with that of the norm folded into it.
        dtype: Half precision of 'fast'.
    """

    speed: str
    pairs: Pairs = ()
    dtype: torch.dtype | None = None

    def __str__(self) -> str:
        if self.speed == 'off':
            return 'as it is'
        dtype = str(self.dtype or torch.float32).removeprefix('torch.')
        return f'{len(self.pairs)} batch norms folded, channels-last, {dtype}'


def half_type(device: torch.device) -> torch.dtype | None:
    """The half precision that `device` computes in; None where it has none."""
    if device.type == 'cpu':
        return torch.bfloat16
    if device.type == 'cuda':
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.float16 if device.type == 'mps' else None


class PairWatcher:
    """Finds out, in one forward, which batch norm reads which convolution.

    Names and the order of children tell nothing for certain; that a norm gets the
    very tensor that a convolution yielded, unchanged, does. A convolution read by
    two norms, or a norm that reads anything else as well, makes no pair. What reads
    a convolution besides its norm is not seen: the comparison on the first batch
    finds that.
    """

    def __init__(self) -> None:
        self._outputs: dict[int, tuple[Tensor, str, int]] = {}
        self._norms_of: dict[str, set[str]] = {}
        self._convs_of: dict[str, set[str | None]] = {}

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Watch the forwards inside the `with` block."""
        handles = []
        for path, module in model.named_modules():
            if type(module) in _CONVS:
                handles.append(module.register_forward_hook(self._yields(path)))
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(self._reads(path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._outputs.clear()

    def _yields(self, path: str) -> Any:
        def hook(_: nn.Module, args: tuple, output: Tensor) -> None:
            # Keeps the tensor, so that no later one gets its id.
            self._outputs[id(output)] = (output, path, output._version)

        return hook

    def _reads(self, path: str) -> Any:
        def hook(_: nn.Module, args: tuple) -> None:
            found = self._outputs.get(id(args[0]))
            same = found is not None and found[0]._version == found[2]
            conv = found[1] if found is not None and same else None
            self._convs_of.setdefault(path, set()).add(conv)
            self._norms_of.setdefault(conv or '', set()).add(path)

        return hook

    def pairs(self, model: nn.Module, taps: Iterable[Tap]) -> Pairs:
        """Pairs of `model` between which none of `taps` reads."""
        outputs: set[str] = set()
        inputs: set[str] = set()
        for tap in taps:
            (inputs if tap.inputs else outputs).update(p for p, _ in tap.resolve(model))
        return tuple(
            (conv, norm)
            for norm, convs in self._convs_of.items()
            for conv in convs
            if conv is not None
            and len(convs) == len(self._norms_of[conv]) == 1
            and conv not in outputs
            and norm not in inputs
        )


def sped_up(model: nn.Module, speedup: Speedup) -> nn.Module:
    """A copy of `model` for inference; shares no weights with it.

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
            if isinstance(module, (*_CONVS, nn.Linear)):
                module.to(speedup.dtype)
    copy.to(memory_format=torch.channels_last)
    return copy.eval().requires_grad_(False)


@dataclass
class Engine:
    """What runs in place of a teacher.

    Args:
        model: The model itself, or a copy made by `sped_up`.
        speedup: What was done to it.
    """

    model: nn.Module
    speedup: Speedup

    def run(
        self,
        inputs: Tensor,
        taps: Mapping[str, Tap],
        stop_after: Mapping[str, int] | None = None,
    ) -> dict[str, Levels]:
        """Levels by tap name, as the plain model would lay them out.

        `no_grad`, not `inference_mode`: the student's backward saves what comes
        from here.

        Args:
            inputs: Images as the model wants them, (N, 3, H, W).
            taps: Taps to read.
            stop_after: See `taps.capture`.
        """
        dtype, plain = self.speedup.dtype, self.speedup.speed == 'off'
        if not plain and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        kind = inputs.device.type
        # The plain model follows the training around it; an engine has a dtype.
        own = torch.autocast(kind, dtype, enabled=dtype is not None)
        with (
            torch.no_grad(),
            nullcontext() if plain else own,
            capture(self.model, taps, stop_after=stop_after) as seen,
        ):
            run_features(self.model, inputs)
        if plain:
            return seen
        return {
            name: tuple(_as_plain(level, dtype is not None) for level in levels)
            for name, levels in seen.items()
        }


def settle(
    name: str,
    model: nn.Module,
    speed: str,
    pairs: Pairs,
    run: Callable[[Engine], dict[str, Levels]],
    alone: bool = False,
) -> Engine:
    """Make the engine of one teacher, on the first batch, and log what it is.

    What differs too much from the plain model, or cannot be made of it, is not
    used: 'fast' falls back to 'exact', 'exact' to the model as it is.

    Args:
        name: The teacher's name.
        model: The teacher.
        speed: What the config wants, of `SPEEDS`. With deterministic algorithms
            'auto' means 'exact': no clock decides.
        pairs: What can be folded, see `PairWatcher`.
        run: Runs an engine on the batch.
        alone: Whether other ranks may be elsewhere: they are not asked then, and
            'auto' means 'exact'.
    """
    plain, wanted = Engine(model, Speedup('off')), speed
    if speed == 'off':
        return plain
    if speed == 'auto' and (alone or torch.are_deterministic_algorithms_enabled()):
        speed = 'exact'
    device = next(model.parameters()).device
    half = half_type(device) if _in_single(model) else None
    logger = MMLogger.get_current_instance()
    with _full_float(device):
        reference = run(plain)
    engines: list[Engine] = []
    for kind in ('fast', 'exact') if speed != 'exact' else ('exact',):
        if kind == 'fast' and half is None:
            logger.warning(f'teacher {name!r}: no half precision on {device}')
            continue
        if engines and speed == 'fast':
            break
        speedup = Speedup(kind, pairs, half if kind == 'fast' else None)
        with _full_float(device):
            engine = _checked(name, sped_up(model, speedup), speedup, run, reference)
        accepted = [engine is not None]
        # All ranks or none: they learn from one teacher.
        if all(accepted if alone else all_gather_object(accepted[0])) and engine:
            engines.append(engine)
    if len(engines) == 2:
        engines = [_faster(engines[0], engines[1], run)]
    engine = engines[0] if engines else plain
    chosen = engine.speedup.speed
    why = f' (chosen by {wanted!r})' if wanted == 'auto' else f' (not {wanted!r})'
    logger.info(
        f'teacher {name!r} runs at speed {chosen!r}'
        f'{"" if chosen == wanted else why}: {engine.speedup}'
    )
    return engine


def _checked(
    name: str,
    model: nn.Module,
    speedup: Speedup,
    run: Callable[[Engine], dict[str, Levels]],
    reference: dict[str, Levels],
) -> Engine | None:
    """The engine, or None where it says something else than the plain model."""
    logger = MMLogger.get_current_instance()
    engine, limit = Engine(model, speedup), LIMITS[speedup.speed]
    try:
        found = differences(reference, run(engine))
    except (RuntimeError, TypeError, AttributeError) as error:
        # Layers of the user's own that know float32 or one layout only.
        logger.warning(
            f'teacher {name!r} does not run with {speedup}, and goes without'
            f' ({type(error).__name__}: {str(error).splitlines()[0]})'
        )
        return None
    words = ', '.join(f'{tap} {value:.2g}' for tap, value in found.items())
    # Not `>`: what is not a number is over the limit, too.
    fits = all(value <= limit for value in found.values())
    if speedup.dtype == torch.float16:
        # A later batch may be larger, and what overflows is not a number.
        fits = fits and _largest(reference) < torch.finfo(torch.float16).max / 10
    if not fits:
        logger.warning(
            f'teacher {name!r} says something else with {speedup}, and goes without:'
            f' relative difference {words}; limit {limit:g}'
        )
        return None
    logger.info(f'teacher {name!r}, {speedup}: relative difference {words}')
    return engine


def _faster(
    fast: Engine, exact: Engine, run: Callable[[Engine], dict[str, Levels]]
) -> Engine:
    """The faster of two engines; rank 0 measures for all."""
    seconds = [min(_seconds(engine, run) for _ in range(2)) for engine in (fast, exact)]
    choice = [seconds[0] < WORTHWHILE * seconds[1]]
    broadcast_object_list(choice)
    return fast if choice[0] else exact


def _seconds(engine: Engine, run: Callable[[Engine], dict[str, Levels]]) -> float:
    start = time.perf_counter()
    level = next(iter(run(engine).values()))[0]
    # Reading one number waits for the device.
    float(first_tensor(level).flatten()[0])
    return time.perf_counter() - start


@contextmanager
def _full_float(device: torch.device) -> Iterator[None]:
    """Compare in float32 itself: not in the training's half precision, and not in
    TF32, whose rounding is as large as the limit. An engine's own dtype stays."""
    tf32 = device.type == 'cuda' and torch.backends.cudnn.allow_tf32
    try:
        if tf32:
            torch.backends.cudnn.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if tf32:
            torch.backends.cudnn.allow_tf32 = True


def _largest(levels: Mapping[str, Levels]) -> float:
    return max(float(t.abs().max()) for t in tensors_in(list(levels.values())))


def _in_single(model: nn.Module) -> bool:
    return all(
        p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point()
    )


def differences(
    plain: Mapping[str, Levels], other: Mapping[str, Levels]
) -> dict[str, float]:
    """Relative L2 difference of each tap, the largest of its levels."""
    return {
        name: max(_difference(a, b) for a, b in zip(levels, other[name], strict=True))
        for name, levels in plain.items()
    }


def _difference(plain: Level, other: Level) -> float:
    if isinstance(plain, tuple):
        return max(_difference(a, b) for a, b in zip(plain, other, strict=True))
    wanted, found = plain.float(), first_tensor(other).float()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def _as_plain(level: Level, widen: bool) -> Level:
    """A level as the plain model yields it: contiguous, float32 if `widen`."""
    if isinstance(level, tuple):
        return tuple(_as_plain(part, widen) for part in level)  # type: ignore[misc]
    dtype = torch.float32 if widen else level.dtype
    return level.to(dtype, memory_format=torch.contiguous_format)
