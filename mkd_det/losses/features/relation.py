"""Relations between layers and between positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ...errors import ConfigError, ShapeMismatchError
from ...functional import (
    as_map,
    fsp_matrix,
    l2_normalize,
    pool_to_smaller,
    spatial_distance,
)
from ...registry import LOSSES
from ...structures import Level
from ..base import PairLoss

Relation = Literal['channel', 'spatial']


@LOSSES.register_module()
class RelationKD(PairLoss):
    r"""Compares relations between layers, or between positions.

    Relations (`relation`):

    - 'channel' (default). For consecutive levels i, j the flow matrices
      :math:`G = F_i F_j^T / HW`, (N, C_i, C_j), each divided by its Frobenius norm;
      :math:`\frac{1}{N} \sum_n \| G^s_n - G^t_n \|_F^2`, in [0, 4]. Yim et al.: "A
      Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
      Transfer Learning", CVPR 2017. Needs at least two levels and equal channels.
      The paper does not normalise (`normalize=False`), so the loss grows with the
      size of features and channels. Common reimplementations average over the entries
      of G instead of summing them.
    - 'spatial'. The mean squared difference of the cosine similarities between
      positions, (N, HW, HW) per level, in [0, 4]. Channels may differ. After Tung,
      Mori: "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv
      1907.09682, which compares the images of a batch instead of positions.

    Maps of different size are pooled to the smaller one. In published comparisons FSP
    alone is worse than soft outputs: use it in addition, with a small weight.

    Args:
        relation: 'channel' or 'spatial'.
        normalize: Divide the flow matrices by their norms ('channel' only).
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student: per level (N, C_s, H_s, W_s), (N, L, C_s) or, for 'channel',
          (N, C_s)
        - teacher: per level as the student, with C_t = C_s for 'channel'
        - mask: per level (N, 1, H, W), the weight of each position
        - output: ()
    """

    demands: ClassVar[frozenset[str]] = frozenset({'same_channels'})
    instead: ClassVar[Mapping[str, str]] = {
        '': 'taps with more than one channel and more than one position; or'
        " type='FeatureKD', form='l2'"
    }

    def __init__(
        self,
        relation: Relation = 'channel',
        normalize: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if relation not in get_args(Relation):
            raise ConfigError(
                'RelationKD: unknown relation',
                actual=relation,
                available=get_args(Relation),
            )
        self.relation = relation
        self.normalize = normalize
        if relation == 'spatial':
            # The plan reads `demands` from the instance.
            self.demands = frozenset()  # type: ignore[misc]

    def over_levels(
        self,
        student: list[Level],
        teacher: list[Level],
        mask: Sequence[Tensor] | None,
    ) -> Tensor | dict[str, Tensor]:
        """Return the mean over pairs of levels ('channel') or over levels."""
        if self.relation == 'spatial':
            return super().over_levels(student, teacher, mask)
        if len(student) < 2 or len(student) != len(teacher):
            raise ShapeMismatchError(
                "RelationKD: relation='channel' compares consecutive levels",
                expected='at least two levels, equally many on both sides',
                actual=f'student {len(student)}, teacher {len(teacher)}',
                fix="relation='spatial'  # compares the positions of each level",
            )
        losses = [
            self._flow_distance(
                student[i : i + 2], teacher[i : i + 2], mask[i] if mask else None
            )
            for i in range(len(student) - 1)
        ]
        return torch.stack(losses).mean()

    def _flow_distance(
        self, student: list[Level], teacher: list[Level], mask: Tensor | None
    ) -> Tensor:
        flows = [
            fsp_matrix(*(as_map(level) for level in levels), mask=mask)  # type: ignore
            for levels in (student, teacher)
        ]
        if self.normalize:
            flows = [l2_normalize(flow, dim=(1, 2)) for flow in flows]
        return (flows[0] - flows[1]).square().sum((1, 2)).mean()

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one level, for 'spatial'."""
        if student.dim() == 2 or teacher.dim() == 2:
            raise ShapeMismatchError(
                "RelationKD: relation='spatial' needs maps; vectors have no positions",
                expected='(N, C, H, W)',
                actual=f'{tuple(student.shape)} and {tuple(teacher.shape)}',
                fix="dict(type='FeatureKD', ...)",
            )
        student, teacher = pool_to_smaller(as_map(student), as_map(teacher))
        return spatial_distance(student, teacher, mask).mean()
