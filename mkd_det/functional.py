"""Pure tensor functions: one formula of a paper each, no modules, no state.

Nothing here detaches, weights or averages over levels: that is the business of
`losses/`. Arguments called `student` and `teacher` may be swapped only where the
formula is symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor
from torchvision.ops import distance_box_iou

# ---------------------------------------------------------------- soft outputs


def softmax_kl(student: Tensor, teacher: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    r"""Divergence between softened distributions, one figure a distribution.

    .. math:: \tau^2 \sum_k p^t_k (\log p^t_k - \log p^s_k),
        \quad p = \mathrm{softmax}(z / \tau)

    Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", NIPS
    workshop 2014, arXiv 1503.02531. Its mean is PyTorch's 'batchmean'; PyTorch's
    'mean' divides by the number of classes too.

    Args:
        student: Logits.
        teacher: Logits.
        tau: Temperature, or one for each distribution; tau^2 keeps the gradient's
            size over temperatures.

    Shape:
        - student, teacher: (\*, K)
        - tau: () or (\*)
        - output: (\*)
    """
    by = tau.unsqueeze(-1) if isinstance(tau, Tensor) else tau
    log_s = F.log_softmax(student / by, -1)
    log_t = F.log_softmax(teacher / by, -1)
    return F.kl_div(log_s, log_t, reduction='none', log_target=True).sum(-1) * tau**2


def decoupled_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, tau: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""Divergence in the label against all else, and among all else: (TCKD, NCKD).

    .. math:: \tau^2 \mathrm{KL}((p^t_y, 1 - p^t_y) \| (p^s_y, 1 - p^s_y)), \qquad
        \tau^2 \mathrm{KL}(\hat p^t \| \hat p^s), \quad
        \hat p = \mathrm{softmax}(z_{k \neq y} / \tau)

    Zhao, Cui, Song, Qiu, Liang: "Decoupled Knowledge Distillation", CVPR 2022, arXiv
    2203.08679. What they replace is the first plus :math:`1 - p^t_y` times the second.

    Args:
        student: Logits.
        teacher: Logits.
        labels: The right class of each sample.
        tau: Temperature.

    Shape:
        - student, teacher: (M, K), K at least 2
        - labels: (M,)
        - output: (M,) twice
    """
    right = F.one_hot(labels, student.shape[-1]).bool()
    sides = []
    for logits in (student / tau, teacher / tau):
        rest = logits[~right].view(len(logits), logits.shape[-1] - 1)
        sides.append((torch.stack([logits[right], rest.logsumexp(-1)], -1), rest))
    (s_two, s_rest), (t_two, t_rest) = sides
    return softmax_kl(s_two, t_two) * tau**2, softmax_kl(s_rest, t_rest) * tau**2


def quality_bce(
    student: Tensor, teacher: Tensor, beta: float = 1.0, tau: float = 1.0
) -> Tensor:
    r"""Binary cross entropy against soft targets, weighted by the disagreement.

    .. math:: \tau^2 |\sigma_t - \sigma_s|^\beta \,
        \mathrm{BCE}(\sigma_s, \sigma_t), \quad \sigma = \sigma(z / \tau)

    Wang et al.: "CrossKD: Cross-Head Knowledge Distillation for Object Detection",
    CVPR 2024, arXiv 2306.11369; the weight is that of the quality focal loss (Li et
    al. 2020, arXiv 2006.04388). The gradient flows through the weight too, as in
    the published code. With `beta` 0 the least value is the teacher's entropy, else
    it is 0.

    Args:
        student: Logits of independent classes.
        teacher: Logits of independent classes.
        beta: Exponent of the weight: 0, or at least 1 (between, the gradient at
            agreement is infinite).
        tau: Temperature of both sides.

    Shape:
        - student, teacher, output: (\*)
    """
    return sigmoid_focal(student / tau, (teacher / tau).sigmoid(), beta, None) * tau**2


