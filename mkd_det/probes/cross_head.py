"""CrossKD: the student's features through the rest of the teacher's head."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..adapters.base import AdapterOutput
from ..adapters.linear_align import aligners
from ..errors import HeadKindError, ShapeMismatchError, TapNotFoundError
from ..heads.readers.dense import is_dense_head
from ..registry import ADAPTERS
from ..structures import LevelSpec, full_precision
from .base import Probe


@ADAPTERS.register_module()
class CrossHead(Probe):
    r"""Runs features of the student's head through the rest of the teacher's (CrossKD).

    Wang, Chen, Zheng, Li, Cheng, Hou: "CrossKD: Cross-Head Knowledge Distillation for
    Dense Object Detection", CVPR 2024, arXiv 2306.11369: labels and teacher contradict
    each other, and one head of the student cannot follow both. So the output of layer i
    of the student's head goes through the teacher's layers after i, which stay frozen
    and pass the gradient. The result is compared with the teacher's output:

        taps=dict(inner=['bbox_head.cls_convs.2', 'bbox_head.reg_convs.2'],
                  head='bbox_head')
        adapters=dict(cross=dict(
            type='CrossHead', student='inner', teacher='t.inner'))
        terms=dict(loss_cross=dict(
            type='SoftOutputKD', student='cross.student', teacher='t.head'))

    `cross.student` is read as the output of the teacher's head. The tap names the
    layers of each branch after which features enter; the student's layers may be
    others, with as many levels.

    The published code (not the paper) gives each channel of the student the mean and
    the standard deviation that the teacher's has in the batch, before the ReLU:

    .. math:: \hat F = \mathrm{ReLU}\left(\frac{F_s - \mu_s}{\sigma_s} \sigma_t
        + \mu_t\right)

    Here features are read after their activation, which works in place in mmdet's
    heads, and no value becomes smaller than the teacher's smallest (0 after a ReLU);
    `standardise=False` leaves them as they are. Where widths differ, a 1x1 convolution
    comes first; in the paper they are equal.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.
        standardise: Whether channels get the teacher's mean and standard deviation.

    Shape:
        - student: maps (N, C_s, H, W), all levels of the first branch, then of the next
        - teacher: maps (N, C_t, H, W) likewise
        - output: levels of the student as the teacher's head yields them, a tuple each
    """

    yields: ClassVar[tuple[str, ...]] = ('student',)

    def __init__(
        self,
        student: Sequence[LevelSpec],
        teacher: Sequence[LevelSpec],
        standardise: bool = True,
    ) -> None:
        super().__init__(student, teacher)
        sizes = [[spec.size for spec in side] for side in (student, teacher)]
        if sizes[0] != sizes[1] or any(len(size) != 2 for size in sizes[0]):
            raise ShapeMismatchError(
                'CrossHead: student and teacher must yield maps of equal size, level by'
                ' level',
                expected=f'{len(teacher)} levels: ' + ' '.join(map(str, teacher)),
                actual=f'{len(student)} levels: ' + ' '.join(map(str, student)),
                fix='a tap of one layer of every branch on both sides, such as'
                " inner=['bbox_head.cls_convs.2', 'bbox_head.reg_convs.2'], and"
                ' teachers.<name>.taps where it has others; where the pyramids differ,'
                ' SoftOutputKD on the whole heads, which matches levels by stride',
            )
        self.standardise = standardise
        widths = [(s.channels, t.channels) for s, t in zip(student, teacher)]
        # A mean that is taken away again needs no bias.
        self.aligners = aligners(widths, bias=not standardise)
        self._rest: RestOfHead | None = None

    @property
    def head(self) -> nn.Module | None:
        """The teacher's head."""
        return None if self._rest is None else self._rest.head

    @classmethod
    def suggest_taps(cls, model: nn.Module) -> tuple[str, ...]:
        """Return the layer before the last one of each branch of the dense head."""
        for name, head in model.named_modules():
            branches = [
                f'{name}.{key}.{_layer_before_last(child)}'
                for key, child in head.named_children()
                if is_dense_head(head) and key.endswith(('cls_convs', 'reg_convs'))
            ]
            if branches:
                return tuple(branches)
        return ()

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Find the teacher's head and take off the layers up to the tap."""
        if tap.inputs:
            raise TapNotFoundError(
                f'{where}: features enter after a layer, not before it',
                actual=str(tap),
                fix='the layer before: bbox_head.cls_convs.1, not ...2:in',
            )
        paths = [path for path, _ in tap.resolve(teacher)]
        self._rest = RestOfHead(teacher, paths, where)
        self._rest.check([spec.size for spec in self.teacher_specs], where)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Run the rest of the teacher's head on the student's features."""
        levels = [
            aligner(level)
            for aligner, level in zip(self.aligners, student, strict=True)
        ]
        if self.standardise:
            levels = [restyled(s, t.detach()) for s, t in zip(levels, teacher)]
        assert self._rest is not None
        return AdapterOutput(self._rest(levels), (), {})


def restyled(student: Tensor, teacher: Tensor, eps: float = 1e-6) -> Tensor:
    """Give each channel of maps (N, C, H, W) the teacher's mean and deviation."""
    # In half precision the gradient of a rarely active channel overflows.
    student, teacher = full_precision(student), full_precision(teacher)
    dims = (0, 2, 3)
    (s_mean, t_mean), (s_std, t_std) = (
        [x.mean(dims, keepdim=True) for x in (student, teacher)],
        [
            x.var(dims, keepdim=True, correction=0).add(eps).sqrt()
            for x in (student, teacher)
        ],
    )
    return ((student - s_mean) / s_std * t_std + t_mean).clamp_min(teacher.min())


