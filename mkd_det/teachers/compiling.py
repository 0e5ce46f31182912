"""torch.compile for parts of a model that no tap reads from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..taps import Tap

Wanted = Sequence[str] | Mapping[str, Any]


def compile_parts(
    model: nn.Module, wanted: Wanted, taps: Iterable[Tap], where: str
) -> None:
    """Compile modules of `model` in place; its state dict stays as it is.

    Args and errors: see `parts_to_compile`.
    """
    modules, options = parts_to_compile(model, wanted, taps, where)
    for module in modules:
        module.compile(**options)


def parts_to_compile(
    model: nn.Module, wanted: Wanted, taps: Iterable[Tap], where: str
) -> tuple[list[nn.Module], dict[str, Any]]:
    """The modules that `wanted` names, checked, and the options for torch.compile.

    Args:
        model: The model.
        wanted: Paths of modules, or dict(modules=[...], **options of torch.compile).
        taps: What is read from the model.
        where: What the model is, for messages.

    Raises:
        TapNotFoundError: A path names no module.
        ConfigError: A tap reads at or inside of a part: a hook on what is compiled is
            traced with it, and would be traced anew in every step.
    """
    options = dict(wanted) if isinstance(wanted, Mapping) else dict(modules=wanted)
    paths: Any = options.pop('modules', None)
    listed = isinstance(paths, (list, tuple))
    if not listed or not all(isinstance(path, str) for path in paths):
        raise ConfigError(
            f'{where}: `compile` must name modules',
            actual=wanted,
            fix="compile=['backbone.layer1'], or dict(modules=[...], mode=...)",
        )
    parts = [found for path in paths for found in Tap.parse(path).resolve(model)]
    read = [(tap, path) for tap in taps for path, _ in tap.resolve(model)]
    for part, _ in parts:
        for tap, path in read:
            if f'{path}.'.startswith(f'{part}.'):
                raise ConfigError(
                    f'{where}: {part} cannot be compiled: the tap {tap} reads'
                    + (' what it yields' if path == part else ' inside of it'),
                    actual=part,
                    available=_free(model, part, [path for _, path in read]),
                    fix='parts that no tap reads: see `available`',
                )
    return [module for _, module in parts], options


def _free(model: nn.Module, part: str, read: Sequence[str]) -> list[str]:
    """Children of `part` at or inside of which nothing is read."""
    children = [
        f'{part}.{name}' for name, _ in model.get_submodule(part).named_children()
    ]
    return [
        child
        for child in children
        if not any(f'{path}.'.startswith(f'{child}.') for path in read)
    ]
