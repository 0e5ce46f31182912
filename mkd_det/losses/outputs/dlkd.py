"""Soft outputs with a temperature per sample (DLKD)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ...errors import ConfigError, HeadKindError
from ...functional import (
    binary_kl,
    difficulty,
    entropy,
    normalized_ranks,
    softmax_kl,
    unexplained,
    weighted_average,
)
from ...registry import LOSSES
from ...structures import HeadOutput, Level
from ..base import Activation, PairLoss, check_focus

Map = Literal['rank', 'linear']


@LOSSES.register_module()
class DLKD(PairLoss):
    r"""Compares logits with a higher temperature for difficult samples (DLKD).

    "DLKD: Difficulty-Level based Knowledge Distillation", Neurocomputing 2024,
    doi 10.1016/j.neucom.2024.128375; only the abstract is available. It defines the
    difficulty of a sample as "the Euclidean distance between the teacher model's
    predictions and the pruned teacher model's predictions":

    .. math:: d = \| \mathrm{softmax}(z_t) - \mathrm{softmax}(z_p) \|_2
        \in [0, \sqrt 2]

    A fixed temperature hides the teacher's knowledge of difficult samples and smooths
    easy ones too much. The mapping from d to a temperature is our reading:
    :math:`\tau = \tau_{min} + (\tau_{max} - \tau_{min}) \, r`, where r is the rank of d
    in the batch, scaled to [0, 1] ('rank'), or :math:`d / \sqrt 2` ('linear'). The loss
    is :math:`\tau^2 \mathrm{KL}(p_t \| p_s)` at that temperature, mean over samples.

    On CIFAR-10, with half of the weights pruned, the order of the difficulties is
    nearly that of the teacher's own entropy (rank correlation 0.94), which needs no
    pruned teacher; with 80 to 90 % pruned it says nothing. `beyond_entropy` ranks what
    is left of the difficulty after the entropy; `DifficultyHook` tells both figures.

    The pruned teacher is a separate teacher, made from the file of the first one:
    `teachers=dict(t=..., pruned=dict(prune_of='t', prune=0.5))`.

    For heads the samples are the rows where the teacher is confident, weighted by its
    squared confidence as in `SoftOutputKD`. For sigmoid heads, d is that of the
    teacher's best class against the rest, and the loss is the sum over classes of
    two-way divergences. For the boxes add the term `SoftOutputKD(class_weight=0)`.

    Args:
        tau_min: Temperature of the easiest sample.
        tau_max: Temperature of the most difficult sample.
        map: Mapping from difficulty to temperature: 'rank' or 'linear', see above.
        beyond_entropy: Whether to rank the residual of the ranks of the difficulty
            after a regression on those of the entropy. For map='rank'.
        confident: Minimum confidence of the teacher in a row of a head.
        focus: Exponent of the confidence in the weights of rows.
        activation: What the class logits of the heads are for. The plan fills it in.
        **base: `weight` and `schedule`, see `PairLoss`.

    Attributes:
        difficulties: Difficulties of the last call, (M,), for `DifficultyHook`.
        entropies: The teacher's entropies there, (M,).
        agreeing: Whether teacher and pruned teacher have the same best class, (M,).

    Shape:
        - student, teacher, pruned: logits (N, K), or one `HeadOutput` of (N, P, C)
          scores
        - mask: one weight per sample or row
        - output: ()
    """

    reads: ClassVar[str] = 'outputs'
    also: ClassVar[Mapping[str, str]] = {'pruned': 'teacher'}
    weighs_samples: ClassVar[bool] = True
    instead: ClassVar[Mapping[str, str]] = {
        '': "activation='sigmoid', or type='SoftOutputKD', classes='sigmoid': one class"
        ' has no other to exclude'
    }

    def __init__(
        self,
        tau_min: float = 2.0,
        tau_max: float = 6.0,
        map: Map = 'rank',
        beyond_entropy: bool = False,
        confident: float = 0.05,
        focus: float = 2.0,
        activation: Activation | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not 0 < tau_min <= tau_max:
            raise ConfigError(
                'DLKD: needs 0 < tau_min <= tau_max',
                actual=(tau_min, tau_max),
                fix='tau_min=2.0, tau_max=6.0',
            )
        if map not in get_args(Map):
            raise ConfigError('DLKD: unknown map', actual=map, available=get_args(Map))
        if beyond_entropy and map != 'rank':
            raise ConfigError(
                'DLKD: beyond_entropy is for ranks',
                actual=f'map={map!r}',
                fix="map='rank'",
            )
        if not 0 <= confident < 1:
            raise ConfigError(
                'DLKD: confident must be at least 0 and below 1',
                actual=confident,
                fix='confident=0.05',
            )
        check_focus('DLKD', focus)
        self.focus = focus
        self.tau_min, self.tau_max, self.map = tau_min, tau_max, map
        self.beyond_entropy = beyond_entropy
        self.confident, self.activation = confident, activation
        self.difficulties = self.entropies = self.agreeing = torch.zeros(0)

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Return False: it compares class scores only."""
        return False

    def over_levels(
        self,
        student: list[Level],
        teacher: list[Level],
        mask: Sequence[Tensor] | None,
        pruned: Sequence[Level] = (),
    ) -> Tensor:
        """Return the loss of logits, or of two heads."""
        if not pruned:
            raise ConfigError(
                'DLKD: needs the outputs of a pruned teacher',
                expected='pruned',
                fix="pruned='pruned.logits' beside `teacher`, and"
                " teachers=dict(t=..., pruned=dict(prune_of='t', prune=0.5))",
            )
        s, t, p = student[0], teacher[0], pruned[0]
        weights = None if mask is None else mask[0].flatten()
        if isinstance(s, HeadOutput):
            return self._of_head(s.scores, t.scores, p.scores, weights)
        return self._of_logits(s, t, p, weights)  # type: ignore[arg-type]

    def _of_logits(
        self, student: Tensor, teacher: Tensor, pruned: Tensor, weights: Tensor | None
    ) -> Tensor:
        if self.activation == 'sigmoid':
            raise HeadKindError(
                'DLKD: plain logits of independent classes have no common distance',
                expected='logits of a softmax, or a whole head of a detector',
                actual='a sigmoid for each class',
                fix="type='SoftOutputKD'",
            )
        self.agreeing = teacher.argmax(-1) == pruned.argmax(-1)
        taus = self._taus(teacher.softmax(-1), pruned.softmax(-1))
        return weighted_average(softmax_kl(student, teacher, taus), weights)

    def _of_head(
        self, student: Tensor, teacher: Tensor, pruned: Tensor, weights: Tensor | None
    ) -> Tensor:
        # The last class of a softmax head is the background.
        softmax = self.activation == 'softmax'
        probabilities = teacher.softmax(-1)[..., :-1] if softmax else teacher.sigmoid()
        confidence = probabilities.amax(-1).flatten()
        chosen = confidence > self.confident
        s, t, p = (x.flatten(0, 1)[chosen] for x in (student, teacher, pruned))
        confidence = confidence[chosen] ** self.focus
        if weights is not None:
            confidence = confidence * weights[chosen]
        self.agreeing = t.argmax(-1) == p.argmax(-1)
        if softmax:
            tau = self._taus(t.softmax(-1), p.softmax(-1))
            loss = softmax_kl(s, t, tau)
        else:
            best = t.argmax(-1, keepdim=True)
            two_way = []
            for logits in (t, p):
                own = logits.gather(-1, best).sigmoid()
                two_way.append(torch.cat([own, 1 - own], -1))
            tau = self._taus(*two_way)
            loss = binary_kl(s, t, tau)
        return (confidence * loss).sum() / confidence.sum().clamp_min(len(student))

    def _taus(self, teacher: Tensor, pruned: Tensor) -> Tensor:
        """Return the temperature (M,) of samples, of probabilities (M, K)."""
        self.difficulties = difficulty(teacher, pruned)
        self.entropies = entropy(teacher)
        if self.map == 'linear':
            share = self.difficulties / math.sqrt(2)
        elif self.beyond_entropy:
            share = normalized_ranks(unexplained(self.difficulties, self.entropies))
        else:
            share = normalized_ranks(self.difficulties)
        return self.tau_min + (self.tau_max - self.tau_min) * share