class RestOfHead:
    """A dense head without its first layers; shares the others with the teacher.

    It is no module of the adapter, and copies of the adapter share it, as they share
    the teachers.

    Args:
        teacher: The teacher.
        paths: Layers after which features enter, one for each branch (and level, where
            levels have layers of their own).
        where: Name of the adapter, for messages.
    """

    def __init__(self, teacher: nn.Module, paths: Sequence[str], where: str) -> None:
        modules = dict(teacher.named_modules())
        name = next(
            (n for n in _parents(paths[0]) if is_dense_head(modules.get(n))), None
        )
        if name is None:
            raise HeadKindError(
                f'{where}: {paths[0]} of the teacher is in no dense head',
                expected='layers of a head such as GFLHead, RetinaHead, FCOSHead',
                available=[n for n, m in modules.items() if is_dense_head(m)],
                fix="type='SoftOutputKD' on the whole heads, without this adapter",
            )
        self.head: Any = modules[name]
        self.paths = paths
        self.modules = {path: modules[path] for path in paths}
        self.entries: list[_Entry] = []
        view = self.head
        for path in paths:
            entry = _Entry()
            parent = modules[path.rpartition('.')[0]]
            if not isinstance(parent, (nn.ModuleList, nn.Sequential)):
                raise TapNotFoundError(
                    f'{where}: {path} of the teacher is no layer in a list of layers',
                    actual=f'{path.rpartition(".")[0]} is a {type(parent).__name__}',
                    available=[
                        n
                        for n, m in modules.items()
                        if n.startswith(name) and isinstance(m, nn.ModuleList)
                    ],
                )
            view = _without_first(view, path.removeprefix(f'{name}.'), entry)
            self.entries.append(entry)
        self.view = view

    def __call__(self, levels: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
        """Run the rest of the head on features, given branch by branch."""
        each = len(levels) // len(self.entries)
        # The entries replace the features; the head only counts them.
        count = self.head.prior_generator.num_levels
        try:
            for index, entry in enumerate(self.entries):
                entry.levels = list(levels[index * each : (index + 1) * each])
            return tuple(zip(*self.view(tuple(levels[:count])), strict=True))
        finally:
            for entry in self.entries:
                entry.levels = []

    def check(self, sizes: Sequence[tuple[int, ...]], where: str) -> None:
        """Raise unless the rest, on the head's own features, yields what the head does.

        Args:
            sizes: (H, W) of the levels that the tap yields.
            where: Name of the adapter, for messages.

        Raises:
            HeadKindError: It does not: a branch is not tapped, for example.
        """
        parameter = next(self.head.parameters())
        count = self.head.prior_generator.num_levels
        width = self.head.in_channels  # SSD has one for each level
        widths = [width] * count if isinstance(width, int) else list(width)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            given = tuple(
                torch.randn(1, channels, *size).to(parameter)
                for channels, size in zip(widths, sizes)
            )
            whole, inner = self._watched(given)
            try:
                rest = self(inner)
            except IndexError:  # a layer is called more often than it is tapped
                rest = ()
        wanted = tuple(zip(*whole, strict=True))
        same = len(rest) == len(wanted) and all(
            torch.equal(a, b)
            for one, other in zip(rest, wanted)
            for a, b in zip(one, other)
        )
        if not same:
            raise HeadKindError(
                f"{where}: on its own features the rest of the teacher's head does not"
                ' yield what the whole head yields',
                expected='a tap of one layer of every branch, the same in all',
                actual=', '.join(self.paths),
                fix="type='SoftOutputKD' on the whole heads, without this adapter",
            )

    def _watched(self, given: tuple[Tensor, ...]) -> tuple[Any, list[Tensor]]:
        """Return the output of the head, and those of its tapped layers."""
        seen: dict[str, list[Tensor]] = {path: [] for path in self.paths}
        handles = [
            self.modules[path].register_forward_hook(
                lambda _, args, output, path=path: seen[path].append(output)
            )
            for path in self.paths
        ]
        try:
            whole = self.head(given)
        finally:
            for handle in handles:
                handle.remove()
        return whole, [level for path in self.paths for level in seen[path]]

    def __deepcopy__(self, memo: dict) -> RestOfHead:
        return self


class _Entry(nn.Module):
    """Stands for a layer and yields the given features, one level for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[Tensor] = []

    def forward(self, _: Tensor) -> Tensor:
        return self.levels.pop(0)


def _layer_before_last(branch: nn.Module) -> str:
    """Return the path in a branch; with `*` where each level has layers of its own."""
    layers = list(branch.children())
    if layers and isinstance(layers[0], (nn.ModuleList, nn.Sequential)):
        return f'*.{_layer_before_last(layers[0])}'
    return str(max(len(layers) - 2, 0))


def _parents(path: str) -> list[str]:
    """Return the paths of a module's parents, the nearest first."""
    parts = path.split('.')
    return ['.'.join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _without_first(module: nn.Module, path: str, entry: nn.Module) -> nn.Module:
    """Copy a module so that all layers are shared but those up to `path`.

    In the list of layers that `path` lies in, an entry stands for the layer at `path`,
    and those before it do nothing.
    """
    name, _, rest = path.partition('.')
    view = copy(module)
    view._modules = dict(module._modules)
    if rest:
        view._modules[name] = _without_first(module._modules[name], rest, entry)  # type: ignore[arg-type]
        return view
    for key in module._modules:
        view._modules[key] = nn.Identity()
        if key == name:
            view._modules[key] = entry
            return view
    raise KeyError(path)
