"""Choose how a teacher runs, on the first batch, and prove that it yields the same.

No clock decides: equal trainings on one device run their teachers in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from mmengine.dist import all_gather_object
from mmengine.logging import MMLogger
from torch import nn

from ..structures import Level, Levels, first_tensor, tensors_in
from .engine import Engine, Speedup, accelerate, dtype_name, half_types
from .norm_pairs import NormPairs

# Largest relative L2 difference of a tap from the plain teacher's. Folding costs some
# 1e-6, bfloat16 0.006 to 0.01 on trained detectors.
LIMITS = {'exact': 1e-3, 'fast': 0.03}

# GPUs from this compute capability on have tensor cores for half precision.
TENSOR_CORES = (7, 0)

RunEngine = Callable[[Engine], dict[str, Levels]]


def speed_on(device: torch.device) -> str:
    """Return what 'auto' means on a device: a rule, so that equal runs are equal.

    'fast' on GPUs with tensor cores, 'exact' elsewhere and wherever deterministic
    algorithms are asked for.

    Args:
        device: Device of the teacher.
    """
    if device.type != 'cuda' or torch.are_deterministic_algorithms_enabled():
        return 'exact'
    capability = torch.cuda.get_device_capability(device)
    return 'fast' if capability >= TENSOR_CORES else 'exact'


def choose_engine(
    name: str,
    model: nn.Module,
    speed: str,
    pairs: NormPairs,
    run: RunEngine,
    settled: bool = False,
    half: str = '',
) -> Engine:
    """Make the engine of one teacher, on the first batch, and log what it is.

    An engine that cannot be made, or differs too much from the plain model, is not
    used: 'fast' falls back from one half precision to the next, then to 'exact',
    'exact' to the model as it is.

    Args:
        name: The teacher's name.
        model: The teacher.
        speed: What the config wants, of `SPEEDS`; 'auto' means `speed_on` its device.
        pairs: What can be folded, see `NormPairFinder`.
        run: Runs an engine on the batch.
        settled: Whether an earlier part of this training has chosen `speed`. Another
            batch does not put that in question.
        half: Name of the half precision that it has chosen; empty: the first one.
    """
    plain, wanted = Engine(model, Speedup('off')), speed
    device = next(model.parameters()).device
    if speed == 'auto':
        speed = speed_on(device)
    if speed == 'off':
        return plain
    logger = MMLogger.get_current_instance()
    with _full_float(device):
        reference = run(plain)
    engine = plain
    speedups = [Speedup('exact', pairs)]
    if speed == 'fast':
        halves = half_types(device) if _is_float32(model) else ()
        if settled:
            halves = tuple(d for d in halves if dtype_name(d) == half) or halves[:1]
        if not halves:
            logger.warning(f'teacher {name!r}: no half precision on {device}')
        speedups = [Speedup('fast', pairs, dtype) for dtype in halves] + speedups
    for speedup in speedups:
        with _full_float(device):
            copy = accelerate(model, speedup)
            found = _checked_engine(name, copy, speedup, run, reference, settled)
        # All ranks or none: they learn from one teacher.
        if all(all_gather_object(found is not None)) and found is not None:
            engine = found
            break
    chosen = engine.speedup.speed
    why = f' (chosen by {wanted!r})' if wanted == 'auto' else f' (not {wanted!r})'
    logger.info(
        f'teacher {name!r} runs at speed {chosen!r}'
        f'{"" if chosen == wanted else why}: {engine.speedup}'
    )
    return engine


def _checked_engine(
    name: str,
    model: nn.Module,
    speedup: Speedup,
    run: RunEngine,
    reference: dict[str, Levels],
    settled: bool,
) -> Engine | None:
    """Return the engine, or None where it differs from the plain model."""
    logger = MMLogger.get_current_instance()
    engine, limit = Engine(model, speedup), LIMITS[speedup.speed]
    try:
        with _largest_output(model) as largest:
            found = relative_differences(reference, run(engine))
    except (RuntimeError, TypeError, AttributeError) as error:
        # Layers of the user's own that know float32 or one layout only.
        logger.warning(
            f'teacher {name!r} does not run with {speedup}; not used'
            f' ({type(error).__name__}: {str(error).splitlines()[0]})'
        )
        return None
    words = ', '.join(f'{tap} {value:.2g}' for tap, value in found.items())
    # Not `>`: NaN is over the limit, too.
    fits = all(value <= limit for value in found.values())
    if speedup.dtype == torch.float16:
        # A later batch may have larger values, which must not overflow.
        fits = fits and max(largest) < torch.finfo(torch.float16).max / 10
        words += f'; values of up to {max(largest):.3g}'
    if not (fits or settled):
        logger.warning(
            f'teacher {name!r} yields something else with {speedup}; not used:'
            f' relative difference {words}; limit {limit:g}'
        )
        return None
    logger.info(f'teacher {name!r}, {speedup}: relative difference {words}')
    return engine


@contextmanager
def _full_float(device: torch.device) -> Iterator[None]:
    """Compare in float32: not in the training's half precision, and not in TF32.

    TF32's rounding is as large as the limit. An engine's own dtype stays.
    """
    tf32 = device.type == 'cuda' and torch.backends.cudnn.allow_tf32
    try:
        if tf32:
            torch.backends.cudnn.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if tf32:
            torch.backends.cudnn.allow_tf32 = True


@contextmanager
def _largest_output(model: nn.Module) -> Iterator[list[float]]:
    """Collect the largest value that each module of a model yields."""
    largest = [0.0]

    def note(module: nn.Module, inputs: object, output: object) -> None:
        values = (t for t in tensors_in(output) if t.is_floating_point() and t.numel())
        largest.extend(float(t.abs().max()) for t in values)

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


def _is_float32(model: nn.Module) -> bool:
    return all(
        p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point()
    )


def relative_differences(
    plain: Mapping[str, Levels], other: Mapping[str, Levels]
) -> dict[str, float]:
    """Return the relative L2 difference of each tap, the largest of its levels."""
    return {
        name: max(_difference(a, b) for a, b in zip(levels, other[name], strict=True))
        for name, levels in plain.items()
    }


def _difference(plain: Level, other: Level) -> float:
    if isinstance(plain, tuple):
        return max(_difference(a, b) for a, b in zip(plain, other, strict=True))
    wanted, found = plain.float(), first_tensor(other).float()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))
