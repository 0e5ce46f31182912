"""Reading, setting and preserving the random states of this process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's global generators.

    The states are tensors, numbers and None only, so a checkpoint with them can be read
    with `weights_only=True`. Of the GPUs, only the current device is included.
    """
    version, keys, gauss = random.getstate()
    _, numpy_keys, position, has_gauss, cached = np.random.get_state()
    state = dict(
        python=dict(version=version, keys=torch.tensor(keys), gauss=gauss),
        numpy=dict(
            keys=torch.from_numpy(np.asarray(numpy_keys).astype(np.int64)),
            position=int(position),
            has_gauss=int(has_gauss),
            cached=float(cached),
        ),
        torch=torch.get_rng_state(),
    )
    # Reading the state would initialise CUDA in a process that does not use it.
    if torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore states returned by `random_state`; tensors may be on any device."""
    python, legacy = state['python'], state['numpy']
    keys = tuple(python['keys'].cpu().tolist())
    random.setstate((python['version'], keys, python['gauss']))
    np.random.set_state(
        (
            'MT19937',
            legacy['keys'].cpu().numpy().astype(np.uint32),
            legacy['position'],
            legacy['has_gauss'],
            legacy['cached'],
        )
    )
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def is_random_state(state: Any) -> bool:
    """Return whether a value has the form of what `random_state` returns.

    Args:
        state: Anything, such as a part of a file.
    """
    model = random_state()
    return _has_form(state, model)


def _has_form(value: Any, model: Any) -> bool:
    """Return whether a value has the keys, types and shapes of another one."""
    if isinstance(model, dict):
        return isinstance(value, dict) and all(
            _has_form(value.get(key), one)
            for key, one in model.items()
            if key != 'cuda'  # of another machine, there may be none
        )
    if isinstance(model, torch.Tensor) and isinstance(value, torch.Tensor):
        return value.shape == model.shape and value.dtype == model.dtype
    numbers = (int, float, type(None))
    return isinstance(value, numbers) and isinstance(model, numbers)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore all random states on exit."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
