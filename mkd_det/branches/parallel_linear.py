"""A linear layer with a trainable parallel layer, and where such layers can go."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..errors import ConfigError, TapNotFoundError, nearest_names

Linear = nn.Conv2d | nn.Linear


class ParallelLinear(nn.Module):
    """A linear layer plus a second one of the same kind, started at zero.

    It replaces the first layer in the model and has its attributes (`kernel_size`,
    `in_features`, ...). `weight` is the sum of both weights: the weight of the single
    layer that computes the same.

    Args:
        inherit: The layer that is replaced. The same object is kept.

    Shape:
        - input, output: as for `inherit`
    """

    def __init__(self, inherit: Linear) -> None:
        super().__init__()
        for name in inherit.__constants__:
            setattr(self, name, getattr(inherit, name))
        self.inherit = inherit
        self.explore = _zero_twin(inherit)
        self.train(inherit.training)

    @property
    def weight(self) -> Tensor:
        """Weight of the single layer that computes the same."""
        return self.inherit.weight + self.explore.weight

    @property
    def bias(self) -> Tensor | None:
        """Bias of the single layer that computes the same."""
        return self.inherit.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both layers' outputs."""
        return self.inherit(x) + self.explore(x)


def linear_layers(student: nn.Module, on: Sequence[str]) -> list[Linear]:
    """Return the linear layers at or below the given paths, each once, in order.

    Args:
        student: The model.
        on: Paths of modules.

    Raises:
        TapNotFoundError: The model has no module of that path.
        ConfigError: A module has parallel layers already, or no linear layer.
    """
    modules = {n: m for n, m in student.named_modules(remove_duplicate=False) if n}
    found: dict[int, Linear] = {}
    for path in on:
        if path not in modules:
            raise TapNotFoundError(
                f'ExplorationBranch: the student has no module {path!r}',
                actual=path,
                available=nearest_names(path, modules),
                fix="on='...' with a module of this student that has convolutions; or"
                ' remove the branch\nand the terms that read it',
            )
        below = list(modules[path].modules())
        if any(isinstance(module, ParallelLinear) for module in below):
            raise ConfigError(
                f'ExplorationBranch: another branch is already on {path!r}',
                fix='one branch with all paths: on=[...]',
            )
        layers = {id(module): module for module in below if _is_linear(module)}
        if not layers:
            linear = [name for name, module in modules.items() if _is_linear(module)]
            raise ConfigError(
                f'ExplorationBranch: no linear layer at or below {path!r}',
                expected='nn.Conv2d or nn.Linear',
                actual=type(modules[path]).__name__,
                available=nearest_names(path, linear),
            )
        found |= layers
    return list(found.values())


def paths_of(layer: nn.Module, student: nn.Module) -> tuple[str, ...]:
    """Return every path at which the model has this layer."""
    every = student.named_modules(remove_duplicate=False)
    return tuple(name for name, module in every if module is layer)


def _is_linear(module: nn.Module) -> bool:
    # By exact type: a subclass (weight standardisation, deformable, quantised) may not
    # be linear in its weight, and then could not be folded.
    return type(module) in (nn.Conv2d, nn.Linear)


def _zero_twin(layer: Linear) -> Linear:
    """Return a layer of the same kind with zero weights and no bias.

    Draws no random numbers.
    """
    weight = layer.weight
    where = dict(device=weight.device, dtype=weight.dtype)
    twin: Linear
    if isinstance(layer, nn.Linear):
        twin = skip_init(
            nn.Linear, layer.in_features, layer.out_features, bias=False, **where
        )
    else:
        twin = skip_init(
            nn.Conv2d,
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            padding_mode=layer.padding_mode,
            bias=False,
            **where,
        )
    nn.init.zeros_(twin.weight)
    return twin
