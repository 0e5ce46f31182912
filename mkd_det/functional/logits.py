"""Formulas for class scores: divergences, focal and balanced losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# The smallest number of float32 with all its digits.
_TINY = torch.finfo(torch.float32).tiny


def softmax_kl(student: Tensor, teacher: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    r"""Return the KL divergence between softened distributions, one per distribution.

    .. math:: \tau^2 \sum_k p^t_k (\log p^t_k - \log p^s_k),
        \quad p = \mathrm{softmax}(z / \tau)

    Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", NIPS
    workshop 2014, arXiv 1503.02531. The mean of the output equals PyTorch's reduction
    'batchmean'; PyTorch's 'mean' also divides by the number of classes.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        tau: Temperature, a number or one per distribution. The factor tau^2 makes
            the size of the gradient independent of the temperature.

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
    r"""Return the two parts of decoupled distillation, (TCKD, NCKD).

    TCKD compares the label's probability with the rest, NCKD compares the
    distributions over the other classes:

    .. math:: \tau^2 \mathrm{KL}((p^t_y, 1 - p^t_y) \| (p^s_y, 1 - p^s_y)), \qquad
        \tau^2 \mathrm{KL}(\hat p^t \| \hat p^s), \quad
        \hat p = \mathrm{softmax}(z_{k \neq y} / \tau)

    Zhao, Cui, Song, Qiu, Liang: "Decoupled Knowledge Distillation", CVPR 2022, arXiv
    2203.08679. The usual KL divergence equals TCKD + :math:`(1 - p^t_y)` NCKD.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: Ground-truth class of each sample.
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
    r"""Return binary cross entropy with soft targets, weighted by the disagreement.

    .. math:: \tau^e |\sigma_t - \sigma_s|^\beta \,
        \mathrm{BCE}(\sigma_s, \sigma_t), \quad \sigma = \sigma(z / \tau)

    Wang et al.: "CrossKD: Cross-Head Knowledge Distillation for Object Detection",
    CVPR 2024, arXiv 2306.11369; the weight is that of the quality focal loss (Li et
    al. 2020, arXiv 2006.04388). The gradient also flows through the weight, as in the
    published code. The minimum is 0, or the teacher's entropy for `beta` 0.

    The exponent e keeps the size of the gradient at high temperatures: beta, where
    the gradient through the weight is the larger one, and 2 for `beta` 0, as for a
    plain cross entropy.

    Args:
        student: Logits of independent classes.
        teacher: Logits of independent classes.
        beta: Exponent of the weight: 0 or at least 1. Between 0 and 1 the gradient
            is infinite where student and teacher agree.
        tau: Temperature of both sides.

    Shape:
        - student, teacher, output: (\*)
    """
    loss = sigmoid_focal(student / tau, (teacher / tau).sigmoid(), beta, None)
    return loss * tau ** (beta or 2)


def class_factors(counts: Tensor, exponent: float, rarest: float = 0.05) -> Tensor:
    r"""Return a weight per class that gives rare classes more influence.

    .. math:: w_c = v_c^b \frac{\sum_k n_k}{\sum_k v_k^b n_k}, \quad
        v_c = \frac{\bar n}{n_c}

    with :math:`\bar n` the mean count. Exponent 1 is inverse frequency: :math:`w_c n_c`
    is the same for every class. The weights keep the total:
    :math:`\sum_c w_c n_c = \sum_c n_c`.

    A count below :math:`r \bar n` says little: a class that never occurs has a count of
    noise. From there on v falls again, in proportion to the count and down to 1.

    Args:
        counts: How much of each class there is, not negative.
        exponent: b, from 0 (all weights 1) to 1.
        rarest: r, above 0. No class weighs more than 1 / r times what a class of mean
            count weighs.

    Shape:
        - counts, output: (C)
    """
    mean = counts.mean()
    relative = torch.where(mean > 0, counts / mean, torch.ones_like(counts))
    rare = (relative / rarest**2).clamp_min(1)
    factors = torch.where(relative < rarest, rare, 1 / relative) ** exponent
    return factors / (factors * relative).mean()


def binary_kl(student: Tensor, teacher: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    r"""Return the KL divergence of independent classes, summed over classes.

    .. math:: \tau^2 \sum_k \left( \mathrm{BCE}(\sigma_s, \sigma_t)
        - \mathrm{BCE}(\sigma_t, \sigma_t) \right), \quad \sigma = \sigma(z_k / \tau)

    Each class is a two-way distribution (class, not the class), compared as in Hinton
    et al., arXiv 1503.02531.

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
    r"""Return the distance between a teacher and its pruned copy.

    .. math:: d = \| p_t - p_p \|_2

    "DLKD: Difficulty-Level based Knowledge Distillation", Neurocomputing 2024,
    10.1016/j.neucom.2024.128375.

    Shape:
        - teacher, pruned: probabilities (\*, K)
        - output: (\*), in :math:`[0, \sqrt 2]`
    """
    return (teacher - pruned).square().sum(-1).sqrt()


