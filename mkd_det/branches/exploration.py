"""The exploration module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..errors import ConfigError, TapNotFoundError, nearest_names
from ..functional import decorrelation
from ..registry import BRANCHES
from ..structures import Levels, full_precision
from .base import Branch


class ParallelLinear(nn.Module):
    """A linear layer and, beside it, a second one of the same kind.

    It stands where the first one stood, and says of itself what the first one says
    (`kernel_size`, `in_features`, ...). Whoever reads `weight` gets the sum: what a
    single layer would need to do the same.

    Args:
        inherit: The layer that stood here, the very same object.

    Shape:
        - input, output: as those of the layer
    """

    def __init__(self, inherit: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        for name in inherit.__constants__:
            setattr(self, name, getattr(inherit, name))
        self.inherit = inherit
        self.explore = _twin(inherit)
        nn.init.zeros_(self.explore.weight)  # the sum is what the layer alone gives
        self.train(inherit.training)

    @property
    def weight(self) -> Tensor:
        """Weight of the single layer that does the same."""
        return self.inherit.weight + self.explore.weight

    @property
    def bias(self) -> Tensor | None:
        """Bias of the single layer that does the same."""
        return self.inherit.bias

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        return self.inherit(x) + self.explore(x)


@BRANCHES.register_module()
class ExplorationBranch(Branch):
    r"""The student may find out what the teacher does not know.

    Min, Wang: "Integrating Knowledge Distillation of Multiple Strategies": "adds an
    exploration module ... the student not only inherits the knowledge of the teacher
    but also explores some new knowledge and characteristics". Only the abstract can be
    had; this is our reading of it. Beside linear layers of the student stand parallel
    ones, started at zero. The task sees inherit + explore; terms that read
    `<branch>.inherit` see inherit alone. A loss, the squared cosine between the two
    outputs,

    .. math:: \frac{1}{NHW} \sum_p \cos^2(\text{inherit}_p, \text{explore}_p),

    (each centred over channels) keeps what is explored new. It moves the explored part
    only: the inherited one is detached, because what it should be is the teacher's
    business. Both parts being linear, the exported student has one layer with the sum
    of the weights: the stock architecture, at no cost, with equal predictions.

    Args:
        on: Path of a linear layer (`nn.Conv2d`, `nn.Linear`) of the student, or of a
            module all of whose linear layers are meant; or a list of paths.
        decorrelation: Weight of the loss; 0 leaves it out.

    Shape:
        - taps: 'inherit', 'explore': a level for each layer, of the layer's output
          shape
        - losses: dict(decorrelation=())
    """

    def __init__(self, on: str | Sequence[str], decorrelation: float = 0.1) -> None:
        self.on = (on,) if isinstance(on, str) else tuple(on)
        if not self.on:
            raise ConfigError(
                'ExplorationBranch: `on` names no module', fix="on='neck.fpn_convs'"
            )
        if not decorrelation >= 0:
            raise ConfigError(
                'ExplorationBranch: decorrelation must be a number >= 0',
                actual=decorrelation,
            )
        self.decorrelation = float(decorrelation)
        self.attached = False
        self._student: nn.Module | None = None
        self._layers: list[ParallelLinear] = []
        # For each layer, every path to it: some heads share layers over levels.
        self._paths: list[tuple[str, ...]] = []

    def attach(self, student: nn.Module) -> None:
        """Put the parallel layers into the student; the same ones each time."""
        if self._student is not student:
            self.detach()
            found = _linear_layers(student, self.on)
            self._layers = [ParallelLinear(layer) for layer in found]
            self._paths = [_paths_of(layer, student) for layer in found]
            self._student = student
        if not self.attached:
            self._replace(dict(self._pairs()))
            self.attached = True

    def detach(self) -> None:
        """Put the student's own layers back, the very same objects."""
        if self.attached:
            self._replace({paths: layer.inherit for paths, layer in self._pairs()})
            self.attached = False

    def taps(self) -> dict[str, tuple[str, ...]]:
        """Both parts, a level for each layer in the order of registration."""
        first = [paths[0] for paths in self._paths]
        return {
            'inherit': tuple(f'{path}.inherit' for path in first),
            'explore': tuple(f'{path}.explore' for path in first),
        }

    def losses(self, levels: dict[str, Levels]) -> dict[str, Tensor]:
        """The decorrelation, in float32, mean over layers."""
        if self.decorrelation == 0:
            return {}
        parts = [
            decorrelation(full_precision(inherit.detach()), full_precision(explore))  # type: ignore
            for inherit, explore in zip(
                levels['inherit'], levels['explore'], strict=True
            )
        ]
        return {'decorrelation': self.decorrelation * torch.stack(parts).mean()}

    def fold(self, state: dict[str, Tensor]) -> None:
        """Sum both weights, in place, into the plain student's layer.

        Where nothing was explored the sum is the layer's own weight, the very
        same tensor: mmengine's averaged models write into what a state dict gave
        them once, before training.
        """
        renamed: dict[str, Tensor] = {}
        explored = {f'{path}.explore.weight' for path in self._all_paths()}
        prefixes = {f'{path}.inherit.': f'{path}.' for path in self._all_paths()}
        for key, value in state.items():
            owner, _, name = key.rpartition('.')
            if key in explored:
                continue
            plain = prefixes.get(f'{owner}.')
            other = state.get(f'{plain}explore.weight') if plain else None
            if name == 'weight' and other is not None and other.any():
                value = value + other
            renamed[f'{plain}{name}' if plain else key] = value
        _refill(state, renamed)

    def unfold(self, state: dict[str, Tensor]) -> None:
        """Turn a plain state dict, in place, into one with explorations at zero."""
        renamed: dict[str, Tensor] = {}
        known = set(self._all_paths())
        for key, value in state.items():
            owner, _, name = key.rpartition('.')
            if owner not in known:
                renamed[key] = value
                continue
            renamed[f'{owner}.inherit.{name}'] = value
            if name == 'weight':
                renamed[f'{owner}.explore.weight'] = torch.zeros_like(value)
        _refill(state, renamed)

    def _pairs(self) -> list[tuple[tuple[str, ...], ParallelLinear]]:
        return list(zip(self._paths, self._layers))

    def _all_paths(self) -> list[str]:
        if self._student is None:
            raise ConfigError(
                'ExplorationBranch: not attached to a student yet',
                fix='branch.attach(student)',
            )
        return [path for paths in self._paths for path in paths]

    def _replace(self, modules: dict[tuple[str, ...], nn.Module]) -> None:
        """Put modules at all of their paths, as found in the student right now."""
        assert self._student is not None
        for paths, module in modules.items():
            for path in paths:
                parent, _, name = path.rpartition('.')
                setattr(self._student.get_submodule(parent), name, module)