def class_factors(
    confidence: Tensor, exponent: float, mask: Tensor | None = None
) -> Tensor:
    r"""How much each class counts, so that rare ones catch up with frequent ones.

    .. math:: w_c = n_c^{-b} \frac{\sum_k n_k}{\sum_k n_k^{1 - b}},
        \quad n_c = \max(N, \sum_p \sigma_{pc})

    The sum of :math:`w_c n_c` is that of :math:`n_c`. Inverse frequency (`exponent`
    1) and its tempered forms, with counts that are soft and the batch's own.

    Args:
        confidence: How sure the teacher is of each class at each place.
        exponent: b, from 0 (all factors 1) to 1.
        mask: How much each place counts.

    Shape:
        - confidence: (N, P, C)
        - mask: (N, P)
        - output: (C)
    """
    if mask is not None:
        confidence = confidence * mask.unsqueeze(-1)
    counts = confidence.sum((0, 1)).clamp_min(len(confidence))
    factors = counts**-exponent
    return factors * counts.sum() / (factors * counts).sum()


def box_distribution_kl(student: Tensor, teacher: Tensor, tau: float = 10.0) -> Tensor:
    r"""Divergence between box distributions, mean of the four sides.

    .. math:: \frac{\tau^2}{4} \sum_{e} \mathrm{KL}\left(
        \mathrm{softmax}(b^t_e / \tau) \,\|\, \mathrm{softmax}(b^s_e / \tau)\right)

    Zheng et al.: "Localization Distillation for Dense Object Detection", CVPR 2022,
    arXiv 2102.12252. The published code also divides by the number of bins.

    Args:
        student: Logits of the bins of each side.
        teacher: Logits of the bins of each side.
        tau: Temperature.

    Shape:
        - student, teacher: (N, P, 4, reg_max + 1)
        - output: (N, P)
    """
    return softmax_kl(student, teacher, tau).mean(-1)