def normalized_ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, scaled from 0 (smallest) to 1 (largest).

    Equal values have equal ranks. All ranks are 0 if all values are equal.

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


def entropy(probabilities: Tensor) -> Tensor:
    r"""Return the entropy of distributions, in nats.

    Shape:
        - probabilities: (\*, K)
        - output: (\*), from 0 to :math:`\log K`
    """
    return torch.special.entr(probabilities).sum(-1)


def unexplained(values: Tensor, by: Tensor) -> Tensor:
    """Return what is left of the ranks of values after those of others.

    The residual of a linear regression of the ranks, each from 0 to 1.

    Shape:
        - values, by, output: (M,)
    """
    ranks, others = (normalized_ranks(v) for v in (values, by))
    ranks, others = (r - r.mean() if len(r) else r for r in (ranks, others))
    spread = others.square().sum()
    slope = (ranks * others).sum() / spread.clamp_min(torch.finfo(spread.dtype).tiny)
    return ranks - slope * others


def softmax_focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    r"""Return the focal loss of a softmax, for hard and soft targets.

    .. math:: -\sum_k t_k |t_k - p_k|^\gamma \log p_k

    Lin et al.: "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002,
    which has the sigmoid form and hard targets, where :math:`|t_k - p_k|` is
    :math:`1 - p_k`. With :math:`(1 - p_k)^\gamma` for soft targets the loss would be
    least at other probabilities than the targets; this one is 0 at the targets.

    Args:
        logits: Logits of mutually exclusive classes.
        target: Target probabilities.
        gamma: Focusing exponent: larger values down-weight easy samples more; 0 is
            cross entropy.

    Shape:
        - logits, target: (\*, K)
        - output: (\*)
    """
    log_p = logits.log_softmax(-1)
    # As targets are made: rounded in another way, gamma=1 has a gradient at agreement.
    weights = (target - logits.softmax(-1)).abs() ** gamma if gamma else 1.0
    return -(target * weights * log_p).sum(-1)


