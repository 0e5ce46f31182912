"""Non-linear feature alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError, ShapeMismatchError, TapNotFoundError, nearest_names
from ..functional import softmax_kl
from ..registry import ADAPTERS
from ..structures import LevelSpec, full_precision
from .base import (
    Adapter,
    AdapterOutput,
    FrozenModule,
    apply_to_map,
    check_level_counts,
    group_norm,
)


@ADAPTERS.register_module()
class NonLinearAlign(Adapter):
    r"""Maps the student's features to the teacher's space with a small MLP per level.

    Zhang et al.: "Enhancement of Knowledge Distillation via Non-Linear Feature
    Alignment", Optical Memory and Neural Networks 32(4), 2023, doi
    10.3103/S1060992X23040136: "non-linear feature alignment (FA) after the feature
    extraction stage", for one or several teachers, in addition to other losses. Only
    the abstract is available. Our reading, per level:

    .. math:: A(F_s) = W_2 \, \mathrm{GELU}(\mathrm{norm}(W_1 F_s))

    with 1x1 convolutions (linear layers for vectors) and the teacher's width. With
    several teachers, use one adapter for each; give the terms that read them a weight
    each, or let `teacher_weights` weight them by sample.

    With `reuse_classifier` the aligned features also pass through the frozen
    classifier of the teacher, and its logits are compared with the teacher's:
    :math:`\tau^2 \mathrm{KL}(p_t \| p_A)`, logged as `loss_<adapter>_logits`. This
    weights the feature directions by their importance for the classes. Gradients
    pass through the classifier; its parameters are not trained.

    The norm is GroupNorm with at least 8 channels per group; `GuidanceLayer` gives
    the reasons.

    Args:
        student: Shape of each level that the student's tap yields.
        teacher: Shape of each level that the teacher's tap yields.
        hidden: Width between the two layers. None: the teacher's width.
        reuse_classifier: Path of the teacher's module that turns its tapped features
            into logits (N, K), for example 'head'. True: the teacher's only linear
            layer. None: no classifier. The tap must yield vectors (`head:in`).
        tau: Temperature of the classifier's loss.
        weight: Weight of the classifier's loss.

    Shape:
        - student: per level (N, C_s, H, W), (N, L, C_s) or (N, C_s)
        - teacher: per level (N, C_t, ...) likewise
        - output: the student's levels with C_t channels, the teacher's unchanged;
          losses: dict(logits=(N,)) with `reuse_classifier`

    Raises:
        ShapeMismatchError: Student and teacher have different numbers of levels, or
            the classifier does not fit the teacher's tap.
        TapNotFoundError: The teacher has no module `reuse_classifier`.
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
        check_level_counts('NonLinearAlign', student, teacher)
        if (hidden is not None and hidden < 2) or not tau > 0 or not weight >= 0:
            raise ConfigError(
                'NonLinearAlign: hidden must be >= 2, tau > 0 and weight >= 0',
                actual=(hidden, tau, weight),
                fix='hidden=None, tau=4.0, weight=1.0',
            )
        self.aligners = nn.ModuleList(
            aligner(s.channels, hidden or t.channels, t.channels)
            for s, t in zip(student, teacher, strict=True)
        )
        self.reuse_classifier, self.tau, self.weight = reuse_classifier, tau, weight
        self.classifier: FrozenModule | None = None

    def bind(self, teacher: nn.Module, tap: Any, where: str) -> None:
        """Look up the teacher's classifier, if one is reused."""
        if self.reuse_classifier is None or self.reuse_classifier is False:
            return
        path = self.reuse_classifier
        known = [n for n, m in teacher.named_modules() if isinstance(m, nn.Linear)]
        if path is True and len(known) == 1:
            path = known[0]
        modules = dict(teacher.named_modules())
        if path is True or path not in modules:
            raise TapNotFoundError(
                f'{where}: the teacher has no module for reuse_classifier',
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
                f'{where}: the tapped features do not fit the input of {path}',
                expected=f'one level, vectors of {width} channels',
                actual=f'levels of {channels} channels' + (', maps' if maps else ''),
                fix=f"taps=dict(feature='{path}:in')",
            )
        self.classifier = FrozenModule(module)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> AdapterOutput:
        """Align the student's levels; detach the teacher's."""
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
    """Return the alignment of one level: 1x1 conv, norm, GELU, 1x1 conv."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False),
        group_norm(hidden),
        nn.GELU(),
        nn.Conv2d(hidden, out_channels, 1),
    )