def giou_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""1 - GIoU of boxes in pairs, in [0, 2].

    Rezatofighi et al.: "Generalized Intersection over Union", CVPR 2019, arXiv
    1902.09630. Two boxes without area count as 1, even when they are equal.

    Args:
        student: Boxes as x1, y1, x2, y2.
        teacher: Boxes as x1, y1, x2, y2.

    Shape:
        - student, teacher: (\*, 4)
        - output: (\*)
    """
    # Heads with signed distances may turn a box inside out.
    boxes = [
        torch.cat([torch.minimum(low, high), torch.maximum(low, high)], -1)
        for low, high in (box.split(2, -1) for box in (student, teacher))
    ]
    return 1 - bbox_overlaps(*boxes, mode='giou', is_aligned=True, eps=1e-7)


# ------------------------------------------------------------------ difficulty


def binary_kl(student: Tensor, teacher: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    r"""Divergence between softened probabilities of independent classes, summed.

    .. math:: \tau^2 \sum_k \left( \mathrm{BCE}(\sigma_s, \sigma_t)
        - \mathrm{BCE}(\sigma_t, \sigma_t) \right), \quad \sigma = \sigma(z_k / \tau)

    Hinton's divergence (arXiv 1503.02531) of each class against all else.

    Shape:
        - student, teacher: logits (\*, K)
        - tau: () or (\*)
        - output: (\*)
    """
    by = tau.unsqueeze(-1) if isinstance(tau, Tensor) else tau
    student, teacher = student / by, teacher / by
    target = teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student, target, reduction='none')
    own = F.binary_cross_entropy_with_logits(teacher, target, reduction='none')
    return (cross - own).sum(-1) * tau**2


def difficulty(teacher: Tensor, pruned: Tensor) -> Tensor:
    r"""How far apart a teacher and its pruned self are: :math:`\| p_t - p_p \|_2`.

    "DLKD: Difficulty-Level based Knowledge Distillation", Neurocomputing 2024,
    10.1016/j.neucom.2024.128375.

    Shape:
        - teacher, pruned: probabilities (\*, K)
        - output: (\*), in :math:`[0, \sqrt 2]`
    """
    return (teacher - pruned).square().sum(-1).sqrt()


def ranks(values: Tensor) -> Tensor:
    """Place of each value among all: 0 for the least, 1 for the greatest, equal
    for equal values; 0 where all are equal.

    Shape:
        - values, output: (M,)
    """
    if not len(values):
        return values
    order = values.sort().values
    first = torch.searchsorted(order, values)
    last = torch.searchsorted(order, values, right=True)
    place = (first + last).to(values.dtype)
    place = place - place.min()
    return place / place.max().clamp_min(1)


# --------------------------------------------------------- aggregated class losses


def softmax_focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    r"""Focal loss of a softmax: :math:`-\sum_k t_k (1 - p_k)^\gamma \log p_k`.

    Lin et al.: "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002,
    which has the sigmoid form and hard targets.

    Args:
        logits: Of classes that exclude each other.
        target: Their probabilities.
        gamma: How much less easy classes count; 0 is cross entropy.

    Shape:
        - logits, target: (\*, K)
        - output: (\*)
    """
    log_p = logits.log_softmax(-1)
    return -(target * (1 - log_p.exp()) ** gamma * log_p).sum(-1)


def sigmoid_focal(
    logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float | None = 0.25
) -> Tensor:
    r"""Focal loss of independent classes, for hard and soft targets.

    .. math:: (\alpha t + (1 - \alpha)(1 - t)) \, |t - \sigma|^\gamma \,
        \mathrm{BCE}(\sigma, t)

    Lin et al.: "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002,
    where t is 0 or 1 and :math:`|t - \sigma|` is :math:`1 - p_t`; between, it is the
    quality focal loss of Li et al., NeurIPS 2020, arXiv 2006.04388, with alpha.

    Args:
        logits: Of independent classes.
        target: Their probabilities.
        gamma: How much less what is easy counts; 0 is binary cross entropy.
        alpha: Weight of positives; None for 1 on both sides.

    Shape:
        - logits, target, output: (\*)
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    if gamma:
        loss = loss * (target - logits.sigmoid()).abs() ** gamma
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss


def effective_number_weights(counts: Tensor, beta: float = 0.999) -> Tensor:
    r"""Weights of classes by their effective number of samples, mean 1.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}

    Cui et al.: "Class-Balanced Loss Based on Effective Number of Samples", CVPR
    2019, arXiv 1901.05555, whose weights sum to the number of classes, as here.

    Args:
        counts: Samples of each class, all above 0.
        beta: From 0 (all 1) towards 1 (inverse frequency).

    Shape:
        - counts, output: (C,)
    """
    weights = (1 - beta) / (1 - beta ** counts.double())
    return (weights / weights.mean()).float()


# -------------------------------------------------------------------- features


def as_map(level: Tensor) -> Tensor:
    """A level of any kind as a map.

    Shape:
        - level: (N, C, H, W), (N, C) or (N, L, C)
        - output: (N, C, H, W), (N, C, 1, 1) or (N, C, L, 1)
    """
    if level.dim() == 2:
        return level[:, :, None, None]
    if level.dim() == 3:
        return level.transpose(1, 2)[..., None]
    return level


def pool_to_smaller(*maps: Tensor) -> tuple[Tensor, ...]:
    r"""Average maps down to the smallest height and the smallest width of them.

    Shape:
        - maps: (N, \*, H_i, W_i)
        - output: as many, (N, \*, min H_i, min W_i)
    """
    size = (min(m.shape[-2] for m in maps), min(m.shape[-1] for m in maps))
    return tuple(pool_to(m, size) for m in maps)


