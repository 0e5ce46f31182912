"""Runs a model once and notes what every module yields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ProbeConfig
from ..errors import TapNotFoundError, TapOutputError, nearest_names
from ..heads.model_input import model_input
from ..heads.running import run_features
from ..structures import channels_of, first_tensor, tensors_in
from ..taps import frozen_state, strides_of, to_levels


@dataclass
class ModuleOutput:
    """What one module yielded in one forward.

    Args:
        path: Path of the module: the text of a tap.
        type: Name of its class.
        parameters: Number of its parameters, children included.
        calls: How often it was called.
        shapes: Shape of each level without the batch; for heads, of each level's first
            tensor (the class scores).
        channels: Channels of each level.
        strides: Stride of each level; None for vectors.
        note: Why it is no good as a tap; empty if it is good.
    """

    path: str
    type: str
    parameters: int
    calls: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    channels: tuple[int, ...] = ()
    strides: tuple[int | None, ...] = ()
    note: str = ''

    @property
    def depth(self) -> int:
        """Number of names in the path."""
        return self.path.count('.') + 1


def survey(
    model: nn.Module, size: tuple[int, int], given: ProbeConfig | None = None
) -> list[ModuleOutput]:
    """Run `model` on random numbers; return one entry for each module.

    Args:
        model: The model; it is left as it was.
        size: (H, W) of the images, in pixels.
        given: What a config says of the input, see `ProbeConfig`.

    Returns:
        The entries, in registration order.
    """
    inputs, samples, size = model_input(model, size, given, torch.randn)
    outputs: dict[nn.Module, list[Any]] = {m: [] for m in model.modules()}
    versions: list[tuple[nn.Module, Tensor, int]] = []

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        outputs[module].append(output)
        versions.extend((module, t, t._version) for t in tensors_in(output))

    handles = [m.register_forward_hook(hook) for m in model.modules()]
    try:
        # With gradients, to see where none would flow.
        with frozen_state(model), torch.enable_grad():
            run_features(model, inputs, samples, rehearse=True)
    finally:
        for handle in handles:
            handle.remove()
    overwritten = {module for module, t, version in versions if t._version != version}
    return [
        _describe(path, module, outputs[module], module in overwritten, size)
        for path, module in model.named_modules()
        if path
    ]


def _describe(
    path: str, module: nn.Module, calls: list[Any], overwritten: bool, size: tuple
) -> ModuleOutput:
    parameters = sum(p.numel() for p in module.parameters())
    found = ModuleOutput(path, type(module).__name__, parameters, len(calls))
    if not calls:
        container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
        found.note = f'container, tap {path}.*' if container else 'never called'
        return found
    try:
        levels = tuple(level for call in calls for level in to_levels(path, path, call))
    except TapOutputError:
        found.note = 'yields no levels'
        return found
    tensors = [first_tensor(level) for level in levels]
    found.shapes = [tuple(t.shape[1:]) for t in tensors]
    found.channels = tuple(channels_of(level) for level in levels)
    regions = path.startswith('roi_head.')
    found.strides = (None,) * len(levels) if regions else strides_of(levels, size)
    if overwritten:
        found.note = f'changed in place, tap {path.rpartition(".")[0]}'
    elif not any(t.requires_grad for t in tensors):
        found.note = 'frozen, for a teacher only'
    elif regions:
        found.note = 'of regions, for a student only'
    return found


def select(
    outputs: Sequence[ModuleOutput], depth: int, pattern: str | None
) -> list[ModuleOutput]:
    """Return the entries down to a depth, or those whose path fits a pattern.

    Args:
        outputs: All entries of a model.
        depth: Deepest path to list. A pattern looks at all depths.
        pattern: With `*` or `?` a shell pattern for the whole path, otherwise any part
            of it.

    Raises:
        TapNotFoundError: Nothing fits the pattern.
    """
    if pattern is None:
        return [output for output in outputs if output.depth <= depth]
    glob = pattern if set(pattern) & set('*?[') else f'*{pattern}*'
    found = [output for output in outputs if fnmatch(output.path, glob)]
    if not found:
        raise TapNotFoundError(
            f'no module path fits the filter {pattern!r}',
            actual=pattern,
            available=nearest_names(pattern, [output.path for output in outputs]),
        )
    return found
