"""Formulas for boxes: distributions of sides, overlaps, regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor
from torchvision.ops import distance_box_iou

from .logits import softmax_kl


def box_distribution_kl(student: Tensor, teacher: Tensor, tau: float = 10.0) -> Tensor:
    r"""Return the KL divergence between box distributions, mean of the four sides.

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
    r"""Return 1 - GIoU of paired boxes, in [0, 2].

    Rezatofighi et al.: "Generalized Intersection over Union", CVPR 2019, arXiv
    1902.09630. Boxes that are equal up to rounding have distance 0, also those without
    area, of which the formula says nothing.

    Args:
        student: Boxes as x1, y1, x2, y2.
        teacher: Boxes as x1, y1, x2, y2.

    Shape:
        - student, teacher: (\*, 4)
        - output: (\*)
    """
    if not student.numel():
        return (student - teacher).sum(-1)  # mmdet's function has no gradient then
    # Heads with signed distances can yield x2 < x1 or y2 < y1.
    boxes = [
        torch.cat([torch.minimum(low, high), torch.maximum(low, high)], -1)
        for low, high in (box.split(2, -1) for box in (student, teacher))
    ]
    distance = 1 - bbox_overlaps(*boxes, mode='giou', is_aligned=True, eps=1e-7)
    equal = torch.isclose(boxes[0], boxes[1], rtol=1e-5, atol=1e-6).all(-1)
    return torch.where(equal, distance * 0, distance)


def relative_l1(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the mean distance of the sides of paired boxes, in sides of the teacher.

    .. math:: \frac{1}{4} \left( \frac{|x_1^s - x_1^t| + |x_2^s - x_2^t|}{w_t}
        + \frac{|y_1^s - y_1^t| + |y_2^s - y_2^t|}{h_t} \right)

    Sides of the teacher's box count as no less than a pixel.

    Args:
        student: Boxes as x1, y1, x2, y2 in pixels.
        teacher: Boxes as x1, y1, x2, y2 in pixels.

    Shape:
        - student, teacher: (\*, 4)
        - output: (\*)
    """
    sides = (teacher[..., 2:] - teacher[..., :2]).abs().clamp_min(1)
    return ((student - teacher).abs() / torch.cat([sides, sides], -1)).mean(-1)


def boxes_of_class(boxes: Tensor, classes: Tensor) -> Tensor:
    """Return the box of one class of each row.

    Args:
        boxes: Boxes of each class, or one box for all classes.
        classes: Index of a class for each row.

    Shape:
        - boxes: (N, P, 4), (N, P, 1, 4) or (N, P, K, 4)
        - classes: (N, P)
        - output: (N, P, 4)
    """
    if boxes.dim() == 3:
        return boxes
    if boxes.shape[2] == 1:
        return boxes.squeeze(2)
    index = classes[..., None, None].expand(-1, -1, 1, 4)
    return boxes.gather(2, index).squeeze(2)


def box_cells(
    boxes: Tensor, image: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return which rows and which columns of a map each box overlaps.

    A box without area overlaps one cell.

    Args:
        boxes: Boxes as x1, y1, x2, y2 in pixels.
        image: (H, W) of the image in pixels.
        size: (h, w) of the map.

    Shape:
        - boxes: (M, 4)
        - output: bool (M, h) and (M, w)
    """
    reached = []
    for axis in (1, 0):
        count = size[1 - axis]
        low, high = (boxes[:, [axis, axis + 2]] * (count / image[1 - axis])).unbind(1)
        cells = torch.arange(count, device=boxes.device)
        first = low.floor()
        last = torch.maximum(high.ceil(), first + 1)  # at least one cell
        reached.append((cells >= first[:, None]) & (cells < last[:, None]))
    return reached[0], reached[1]


def localisation_regions(
    priors: Sequence[Tensor], boxes: Tensor, gamma: float = 0.25, topk: int = 9
) -> tuple[Tensor, Tensor]:
    r"""Return the main and the valuable localization region of one image.

    Zheng et al.: "Localization Distillation for Dense Object Detection", CVPR 2022,
    arXiv 2102.12252. The main region holds the positives of ATSS (Zhang et al., CVPR
    2020, arXiv 1912.02424): the candidates of a box are the `topk` anchors of each
    level that are closest to it; positive are those whose centre is inside the box
    and whose IoU is at least :math:`\alpha`, the candidates' mean IoU plus their
    standard deviation. The valuable region holds the anchors outside the main region
    with :math:`\gamma \alpha \le \mathrm{DIoU} \le \alpha` for some box (DIoU: Zheng et
    al., AAAI 2020, arXiv 1911.08287).

    Args:
        priors: Anchors of each level.
        boxes: Boxes of one image, as x1, y1, x2, y2.
        gamma: Extent of the valuable region: 0 is the largest, 1 the smallest.
        topk: Number of candidates per level and box.

    Shape:
        - priors: (P_l, 4) each, P in total
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
