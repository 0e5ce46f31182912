"""Non-linear feature alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError, ShapeMismatchError, TapNotFoundError, nearest_names
from ..functional import softmax_kl
from ..registry import ADAPTERS
from ..structures import LevelSpec, full_precision
from .base import Adapter, AdapterOutput, FrozenModule, apply_to_map, group_norm


@ADAPTERS.register_module()
class NonLinearAlign(Adapter):
    r"""Leads the student's features into the teacher's space, not linearly.

    Zhang et al.: "Enhancement of Knowledge Distillation via Non-Linear Feature
    Alignment", Optical Memory and Neural Networks 32(4), 2023,
    10.3103/S1060992X23040136: "non-linear
    feature alignment (FA) after the feature extraction stage", for one teacher or
    several, on top of other losses. Only the abstract can be had; our reading: per
    level

    .. math:: A(F_s) = W_2 \, \mathrm{GELU}(\mathrm{norm}(W_1 F_s))

    with 1x1 convolutions (linear layers, on vectors) and the teacher's width. One
    adapter a teacher; the terms that read them have a weight each, or
    `teacher_weights` weighs them by sample.

    With `reuse_classifier` the aligned features also go through the frozen teacher's
    own classifier, whose logits are to be the teacher's:
    :math:`\tau^2 \mathrm{KL}(p_t \| p_A)`, logged as `loss_<adapter>_logits`. So the
    classifier tells which directions matter. Gradients pass through it; it learns
    nothing.

    The norm is GroupNorm over at least 8 channels, as in `GuidanceLayer`, for the
    reasons given there.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.
        hidden: Width between the layers; None for the teacher's.
        reuse_classifier: Module of the teacher that makes logits (N, K) of what its
            tap yields, 'head'; True for the teacher's only linear layer; None for none.
            The tap must then yield vectors (`head:in`).
        tau: Temperature of the classifier's loss.
        weight: Weight of the classifier's loss.

    Shape:
        - student: per level (N, C_s, H, W), (N, L, C_s) or (N, C_s)
        - teacher: per level (N, C_t, ...) likewise
        - output: student's levels with C_t channels, the teacher's as they are;
          losses: dict(logits=(N,)) with `reuse_classifier`
    """

    def __init__(
        self,
        student: Sequence[LevelSpec],
        teacher: Sequence[LevelSpec],
        hidden: int | None = None,
        reuse_classifier: str | bool | None = None,
        tau: float = 4.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher)
        if len(student) != len(teacher):
            raise ShapeMismatchError(
                'NonLinearAlign: student and teacher yield different numbers of levels',
                expected=f'{len(teacher)} levels',
                actual=f'{len(student)} levels',
                fix="taps=dict(feature='head:in')",
            )
        if (hidden is not None and hidden < 2) or not tau > 0 or not weight >= 0:
            raise ConfigError(
                'NonLinearAlign: hidden must be 2 or more, tau above 0, weight >= 0',
                actual=(hidden, tau, weight),
            )
        self.aligners = nn.ModuleList(
            aligner(s.channels, hidden or t.channels, t.channels)
            for s, t in zip(student, teacher, strict=True)
        )
        self.reuse_classifier, self.tau, self.weight = reuse_classifier, tau, weight
        self.classifier: FrozenModule | None = None

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Find the classifier to be reused."""
        if self.reuse_classifier is None or self.reuse_classifier is False:
            return
        path = self.reuse_classifier
        known = [n for n, m in teacher.named_modules() if isinstance(m, nn.Linear)]
        if path is True and len(known) == 1:
            path = known[0]
        modules = dict(teacher.named_modules())
        if path is True or path not in modules:
            raise TapNotFoundError(
                f'{where}: reuse_classifier names no module of the teacher',
                actual=path,
                available=nearest_names(str(path), known, limit=8),
                fix="reuse_classifier='head'",
            )
        module = modules[path]
        width = getattr(module, 'in_features', None)
        channels = [spec.channels for spec in self.teacher_specs]
        maps = any(len(spec.size) == 2 for spec in self.teacher_specs)
        if width is not None and (maps or channels != [width]):
            raise ShapeMismatchError(
                f'{where}: {path} of the teacher does not read what its tap yields',
                expected=f'one level of {width} channels, no map',
                actual=f'levels of {channels} channels' + (', maps' if maps else ''),
                fix=f"taps=dict(feature='{path}:in')",
            )
        self.classifier = FrozenModule(module)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Align the student's levels."""
        levels = tuple(
            apply_to_map(module, level)
            for module, level in zip(self.aligners, student, strict=True)
        )
        teacher = tuple(level.detach() for level in teacher)
        losses = {}
        if self.classifier is not None:
            ours, theirs = self.classifier(levels[-1]), self.classifier(teacher[-1])
            kl = softmax_kl(full_precision(ours), full_precision(theirs), self.tau)
            losses['logits'] = self.weight * kl
        return AdapterOutput(levels, teacher, losses)


def aligner(channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    """1x1 conv, norm, GELU, 1x1 conv."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False),
        group_norm(hidden),
        nn.GELU(),
        nn.Conv2d(hidden, out_channels, 1),
    )
