"""Formulas for feature maps: attention, relations, correlations, pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .logits import softmax_kl


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


def l2_normalize(x: Tensor, dim: int | tuple[int, ...], eps: float = 1e-12) -> Tensor:
    """`x` divided by its L2 norm along `dim`.

    What is shorter than `eps` becomes zero and gets no gradient: dividing by
    `eps` instead, as `F.normalize` does, would give it one of size 1 / eps.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    # `<=`, not `>`: what is not a number shall stay visible.
    return torch.where(norm <= eps, torch.zeros_like(x), x / norm.clamp_min(eps))


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
    s, t = (l2_normalize(level, dim=1, eps=1e-6) for level in (student, teacher))

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


def weighted_average(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of figures; 0 where there are none, and where all weights are 0.

    Shape:
        - values, weights: (M,)
        - output: ()
    """
    if weights is None:
        return values.mean() if len(values) else values.sum()
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


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
