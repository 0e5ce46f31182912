"""Box distributions, where boxes are learned and around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError, HeadKindError
from ..functional import box_distribution_kl, localisation_regions
from ..registry import LOSSES
from ..structures import DenseOutput, GroundTruth
from .base import PairLoss


@LOSSES.register_module()
class LD(PairLoss):
    r"""Localization distillation: the teacher's doubts about each side of a box.

    .. math:: \frac{1}{|I|} \sum_{p \in I} \tau^2 \, \mathrm{KL}(b^t_p \| b^s_p),
        \qquad I = \text{main, valuable}

    Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng: "Localization Distillation for Dense Object
    Detection", CVPR 2022, arXiv 2102.12252; the regions are those of
    `functional.localisation_regions`, mean of the four sides. The published code
    adds up the main region, weighed by how sure the student is of an object, and
    divides by 4; the valuable one, which has the main region in it, weighed by each
    anchor's IoU, and divides by 16; divides by the number of bins as well, and has
    weight 0.25. mmdet's LDHead has the main region alone. Here each region is a mean
    over its places in this rank's batch; `main` and `valuable` weigh them. The
    classes are another term's: `SoftOutputKD(box_weight=0)`.

    Args:
        main: Weight of the places where the student learns boxes.
        valuable: Weight of those around them.
        gamma: How far the valuable region reaches, from 0 to 1; less is farther.
        tau: Temperature.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: one `DenseOutput` with bins (N, P, 4, B) and anchors
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
                'LD: main and valuable must be >= 0, one of them and tau above 0',
                actual=(main, valuable, tau),
                fix='main=1.0, valuable=1.0, tau=10.0',
            )
        if not 0 <= gamma <= 1:
            raise ConfigError('LD: gamma must be from 0 to 1', actual=gamma)
        self.main, self.valuable, self.gamma, self.tau = main, valuable, gamma, tau

    def needs_boxes(self, student: Any, teacher: Any) -> bool:
        """Never decoded ones."""
        return False

    def over_levels(
        self,
        student: list[DenseOutput],
        teacher: list[DenseOutput],
        mask: Sequence[Tensor] | None,
        truth: GroundTruth | None = None,
    ) -> dict[str, Tensor]:
        """The mean of each region."""
        s, t = student[0], teacher[0]
        if s.bins is None or t.bins is None or s.bins.shape != t.bins.shape:
            raise HeadKindError(
                'LD: needs box distributions of as many bins in both heads',
                expected='two heads such as GFLHead, of one reg_max',
                actual=f'student {_bins(s)}, teacher {_bins(t)}',
                fix='SoftOutputKD, CrossHead (boxes by GIoU); FGD, FeatureKD on'
                ' features',
            )
        if truth is None or s.priors is None or s.priors[0].shape[-1] != 4:
            raise HeadKindError(
                'LD: needs anchors with a size, to know its regions, and boxes',
                expected='a head with an AnchorGenerator, as GFLHead',
                actual='points' if s.priors else 'no priors',
                fix='SoftOutputKD',
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


def _bins(output: DenseOutput) -> str:
    return 'none' if output.bins is None else f'{output.bins.shape[-1]} bins'
