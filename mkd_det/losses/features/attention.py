"""Attention transfer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ...errors import ShapeMismatchError
from ...functional import as_map, attention_map, l2_normalize, pool_to, pool_to_smaller
from ...registry import LOSSES
from ..base import PairLoss


@LOSSES.register_module()
class AttentionKD(PairLoss):
    r"""Matches the spatial attention maps of student and teacher.

    .. math:: \frac{1}{N} \sum_n \left\| \frac{A^s_n}{\|A^s_n\|_2} -
        \frac{A^t_n}{\|A^t_n\|_2} \right\|_2^2, \quad A = \sum_c F_c^2

    Zagoruyko, Komodakis: "Paying More Attention to Attention: Improving the
    Performance of Convolutional Neural Networks via Attention Transfer", ICLR 2017,
    arXiv 1612.03928. Maps of different size are pooled to the smaller one; channels
    may differ. The loss is in [0, 2] for every batch size, image size and number of
    channels and levels.

    The paper sums over levels, with the weight beta / 2. Its text uses the norm; its
    code uses the square, averaged over positions, so the loss shrinks as the map
    grows. Here the square is summed over positions and averaged over images and
    levels.

    A mask multiplies both maps before they are normalised.

    Shape:
        - student: per level (N, C_s, H_s, W_s) or (N, L, C_s)
        - teacher: per level (N, C_t, H_t, W_t) or (N, L, C_t)
        - mask: per level (N, 1, H, W)
        - output: ()
    """

    instead: ClassVar[Mapping[str, str]] = {
        '': "a tap with more than one position; or type='FeatureKD', which compares"
        ' channels'
    }

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one level."""
        if student.dim() == 2 or teacher.dim() == 2:
            raise ShapeMismatchError(
                'AttentionKD: vectors have no spatial attention',
                expected='(N, C, H, W)',
                actual=f'{tuple(student.shape)} and {tuple(teacher.shape)}',
                fix="dict(type='FeatureKD', ...)",
            )
        maps = [attention_map(as_map(level)) for level in (student, teacher)]
        maps = list(pool_to_smaller(*maps))
        if mask is not None:
            weights = pool_to(mask, (maps[0].shape[-2], maps[0].shape[-1]))
            maps = [m * weights for m in maps]
        at_s, at_t = (l2_normalize(m.flatten(1), dim=1) for m in maps)
        return (at_s - at_t).square().sum(1).mean()
