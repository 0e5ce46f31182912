"""Predictions of queries (DETR and its kin), matched between student and teacher."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch
from mmdet.structures.bbox import bbox_overlaps, bbox_xyxy_to_cxcywh
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...errors import ConfigError, HeadKindError
from ...functional import giou_distance, quality_bce, softmax_kl
from ...registry import LOSSES
from ...structures import HeadOutput
from ..base import Activation, PairLoss, check_focus

Layers = Literal['last', 'all']


@LOSSES.register_module()
class QueryKD(PairLoss):
    r"""Classes and boxes of queries under Hungarian matching (DETRDistill).

    After the logits part of Chang, Wang, Xu, Wang: "DETRDistill: A Universal Knowledge
    Distillation Framework for DETR-families", ICCV 2023, arXiv 2211.10156: the
    teacher's predictions are the targets of the student's, those of objects and, with
    a small weight, the others.

    The teacher's `targets` most confident queries of an image are matched one to one
    with queries of the student, so that the sum of these costs is smallest:

    .. math:: c = a_c \sum_k |p_s^k - p_t^k| + a_1 |b_s - b_t|_1
        + a_g (1 - \mathrm{GIoU}(b_s, b_t))

    The paper matches as the detector matches ground truth. These costs are distances
    instead: they are 0 for equal predictions, so the loss of a model to itself is 0.
    The class part is that of `SoftOutputKD`: disagreement times cross-entropy for
    sigmoid heads, the divergence for softmax heads. Its weight is
    :math:`\lambda + (1 - \lambda) f`, with f the teacher's confidence, the highest
    probability of an object's class, and :math:`\lambda` = `negatives`. The box parts,
    L1 of normalised centres and sizes and 1 - GIoU, have the weight :math:`f^2`. All
    are divided by the sum of :math:`f^2`, which counts objects and not queries, but by
    no less than one per image.

    Queries that both decoders have run on (the probe `SharedQueries`) need no matching:
    row i meets row i, and all rows count. With `negatives=0` it is then the loss of
    Wang et al.: "KD-DETR: Knowledge Distillation for Detection Transformer with
    Consistent Distillation Points Sampling", CVPR 2024, arXiv 2211.08071.

    Args:
        activation: What the class logits of the heads are for. The plan fills it in.
        layers: 'last' decoder layer, or 'all' with the mean over the student's. Layers
            of decoders of other depths meet at equal shares of the depth.
        targets: How many queries of the teacher are matched, at most.
        negatives: Weight of the classes where the teacher sees nothing, from 0 to 1.
        tau: Temperature of the classes.
        class_weight: Factor on the classes' part.
        l1_weight: Factor on the L1 part.
        giou_weight: Factor on the GIoU part.
        costs: Factors :math:`a_c, a_1, a_g` of the matching.
        focus: Exponent of f in the weights of the boxes and in the divisor.
        aligned: Whether row i of both sides is one query; then nothing is matched, and
            `targets` and `costs` are not used. The plan fills it in.
        **base: `weight` and `schedule`, see `PairLoss`.

    Shape:
        - student, teacher: `HeadOutput` of (N, Q, K) scores and (N, Q, 4) boxes; the
          numbers of queries may differ
        - mask: (N, Q), of which the first column weighs the images
        - output: dict(cls=(), l1=(), giou=())
    """

    reads: ClassVar[str] = 'outputs'
    matches_rows: ClassVar[bool] = True
    weighs_samples: ClassVar[bool] = True

    def __init__(
        self,
        activation: Activation = 'sigmoid',
        layers: Layers = 'last',
        targets: int = 300,
        negatives: float = 0.1,
        tau: float = 1.0,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        costs: tuple[float, float, float] = (2.0, 5.0, 2.0),
        focus: float = 2.0,
        aligned: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        for name, value, known in (
            ('layers', layers, get_args(Layers)),
            ('activation', activation, get_args(Activation)),
        ):
            if value not in known:
                raise ConfigError(
                    f'QueryKD: unknown {name}', actual=value, available=known
                )
        self._check_numbers(
            targets, negatives, tau, (class_weight, l1_weight, giou_weight), costs
        )
        check_focus('QueryKD', focus)
        self.focus = focus
        self.activation = activation
        self.layers = layers
        self.targets = targets
        self.negatives = negatives
        self.tau = tau
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.costs = tuple(costs)
        self.aligned = aligned

    @staticmethod
    def _check_numbers(
        targets: int,
        negatives: float,
        tau: float,
        weights: tuple[float, ...],
        costs: tuple[float, ...],
    ) -> None:
        if not (isinstance(targets, int) and targets >= 1):
            raise ConfigError('QueryKD: targets must be at least 1', actual=targets)
        if not 0 <= negatives <= 1:
            raise ConfigError(
                'QueryKD: negatives must be from 0 to 1', actual=negatives
            )
        if not tau > 0:
            raise ConfigError('QueryKD: tau must be above 0', actual=tau)
        if not all(weight >= 0 for weight in weights) or not any(weights):
            raise ConfigError(
                'QueryKD: the weights must be numbers >= 0, and one of them above 0',
                actual=weights,
            )
        if len(costs) != 3 or not all(c >= 0 for c in costs) or not any(costs):
            raise ConfigError(
                'QueryKD: costs must be three numbers >= 0, and one of them above 0',
                expected='those of class, L1 and GIoU',
                actual=costs,
            )

    def outputs(
        self, student: HeadOutput, teacher: HeadOutput, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the class, L1 and GIoU parts of two heads."""
        if student.earlier is None or student.boxes is None or teacher.boxes is None:
            raise HeadKindError(
                'QueryKD: the heads have no queries',
                expected='heads of DETR, DINO and their kin',
                fix="type='SoftOutputKD' for dense heads",
            )
        weights = None if mask is None else mask.reshape(len(mask), -1)[:, 0]
        layers = [
            self._layer(s, t, weights) for s, t in self._layer_pairs(student, teacher)
        ]
        factors = dict(cls=self.class_weight, l1=self.l1_weight, giou=self.giou_weight)
        means = dict(zip(factors, torch.stack(layers).mean(0)))
        return {name: f * means[name] for name, f in factors.items() if f}

    def _layer_pairs(
        self, student: HeadOutput, teacher: HeadOutput
    ) -> list[tuple[HeadOutput, HeadOutput]]:
        """Return the layers that meet."""
        if self.layers == 'last':
            return [(student, teacher)]
        ours, theirs = ([*(side.earlier or ()), side] for side in (student, teacher))
        share = len(theirs) / len(ours)
        return [
            (layer, theirs[max(round((i + 1) * share) - 1, 0)])
            for i, layer in enumerate(ours)
        ]

    def _layer(
        self, student: HeadOutput, teacher: HeadOutput, weights: Tensor | None
    ) -> Tensor:
        """Return the three parts of one decoder layer, (3,)."""
        total = student.scores.new_zeros(3)
        divisor = student.scores.new_zeros(())
        for image in range(len(student.scores)):
            s_scores, t_scores = student.scores[image], teacher.scores[image]
            s_boxes, t_boxes = (
                side.boxes[image]  # type: ignore[index]
                for side in (student, teacher)
            )
            confidence = self._probabilities(t_scores).amax(-1)
            if self.aligned:
                mine = known = torch.arange(len(t_scores), device=t_scores.device)
            else:
                count = min(self.targets, len(s_scores), len(t_scores))
                known = confidence.topk(count).indices
                mine, theirs = self._match(
                    s_scores.detach(), s_boxes.detach(), t_scores[known], t_boxes[known]
                )
                known = known[theirs]
            parts = self._parts(
                s_scores[mine], s_boxes[mine], t_scores[known], t_boxes[known]
            )
            weight = 1.0 if weights is None else weights[image]
            total = total + weight * parts
            divisor = divisor + weight * (confidence[known] ** self.focus).sum()
        return total / divisor.clamp_min(len(student.scores))

    def _parts(
        self, scores: Tensor, boxes: Tensor, t_scores: Tensor, t_boxes: Tensor
    ) -> Tensor:
        """Return the sums over matched rows of one image, (3,)."""
        confidence = self._probabilities(t_scores).amax(-1)
        if self.activation == 'sigmoid':
            classes = quality_bce(scores, t_scores, 1.0, self.tau).sum(-1)
        else:
            classes = softmax_kl(scores[None], t_scores[None], self.tau)[0]
        weight = self.negatives + (1 - self.negatives) * confidence
        confidence = confidence**self.focus
        l1 = bbox_xyxy_to_cxcywh(boxes) - bbox_xyxy_to_cxcywh(t_boxes)
        giou = giou_distance(boxes, t_boxes)
        return torch.stack(
            [
                (weight * classes).sum(),
                (confidence * l1.abs().sum(-1)).sum(),
                (confidence * giou).sum(),
            ]
        )

    def _probabilities(self, scores: Tensor) -> Tensor:
        """Return the probability of each object class; softmax heads end with none."""
        if self.activation == 'sigmoid':
            return scores.sigmoid()
        return scores.softmax(-1)[..., :-1]

    @torch.no_grad()
    def _match(
        self, scores: Tensor, boxes: Tensor, t_scores: Tensor, t_boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the rows of student and teacher that are matched."""
        by_class, by_l1, by_giou = self.costs
        # Background counts as a class here: what is not an object is matched too.
        squash = torch.sigmoid if self.activation == 'sigmoid' else _softmax
        cost = by_class * torch.cdist(squash(scores), squash(t_scores), p=1)
        centres = bbox_xyxy_to_cxcywh(boxes), bbox_xyxy_to_cxcywh(t_boxes)
        cost += by_l1 * torch.cdist(*centres, p=1)
        cost += by_giou * (1 - bbox_overlaps(boxes, t_boxes, mode='giou', eps=1e-7))
        # A student that diverges is told by its loss, and not by the solver.
        found = linear_sum_assignment(cost.nan_to_num(1e6, 1e6, 1e6).cpu().numpy())
        mine, theirs = (torch.from_numpy(rows).to(cost.device) for rows in found)
        return mine, theirs


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)
