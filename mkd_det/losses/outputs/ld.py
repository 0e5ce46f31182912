"""Localization distillation (LD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import ConfigError, HeadKindError
from ...functional import box_distribution_kl, localisation_regions
from ...registry import LOSSES
from ...structures import GroundTruth, HeadOutput
from ..base import PairLoss


@LOSSES.register_module()
class LD(PairLoss):
    r"""Compares the box distributions in the main and the valuable region (LD).

    .. math:: \frac{1}{|I|} \sum_{p \in I} \tau^2 \, \mathrm{KL}(b^t_p \| b^s_p),
        \qquad I = \text{main, valuable}

    Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng: "Localization Distillation for Dense Object
    Detection", CVPR 2022, arXiv 2102.12252. `functional.localisation_regions` defines
    the regions; the divergence is the mean of the four sides. Here each region is
    averaged over its positions in the batch of this rank. The published code differs:
    it sums the main region, weighted by the student's confidence, and divides by 4; it
    sums the valuable region, which includes the main one, weighted by the IoU of each
    anchor, and divides by 16; it also divides by the number of bins, and the weight is
    0.25. mmdet's LDHead uses the main region only. For the classes add the term
    `SoftOutputKD(box_weight=0)`.

    Args:
        main: Weight of the region where the student learns boxes.
        valuable: Weight of the valuable region around it.
        gamma: Extent of the valuable region: 0 is the largest, 1 the smallest.
        tau: Temperature.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: one `HeadOutput` with bins (N, P, 4, B) and anchors
        - output: dict(main=(), valuable=()), those whose weight is not 0
    """

    reads: ClassVar[str] = 'outputs'
    truth: ClassVar[str] = 'boxes'

    def __init__(
        self,
        main: float = 1.0,
        valuable: float = 1.0,
        gamma: float = 0.25,
        tau: float = 10.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not (main >= 0 and valuable >= 0 and main + valuable > 0 and tau > 0):
            raise ConfigError(
                'LD: main and valuable must be >= 0 and not both 0, tau > 0',
                actual=(main, valuable, tau),
                fix='main=1.0, valuable=1.0, tau=10.0',
            )
        if not 0 <= gamma <= 1:
            raise ConfigError(
                'LD: gamma must be from 0 to 1', actual=gamma, fix='gamma=0.25'
            )
        self.main, self.valuable, self.gamma, self.tau = main, valuable, gamma, tau

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Return False: it compares distributions, not decoded boxes."""
        return False

    def over_levels(
        self,
        student: list[HeadOutput],
        teacher: list[HeadOutput],
        mask: Sequence[Tensor] | None,
        truth: GroundTruth | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean divergence of each region."""
        s, t = student[0], teacher[0]
        if not isinstance(s, HeadOutput):
            raise HeadKindError(
                'LD: compares box distributions of whole heads',
                expected='taps at heads',
                actual='features or logits',
                fix="taps=dict(head='bbox_head')",
            )
        if s.bins is None or t.bins is None or s.bins.shape != t.bins.shape:
            raise HeadKindError(
                'LD: both heads need box distributions with equally many bins',
                expected='two heads such as GFLHead, with equal reg_max',
                actual=f'student {_bins(s)}, teacher {_bins(t)}',
                fix="type='SoftOutputKD', which compares decoded boxes; or a loss on"
                ' features such as FGD',
            )
        if truth is None or s.priors is None or s.priors[0].shape[-1] != 4:
            raise HeadKindError(
                'LD: its regions need anchors and ground-truth boxes',
                expected='a head with an AnchorGenerator, such as GFLHead',
                actual='points' if s.priors else 'no priors',
                fix="dict(type='SoftOutputKD', ...)",
            )
        distance = box_distribution_kl(s.bins, t.bins, self.tau)
        found = [
            localisation_regions(s.priors, boxes, self.gamma) for boxes in truth.boxes
        ]
        regions = [torch.stack(region) for region in zip(*found)]
        losses = {}
        for name, region in zip(('main', 'valuable'), regions):
            if weight := getattr(self, name):
                mean = (distance * region).sum() / region.sum().clamp_min(1)
                losses[name] = weight * mean
        return losses


def _bins(output: HeadOutput) -> str:
    return 'none' if output.bins is None else f'{output.bins.shape[-1]} bins'