def pool_to(level: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a map down to `size` (H, W); a map of that size is left alone.

    Shape:
        - level: (N, C, H, W)
        - output: (N, C, *size)
    """
    same = tuple(level.shape[-2:]) == size
    return level if same else F.adaptive_avg_pool2d(level, size)


def rows(logits: Tensor) -> Tensor:
    """Logits (N, K), (N, L, K) or (N, K, H, W) as (M, K): a row a sample or place."""
    if logits.dim() == 4:
        logits = logits.movedim(1, -1)
    return logits.flatten(0, -2)


def unit(x: Tensor, dim: int | tuple[int, ...], eps: float = 1e-12) -> Tensor:
    """`x` divided by its L2 norm along `dim`.

    What is shorter than `eps` becomes zero and gets no gradient: dividing by
    `eps` instead, as `F.normalize` does, would give it one of size 1 / eps.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    # `<=`, not `>`: what is not a number shall stay visible.
    return torch.where(norm <= eps, torch.zeros_like(x), x / norm.clamp_min(eps))


def pearson_distance(one: Tensor, other: Tensor, eps: float = 1e-8) -> Tensor:
    r"""One minus Pearson's correlation of rows; 0 where one of them does not vary (the
    product of the norms below is under `eps`).

    .. math:: 1 - \frac{\langle u - \bar u, v - \bar v \rangle}
        {\| u - \bar u \| \, \| v - \bar v \|}

    Shape:
        - one, other: (M, K)
        - output: (M,)
    """
    one, other = (x - x.mean(-1, keepdim=True) for x in (one, other))
    norms = one.norm(dim=-1) * other.norm(dim=-1)
    distance = 1 - (one * other).sum(-1) / norms.clamp_min(eps)
    return torch.where(norms <= eps, torch.zeros_like(distance), distance)


def fsp_matrix(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Flow between two layers: inner products of their channels over positions.

    .. math:: G_{ij} = \frac{1}{HW} \sum_p F^1_{ip} F^2_{jp}

    Yim et al.: "A Gift from Knowledge Distillation: Fast Optimization, Network
    Minimization and Transfer Learning", CVPR 2017. Maps of different size are
    averaged down to the smaller (the paper takes the maximum).

    Args:
        first: The earlier layer.
        second: The later layer.
        mask: How much each position counts; its scale does not matter.

    Shape:
        - first: (N, C_1, H_1, W_1)
        - second: (N, C_2, H_2, W_2)
        - mask: (N, 1, H_3, W_3)
        - output: (N, C_1, C_2)
    """
    first, second = pool_to_smaller(first, second)
    count: float | Tensor = first.shape[-2] * first.shape[-1]
    if mask is not None:
        mask = pool_to(mask, (first.shape[-2], first.shape[-1]))
        first = first * mask
        count = mask.sum((2, 3)).clamp_min(1e-6).unsqueeze(-1)
    return first.flatten(2) @ second.flatten(2).transpose(1, 2) / count


def spatial_distance(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""How differently two maps relate positions, one figure an image.

    .. math:: \sum_{pq} w_p w_q (\cos(s_p, s_q) - \cos(t_p, t_q))^2,
        \quad w_p = \frac{1}{HW}

    After Tung, Mori: "Similarity-Preserving Knowledge Distillation", ICCV 2019,
    arXiv 1907.09682, which compares the images of a batch; here, the positions
    of an image, so that it means the same at batch 1. The (HW, HW) matrices are
    never made: the inner product of two of them is the squared norm of a matrix
    of channels by channels,
    :math:`\sum_{pq} w_p w_q \cos(a_p, a_q) \cos(b_p, b_q) = \|A W B^T\|_F^2`.

    Args:
        student: Map.
        teacher: Map of the same size.
        mask: How much each position counts; its scale does not matter.

    Shape:
        - student: (N, C_s, H, W)
        - teacher: (N, C_t, H, W)
        - mask: (N, 1, H, W)
        - output: (N,)
    """
    s, t = (unit(level, dim=1, eps=1e-6) for level in (student, teacher))

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return fsp_matrix(a, b, mask).square().sum((1, 2))

    return inner(s, s) - 2 * inner(s, t) + inner(t, t)


def attention_map(level: Tensor) -> Tensor:
    """Where a layer looks: the sum of squares over channels.

    Zagoruyko, Komodakis: "Paying More Attention to Attention", ICLR 2017, arXiv
    1612.03928. Not normalised yet. The published code takes the mean over channels,
    which makes no difference once normalised.

    Shape:
        - level: (N, C, H, W)
        - output: (N, 1, H, W)
    """
    return level.square().sum(1, keepdim=True)


def channel_standardise(
    level: Tensor, mask: Tensor | None = None, eps: float = 1e-8
) -> Tensor:
    """Each channel with mean 0 and variance 1 over images and positions.

    Cao et al.: "PKD: General Distillation Framework for Object Detectors via
    Pearson Correlation Coefficient", NeurIPS 2022, arXiv 2207.02039. A channel that
    is constant (a 1x1 map at batch 1) becomes zero, with finite gradients: the
    variance is the biased one, and `eps` stands under the root.

    Args:
        level: The map.
        mask: How much each position counts for mean and variance.
        eps: Added to the variance.

    Shape:
        - level, output: (N, C, H, W)
        - mask: (N, 1, H, W)
    """
    rows = level.flatten(2)
    weights = None if mask is None else mask.flatten(2)
    rows = rows - _channel_mean(rows, weights)
    variance = _channel_mean(rows.square(), weights)
    return (rows * torch.rsqrt(variance + eps)).reshape(level.shape)


def _channel_mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (N, C, L) over images and positions, (C, 1)."""
    if weights is None:
        # In two steps: several times as fast on CPUs as over both dimensions.
        return rows.mean(2).mean(0).unsqueeze(1)
    total = weights.sum().clamp_min(1e-6)
    return ((rows * weights).sum(2).sum(0) / total).unsqueeze(1)


def channel_kl(
    student: Tensor, teacher: Tensor, tau: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Divergence between the channels' distributions over positions.

    .. math:: \tau^2 \mathrm{KL}\left(\mathrm{softmax}_p(F^t_c / \tau) \,\|\,
        \mathrm{softmax}_p(F^s_c / \tau)\right)

    Shu et al.: "Channel-wise Knowledge Distillation for Dense Prediction", ICCV
    2021, arXiv 2011.13256.

    Args:
        student: Map.
        teacher: Map.
        tau: Temperature.
        mask: How much each position counts: both distributions are multiplied by it.

    Shape:
        - student, teacher: (N, C, H, W)
        - mask: (N, 1, H, W)
        - output: (N, C)
    """
    if mask is not None:
        # A floor instead of 0, whose logarithm would make 0 * inf in the KL.
        offset = mask.clamp_min(1e-6).log() * tau
        student, teacher = student + offset, teacher + offset
    return softmax_kl(student.flatten(2), teacher.flatten(2), tau)


def weighted_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of a map, over positions weighted by `mask`; 0 where all of it is 0.

    Shape:
        - values: (N, C, H, W)
        - mask: (N, 1, H, W)
        - output: ()
    """
    if mask is None:
        return values.mean()
    return (values.mean(1, keepdim=True) * mask).sum() / mask.sum().clamp_min(1e-6)


def weighted_rows(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of figures; 0 where there are none, and where all weights are 0.

    Shape:
        - values, weights: (M,)
        - output: ()
    """
    if weights is None:
        return values.mean() if len(values) else values.sum()
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


# ---------------------------------------------------------------- ground truth


def box_cells(
    boxes: Tensor, image: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Cells of a map that a box reaches into: by row, and by column.

    Shape:
        - boxes: (M, 4), as x1, y1, x2, y2 in pixels
        - image: (H, W) in pixels
        - size: (h, w) of the map
        - output: bool (M, h) and (M, w)
    """
    reached = []
    for axis in (1, 0):
        count = size[1 - axis]
        low, high = (boxes[:, [axis, axis + 2]] * (count / image[1 - axis])).unbind(1)
        cells = torch.arange(count, device=boxes.device)
        first = low.floor()
        last = torch.maximum(high.ceil(), first + 1)  # a flat box has a cell, too
        reached.append((cells >= first[:, None]) & (cells < last[:, None]))
    return reached[0], reached[1]


def localisation_regions(
    priors: Sequence[Tensor], boxes: Tensor, gamma: float = 0.25, topk: int = 9
) -> tuple[Tensor, Tensor]:
    r"""Places where boxes are learned, and those around them that are worth it.

    The main region is that of ATSS (Zhang et al., CVPR 2020, arXiv 1912.02424): of the
    `topk` anchors of each level nearest to a box, those with an IoU of at least
    :math:`\alpha`, mean plus standard deviation of theirs, and their centre inside. The
    valuable region has :math:`\gamma \alpha \le \mathrm{DIoU} \le \alpha` with some
    box (Zheng et al.: "Localization Distillation for Dense Object Detection", CVPR
    2022, arXiv 2102.12252; DIoU is that of Zheng et al., AAAI 2020, arXiv 1911.08287),
    and is no part of the main one.

    Args:
        priors: Anchors of each level.
        boxes: Of one image.
        gamma: How far the valuable region reaches, from 0 (all) to 1.
        topk: Anchors of each level that are candidates.

    Shape:
        - priors: (P_l, 4) each, P in all
        - boxes: (M, 4)
        - output: bool (P,) twice
    """
    anchors = torch.cat(list(priors))
    if not len(boxes):
        nowhere = anchors.new_zeros(len(anchors), dtype=torch.bool)
        return nowhere, nowhere
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    distances = torch.cdist(centres, (boxes[:, :2] + boxes[:, 2:]) / 2)
    nearest, start = [], 0
    for level in priors:
        own = distances[start : start + len(level)]
        nearest.append(own.topk(min(topk, len(own)), 0, largest=False).indices + start)
        start += len(level)
    candidates = torch.cat(nearest)
    ious = bbox_overlaps(anchors, boxes).gather(0, candidates)
    alpha = ious.mean(0) + ious.std(0, correction=int(len(ious) > 1))
    at = centres[candidates]
    inside = ((at > boxes[:, :2]) & (at < boxes[:, 2:])).all(-1)
    main = torch.zeros_like(distances, dtype=torch.bool)
    main.scatter_(0, candidates, (ious >= alpha) & inside)
    diou = distance_box_iou(anchors, boxes)
    valuable = (diou >= gamma * alpha) & (diou <= alpha)
    return main.any(1), valuable.any(1) & ~main.any(1)


# -------------------------------------------------------------------- branches


def decorrelation(inherit: Tensor, explore: Tensor, eps: float = 1e-3) -> Tensor:
    r"""How much of what is explored was inherited: mean squared cosine.

    .. math:: \frac{1}{NHW} \sum_p \frac{(a_p \cdot b_p)^2}
        {|a_p|^2 (|b_p|^2 + \epsilon^2 |a_p|^2)}

    with a, b the two outputs at one location, centred over channels. Our reading of
    the exploration module of Min, Wang: "Integrating Knowledge Distillation of
    Multiple Strategies", of which only the abstract can be had. `eps` keeps
    gradients finite where nothing is explored yet (b = 0), and lets an exploration
    much shorter than `eps` times the inheritance pass.

    Shape:
        - inherit, explore: (N, C, H, W), (N, C) or (N, L, C)
        - output: ()
    """
    dim = 1 if inherit.dim() == 4 else -1
    a = inherit - inherit.mean(dim, keepdim=True)
    b = explore - explore.mean(dim, keepdim=True)
    aa, bb = a.square().sum(dim), b.square().sum(dim)
    # The last summand is only for locations where both are zero.
    return ((a * b).sum(dim).square() / (aa * (bb + eps**2 * aa) + 1e-20)).mean()