def _linear_layers(
    student: nn.Module, on: Sequence[str]
) -> list[nn.Conv2d | nn.Linear]:
    """Linear layers at or below the paths, each once, in order."""
    modules = {n: m for n, m in student.named_modules(remove_duplicate=False) if n}
    found: dict[int, nn.Conv2d | nn.Linear] = {}
    for path in on:
        if path not in modules:
            raise TapNotFoundError(
                f'ExplorationBranch: the student has no module {path!r}',
                actual=path,
                available=nearest_names(path, modules),
                fix="on='...', a module of convolutions of this student; or leave the"
                ' branch out,\nand what terms read of it',
            )
        below = list(modules[path].modules())
        if any(isinstance(module, ParallelLinear) for module in below):
            raise ConfigError(
                f'ExplorationBranch: {path!r} has an exploration already',
                fix='one branch, on=[...all of the paths...]',
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


def _is_linear(module: nn.Module) -> bool:
    # By exact type: a subclass (weight standardisation, deformable, quantised) need
    # not be linear in its weight, and then could not be folded.
    return type(module) in (nn.Conv2d, nn.Linear)


def _paths_of(layer: nn.Module, student: nn.Module) -> tuple[str, ...]:
    every = student.named_modules(remove_duplicate=False)
    return tuple(name for name, module in every if module is layer)


def _twin(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """A layer of the same kind without bias; draws no random numbers."""
    weight = layer.weight
    place = dict(device=weight.device, dtype=weight.dtype)
    if isinstance(layer, nn.Linear):
        return skip_init(
            nn.Linear, layer.in_features, layer.out_features, bias=False, **place
        )
    return skip_init(
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
        **place,
    )


def _refill(state: dict[str, Tensor], renamed: dict[str, Tensor]) -> None:
    # In place, because a state dict carries its `_metadata` as an attribute.
    state.clear()
    state.update(renamed)
