"""Choose how a teacher runs, on the first batch, and prove that it yields the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from mmengine.dist import all_gather_object, broadcast_object_list
from mmengine.logging import MMLogger
from torch import nn

from ..structures import Level, Levels, first_tensor, tensors_in
from .engine import Engine, Speedup, accelerate, half_type
from .norm_pairs import NormPairs

# Largest relative L2 difference of a tap from the plain teacher's. Folding costs some
# 1e-6, bfloat16 0.006 to 0.01 on trained detectors.
LIMITS = {'exact': 1e-3, 'fast': 0.03}

# 'auto' takes half precision only where it saves at least a tenth.
WORTHWHILE = 0.9

RunEngine = Callable[[Engine], dict[str, Levels]]


def choose_engine(
    name: str,
    model: nn.Module,
    speed: str,
    pairs: NormPairs,
    run: RunEngine,
    single_rank: bool = False,
) -> Engine:
    """Make the engine of one teacher, on the first batch, and log what it is.

    An engine that cannot be made, or differs too much from the plain model, is not
    used: 'fast' falls back to 'exact', 'exact' to the model as it is.

    Args:
        name: The teacher's name.
        model: The teacher.
        speed: What the config wants, of `SPEEDS`. 'auto' means 'exact' where
            deterministic algorithms are asked for: no clock decides then.
        pairs: What can be folded, see `NormPairFinder`.
        run: Runs an engine on the batch.
        single_rank: Whether other ranks may not be here: they are not asked then, and
            'auto' means 'exact'.
    """
    plain, wanted = Engine(model, Speedup('off')), speed
    if speed == 'off':
        return plain
    deterministic = torch.are_deterministic_algorithms_enabled()
    if speed == 'auto' and (single_rank or deterministic):
        speed = 'exact'
    device = next(model.parameters()).device
    half = half_type(device) if _is_float32(model) else None
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
            copy = accelerate(model, speedup)
            engine = _checked_engine(name, copy, speedup, run, reference)
        accepted = engine is not None
        # All ranks or none: they learn from one teacher.
        if not single_rank:
            accepted = all(all_gather_object(accepted))
        if accepted and engine is not None:
            engines.append(engine)
    if len(engines) == 2:
        engines = [_faster_engine(engines[0], engines[1], run)]
    engine = engines[0] if engines else plain
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
) -> Engine | None:
    """Return the engine, or None where it differs from the plain model."""
    logger = MMLogger.get_current_instance()
    engine, limit = Engine(model, speedup), LIMITS[speedup.speed]
    try:
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
        fits = fits and _largest(reference) < torch.finfo(torch.float16).max / 10
    if not fits:
        logger.warning(
            f'teacher {name!r} yields something else with {speedup}; not used:'
            f' relative difference {words}; limit {limit:g}'
        )
        return None
    logger.info(f'teacher {name!r}, {speedup}: relative difference {words}')
    return engine


def _faster_engine(fast: Engine, exact: Engine, run: RunEngine) -> Engine:
    """Return the faster of two engines; rank 0 measures for all."""
    seconds = [min(_seconds(engine, run) for _ in range(2)) for engine in (fast, exact)]
    choice = [seconds[0] < WORTHWHILE * seconds[1]]
    broadcast_object_list(choice)
    return fast if choice[0] else exact


def _seconds(engine: Engine, run: RunEngine) -> float:
    start = time.perf_counter()
    level = next(iter(run(engine).values()))[0]
    # Reading one number waits for the device.
    float(first_tensor(level).flatten()[0])
    return time.perf_counter() - start


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


def _largest(levels: Mapping[str, Levels]) -> float:
    return max(float(t.abs().max()) for t in tensors_in(list(levels.values())))


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
