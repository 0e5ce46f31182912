"""Formulas for feature maps: attention, relations, correlations, pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .logits import softmax_kl


def as_map(level: Tensor) -> Tensor:
    """Reshape a level of any kind to a map.

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
    r"""Average-pool maps to the smallest height and the smallest width among them.

    Shape:
        - maps: (N, \*, H_i, W_i)
        - output: for each map (N, \*, min H_i, min W_i)
    """
    size = (min(m.shape[-2] for m in maps), min(m.shape[-1] for m in maps))
    return tuple(pool_to(m, size) for m in maps)


def pool_to(level: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map to `size` (H, W); return a map of that size unchanged.

    Shape:
        - level: (N, C, H, W)
        - output: (N, C, H, W) of `size`
    """
    same = tuple(level.shape[-2:]) == size
    return level if same else F.adaptive_avg_pool2d(level, size)


def l2_normalize(x: Tensor, dim: int | tuple[int, ...], eps: float = 1e-12) -> Tensor:
    """Divide `x` by its L2 norm along `dim`.

    Vectors shorter than `eps` become zero and get no gradient. `F.normalize` divides
    them by `eps`, which gives a gradient of size 1 / eps.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    # `<=` instead of `>`: NaN stays NaN.
    return torch.where(norm <= eps, torch.zeros_like(x), x / norm.clamp_min(eps))


def fsp_matrix(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Return the flow between two layers: inner products of their channels.

    .. math:: G_{ij} = \frac{1}{HW} \sum_p F^1_{ip} F^2_{jp}

    Yim et al.: "A Gift from Knowledge Distillation: Fast Optimization, Network
    Minimization and Transfer Learning", CVPR 2017. Maps of different size are
    averaged down to the smaller (the paper takes the maximum).

    Args:
        first: The earlier layer.
        second: The later layer.
        mask: Weight of each position; its scale has no effect.

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
    r"""Return the distance between two maps' position similarities, one per image.

    .. math:: \sum_{pq} w_p w_q (\cos(s_p, s_q) - \cos(t_p, t_q))^2,
        \quad w_p = \frac{1}{HW}

    After Tung, Mori: "Similarity-Preserving Knowledge Distillation", ICCV 2019,
    arXiv 1907.09682. The paper compares the images of a batch; here, the positions
    of an image are compared, so the batch size has no effect. The (HW, HW) matrices
    are never built: the inner product of two of them is the squared norm of a
    channels-by-channels matrix,
    :math:`\sum_{pq} w_p w_q \cos(a_p, a_q) \cos(b_p, b_q) = \|A W B^T\|_F^2`.

    Args:
        student: Map of the student.
        teacher: Map of the teacher, of the same size.
        mask: Weight of each position; its scale has no effect.

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
    """Return the spatial attention of a map: the sum of squares over channels.

    Zagoruyko, Komodakis: "Paying More Attention to Attention", ICLR 2017, arXiv
    1612.03928. The result is not normalised. The published code takes the mean over
    channels, which is the same after normalisation.

    Shape:
        - level: (N, C, H, W)
        - output: (N, 1, H, W)
    """
    return level.square().sum(1, keepdim=True)


def channel_standardise(
    level: Tensor, mask: Tensor | None = None, eps: float = 1e-8
) -> Tensor:
    """Standardise each channel to mean 0 and variance 1 over images and positions.

    Cao et al.: "PKD: General Distillation Framework for Object Detectors via
    Pearson Correlation Coefficient", NeurIPS 2022, arXiv 2207.02039. The variance is
    the biased one and `eps` is added to it before the root, so a constant channel (a
    1x1 map at batch 1) becomes zero and has finite gradients.

    Args:
        level: The map.
        mask: Weight of each position in mean and variance.
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
    """Return the mean of (N, C, L) over images and positions, (C, 1)."""
    if weights is None:
        # Two steps are several times as fast on CPUs as one mean over both dimensions.
        return rows.mean(2).mean(0).unsqueeze(1)
    total = weights.sum().clamp_min(1e-6)
    return ((rows * weights).sum(2).sum(0) / total).unsqueeze(1)


def channel_kl(
    student: Tensor, teacher: Tensor, tau: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Return the KL divergence between the channels' distributions over positions.

    .. math:: \tau^2 \mathrm{KL}\left(\mathrm{softmax}_p(F^t_c / \tau) \,\|\,
        \mathrm{softmax}_p(F^s_c / \tau)\right)

    Shu et al.: "Channel-wise Knowledge Distillation for Dense Prediction", ICCV
    2021, arXiv 2011.13256.

    Args:
        student: Map of the student.
        teacher: Map of the teacher.
        tau: Temperature.
        mask: Weight of each position: both distributions are multiplied by it.

    Shape:
        - student, teacher: (N, C, H, W)
        - mask: (N, 1, H, W)
        - output: (N, C)
    """
    if mask is not None:
        # A floor above 0: the logarithm of 0 would give 0 * inf in the KL.
        offset = mask.clamp_min(1e-6).log() * tau
        student, teacher = student + offset, teacher + offset
    return softmax_kl(student.flatten(2), teacher.flatten(2), tau)


def weighted_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of a map, positions weighted by `mask`; 0 if the mask is all 0.

    Shape:
        - values: (N, C, H, W)
        - mask: (N, 1, H, W)
        - output: ()
    """
    if mask is None:
        return values.mean()
    return (values.mean(1, keepdim=True) * mask).sum() / mask.sum().clamp_min(1e-6)


def weighted_average(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the weighted mean of `values`; 0 for no values or all-zero weights.

    Shape:
        - values, weights: (M,)
        - output: ()
    """
    if weights is None:
        return values.mean() if len(values) else values.sum()
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


def decorrelation(inherit: Tensor, explore: Tensor, eps: float = 1e-3) -> Tensor:
    r"""Return the mean squared cosine between inherited and explored features.

    .. math:: \frac{1}{NHW} \sum_p \frac{(a_p \cdot b_p)^2}
        {|a_p|^2 (|b_p|^2 + \epsilon^2 |a_p|^2)}

    where a and b are the two outputs at a position, centred over channels. This is our
    reading of the exploration module of Min, Wang: "Integrating Knowledge Distillation
    of Multiple Strategies"; only the abstract is available. `eps` keeps gradients
    finite while nothing is explored yet (b = 0); explored features much shorter than
    `eps` times the inherited ones are not penalised.

    Shape:
        - inherit, explore: (N, C, H, W), (N, C) or (N, L, C)
        - output: ()
    """
    dim = 1 if inherit.dim() == 4 else -1
    a = inherit - inherit.mean(dim, keepdim=True)
    b = explore - explore.mean(dim, keepdim=True)
    aa, bb = a.square().sum(dim), b.square().sum(dim)
    # The last summand only matters where both are zero.
    return ((a * b).sum(dim).square() / (aa * (bb + eps**2 * aa) + 1e-20)).mean()
