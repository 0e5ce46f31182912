"""Feature distillation: pointwise, standardised, and channel-wise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from ...errors import ConfigError, is_number
from ...functional import (
    as_map,
    attention_map,
    channel_kl,
    channel_standardise,
    pool_to,
    pool_to_smaller,
    weighted_mean,
)
from ...registry import LOSSES
from ..base import PairLoss

Form = Literal['pearson', 'l2', 'l2_sum', 'channel']


@LOSSES.register_module()
class FeatureKD(PairLoss):
    r"""Compares the features of student and teacher in one of four published forms.

    Forms (`form`):

    - 'pearson' (default). :math:`\frac{1}{2} \mathrm{mean} (\hat F^s - \hat F^t)^2`
      with each channel standardised over images and positions. This is 1 minus the
      mean Pearson correlation of the channels, and is invariant to their scale and
      offset. Cao et al.: "PKD: General Distillation Framework for Object Detectors
      via Pearson Correlation Coefficient", NeurIPS 2022, arXiv 2207.02039. The
      published code resizes to the larger map and sums over levels, with weight 6;
      here maps are pooled to the smaller one and levels are averaged.
    - 'l2'. :math:`\mathrm{mean} (F^s - F^t)^2`. Romero et al.: "FitNets: Hints for
      Thin Deep Nets", ICLR 2015, arXiv 1412.6550. The paper uses half the sum of
      squares; the mean does not grow with the map.
    - 'l2_sum'. The same squares, summed over channels, positions and levels, mean over
      images, as in the published code of MGD.
    - 'channel'. :math:`\frac{\tau^2}{C} \sum_c \mathrm{KL}(\mathrm{softmax}_p(F^t_c /
      \tau) \| \mathrm{softmax}_p(F^s_c / \tau))`, each channel a distribution over
      positions. Shu et al.: "Channel-wise Knowledge Distillation for Dense
      Prediction", ICCV 2021, arXiv 2011.13256.

    Maps of different size are pooled to the smaller one. Channels must be equal; where
    they differ, read the two sides of an adapter.

    Args:
        form: 'pearson', 'l2', 'l2_sum' or 'channel'.
        tau: Temperature of 'channel'; the other forms ignore it.
        attend: Part of the weight that goes where the teacher is active, from 0 to 1:
            a position p counts :math:`1 - a + a \, A_p / \bar A` with the teacher's
            attention A, the sum of squares over channels, and its mean over the image.
            FGD weighs positions by attention, too. Not for 'channel', which is a
            distribution over positions already.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student: per level (N, C, H_s, W_s), (N, L, C) or (N, C)
        - teacher: per level (N, C, H_t, W_t), (N, L, C) or (N, C)
        - mask: per level (N, 1, H, W), the weight of each position
        - output: ()
    """

    demands: ClassVar[frozenset[str]] = frozenset({'same_channels'})
    weighs_samples: ClassVar[bool] = True
    instead: ClassVar[Mapping[str, str]] = {
        '': "form='l2', or a tap with more than one position"
    }

    def __init__(
        self,
        form: Form = 'pearson',
        tau: float = 1.0,
        attend: float = 0.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if form not in get_args(Form):
            raise ConfigError(
                'FeatureKD: unknown form', actual=form, available=get_args(Form)
            )
        if not tau > 0:
            raise ConfigError('FeatureKD: tau must be above 0', actual=tau)
        if not (is_number(attend) and 0 <= attend <= 1):
            raise ConfigError(
                'FeatureKD: attend must be a number from 0 to 1', actual=repr(attend)
            )
        if attend and form == 'channel':
            raise ConfigError(
                "FeatureKD: attend has no effect on form='channel', a distribution"
                ' over positions',
                actual=attend,
                fix="form='pearson', or attend=0",
            )
        self.form, self.tau, self.attend = form, tau, attend

    def over_levels(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: Sequence[Tensor] | None,
    ) -> Tensor | dict[str, Tensor]:
        """Return the mean over levels, or their sum for 'l2_sum'."""
        found = super().over_levels(student, teacher, mask)
        assert isinstance(found, Tensor)
        return found * len(student) if self.form == 'l2_sum' else found

    def pair(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one level."""
        student, teacher = pool_to_smaller(as_map(student), as_map(teacher))
        if mask is not None:
            mask = pool_to(mask, (student.shape[-2], student.shape[-1]))
        if self.attend:
            attention = attention_map(teacher)
            mean = attention.mean((2, 3), keepdim=True).clamp_min(1e-12)
            weights = 1 - self.attend + self.attend * attention / mean
            mask = weights if mask is None else mask * weights
        if self.form == 'channel':
            kl = channel_kl(student, teacher, self.tau, mask).mean(1)
            if mask is None:
                return kl.mean()
            # The softmax cancels a factor on a whole map: weight the images here.
            count = mask.mean((1, 2, 3))
            return (kl * count).sum() / count.sum().clamp_min(1e-6)
        squares = (student - teacher).square()
        if self.form == 'l2':
            return weighted_mean(squares, mask)
        if self.form == 'l2_sum':
            return (squares if mask is None else squares * mask).sum() / len(squares)
        student = channel_standardise(student, mask)
        teacher = channel_standardise(teacher, mask)
        return weighted_mean((student - teacher).square(), mask) / 2
