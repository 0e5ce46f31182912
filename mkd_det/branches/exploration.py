"""The exploration module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..functional import decorrelation
from ..registry import BRANCHES
from ..structures import Levels, full_precision
from .base import Branch
from .parallel_linear import ParallelLinear, linear_layers, paths_of


@BRANCHES.register_module()
class ExplorationBranch(Branch):
    r"""Adds parallel layers in which the student learns what the teacher cannot teach.

    Min, Wang: "Integrating Knowledge Distillation of Multiple Strategies": "adds an
    exploration module ... the student not only inherits the knowledge of the teacher
    but also explores some new knowledge and characteristics". Only the abstract is
    available; this is our reading of it. Each linear layer gets a parallel one, started
    at zero. The task uses inherit + explore; terms that read `<branch>.inherit` use
    the inherited part only. The loss of the branch is the mean squared cosine between
    the two outputs, each centred over channels:

    .. math:: \frac{1}{NHW} \sum_p \cos^2(\text{inherit}_p, \text{explore}_p)

    It keeps explored features different from inherited ones. Only the explored part is
    trained by it: the inherited part is detached, because terms align it with the
    teacher. Both parts are linear, so the exported student has a single layer with the
    sum of the weights: the original architecture with equal predictions.

    Args:
        on: Path of a linear layer (`nn.Conv2d`, `nn.Linear`) of the student, or of a
            module, which means all linear layers in it; or a list of paths.
        decorrelation: Weight of the loss; 0 turns it off.

    Shape:
        - taps: 'inherit', 'explore': one level per layer, shaped as the layer's output
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
                fix='decorrelation=0.1',
            )
        self.decorrelation = float(decorrelation)
        self.attached = False
        self._student: nn.Module | None = None
        self._layers: list[ParallelLinear] = []
        # All paths of each layer: some heads share layers over levels.
        self._paths: list[tuple[str, ...]] = []

    def attach(self, student: nn.Module) -> None:
        """Put the parallel layers into the student; the same ones each time."""
        if self._student is not student:
            self.detach()
            found = linear_layers(student, self.on)
            self._layers = [ParallelLinear(layer) for layer in found]
            self._paths = [paths_of(layer, student) for layer in found]
            self._student = student
        if not self.attached:
            self._replace(dict(self._pairs()))
            self.attached = True

    def detach(self) -> None:
        """Put the student's original layers back."""
        if self.attached:
            self._replace({paths: layer.inherit for paths, layer in self._pairs()})
            self.attached = False

    def taps(self) -> dict[str, tuple[str, ...]]:
        """Return the paths of both parts, one level per layer."""
        first = [paths[0] for paths in self._paths]
        return {
            'inherit': tuple(f'{path}.inherit' for path in first),
            'explore': tuple(f'{path}.explore' for path in first),
        }

    def losses(self, levels: dict[str, Levels]) -> dict[str, Tensor]:
        """Return the decorrelation loss in float32, mean over layers."""
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
        """Turn a state dict, in place, into the plain student's by summing weights.

        Where the explored weight is zero, the plain weight stays the same tensor:
        mmengine's averaged models write into the tensors that a state dict gave them
        before training.
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
        _replace_items(state, renamed)

    def unfold(self, state: dict[str, Tensor]) -> None:
        """Turn a plain state dict, in place, into one with explored weights of zero."""
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
        _replace_items(state, renamed)

    def _pairs(self) -> list[tuple[tuple[str, ...], ParallelLinear]]:
        return list(zip(self._paths, self._layers))

    def _all_paths(self) -> list[str]:
        if self._student is None:
            raise ConfigError(
                'ExplorationBranch: not attached to a student',
                fix='branch.attach(student)',
            )
        return [path for paths in self._paths for path in paths]

    def _replace(self, modules: dict[tuple[str, ...], nn.Module]) -> None:
        """Put each module at all of its paths in the student."""
        assert self._student is not None
        for paths, module in modules.items():
            for path in paths:
                # Looked up each time: SyncBN conversion replaces parent modules.
                parent, _, name = path.rpartition('.')
                setattr(self._student.get_submodule(parent), name, module)


def _replace_items(state: dict[str, Tensor], renamed: dict[str, Tensor]) -> None:
    # In place, because a state dict carries its `_metadata` as an attribute.
    state.clear()
    state.update(renamed)