def sigmoid_focal(
    logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float | None = 0.25
) -> Tensor:
    r"""Return the focal loss of independent classes, for hard and soft targets.

    .. math:: (\alpha t + (1 - \alpha)(1 - t)) \, |t - \sigma|^\gamma \,
        \mathrm{BCE}(\sigma, t)

    Lin et al.: "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002,
    where t is 0 or 1 and :math:`|t - \sigma|` is :math:`1 - p_t`. For t between 0 and 1
    it is the quality focal loss of Li et al., NeurIPS 2020, arXiv 2006.04388, with
    alpha.

    Args:
        logits: Logits of independent classes.
        target: Target probabilities.
        gamma: Focusing exponent: larger values down-weight easy samples more; 0 is
            binary cross entropy.
        alpha: Weight of positives; negatives have 1 - alpha. None: both have 1.

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
    r"""Return class weights by the effective number of samples, with mean 1.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}

    Cui et al.: "Class-Balanced Loss Based on Effective Number of Samples", CVPR
    2019, arXiv 1901.05555. The weights sum to the number of classes, as in the paper.

    Args:
        counts: Number of samples of each class, all above 0.
        beta: From 0 (all weights 1) towards 1 (inverse frequency).

    Shape:
        - counts, output: (C,)
    """
    weights = (1 - beta) / (1 - beta ** counts.double())
    return (weights / weights.mean()).float()


def logit_rows(logits: Tensor) -> Tensor:
    """Reshape logits to one row per sample or position.

    Shape:
        - logits: (N, K), (N, L, K) or (N, K, H, W)
        - output: (M, K)
    """
    if logits.dim() == 4:
        logits = logits.movedim(1, -1)
    return logits.flatten(0, -2)


def pearson_distance(one: Tensor, other: Tensor, eps: float = 1e-6) -> Tensor:
    r"""Return one minus Pearson's correlation of paired rows.

    .. math:: 1 - \frac{\langle u - \bar u, v - \bar v \rangle}
        {\| u - \bar u \| \, \| v - \bar v \|}

    The distance is 0 where a row is constant: where its deviation from its mean is at
    most `eps` of its norm. A bound on the deviation itself, as in published code, would
    take rows of small numbers for constant, such as the probabilities of one class of
    a thousand.

    Shape:
        - one, other: (M, K)
        - output: (M,)
    """
    product, constant = torch.ones_like(one), torch.zeros_like(one[:, 0]).bool()
    for x in (one, other):
        # Scaled first: squares of small numbers would be 0.
        x = x / x.detach().abs().amax(-1, keepdim=True).clamp_min(_TINY)
        centred = x - x.mean(-1, keepdim=True)
        norm = centred.norm(dim=-1)
        constant = constant | (norm <= eps * x.norm(dim=-1))
        product = product * centred / norm.clamp_min(_TINY)[:, None]
    distance = 1 - product.sum(-1)
    return torch.where(constant, torch.zeros_like(distance), distance)


def joint_logit(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the logit of the product of two probabilities, given as logits.

    .. math:: \mathrm{logit}(\sigma(a) \sigma(b))
        = -\log(e^{-a} + e^{-b} + e^{-a - b})

    It is finite, and so is its gradient, wherever a and b are.

    Args:
        first: Logits a, such as those of classes.
        second: Logits b, such as that of an object.

    Shape:
        - first, second: of shapes that can be broadcast
        - output: of their common shape
    """
    first, second = torch.broadcast_tensors(first, second)
    terms = torch.stack([-first, -second, -first - second])
    return -terms.logsumexp(0)


def merged_logits(
    logits: Tensor, groups: Sequence[Sequence[int]], exclusive: bool, dim: int = -1
) -> Tensor:
    r"""Return logits of classes that are each a union of the given ones.

    .. math:: \log \sum_{k \in g} e^{z_k} \quad \text{for exclusive classes}, \qquad
        \max_{k \in g} z_k \quad \text{for independent ones}

    Probabilities of exclusive classes add up; of the softmax over the result, each is
    the sum over its group, renormalised over all groups. The probability of a union of
    independent classes is no less than the largest of them. A group of one class is
    that class, unchanged.

    Args:
        logits: The logits.
        groups: Indices of the classes of each new class, at least one.
        exclusive: Whether the classes exclude each other.
        dim: The dimension of the classes.

    Shape:
        - logits: K at `dim`
        - output: as many as there are groups at `dim`
    """

    def select(columns: Sequence[int]) -> Tensor:
        index = torch.tensor(columns, dtype=torch.long, device=logits.device)
        return logits.index_select(dim, index)

    if len(groups) == logits.shape[dim] and [*groups] == [
        (index,) for index in range(len(groups))
    ]:
        return logits
    merged = select([group[0] for group in groups])
    several = [index for index, group in enumerate(groups) if len(group) > 1]
    if not several:
        return merged
    unions = []
    for group in (groups[index] for index in several):
        parts = select(group)
        unions.append(
            parts.logsumexp(dim, keepdim=True)
            if exclusive
            else parts.amax(dim, keepdim=True)
        )
    at = torch.tensor(several, dtype=torch.long, device=logits.device)
    return merged.index_copy(dim, at, torch.cat(unions, dim))
