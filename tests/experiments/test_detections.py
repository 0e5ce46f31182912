"""Detections are drawn where they are, and only those that are sure enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.structures import InstanceData
from PIL import Image

from mkd_det.experiments import detections
from mkd_det.experiments.detections import (
    DetectedImage,
    draw_detections,
    ground_truth,
)


def test_boxes_are_drawn_in_their_column_at_their_place(tmp_path: Path) -> None:
    found = InstanceData(
        bboxes=torch.tensor([[40.0, 20, 72, 36], [4, 4, 30, 30]]),
        labels=torch.tensor([1, 0]),
        scores=torch.tensor([0.9, 0.1]),
    )
    image = np.full((40, 80, 3), 200, np.uint8)
    truth = ground_truth([], [])
    one = DetectedImage(
        image, {'ground truth': truth, 'a long title of a model': found}
    )
    draw_detections([one, one], ['a', 'b'], tmp_path / 'x.png')
    picture = np.asarray(Image.open(tmp_path / 'x.png').convert('RGB')).astype(int)
    head, gap, side = detections._HEAD, detections._GAP, detections.SIDE
    assert picture.shape == (head + 2 * (side // 2 + gap), 2 * side + 3 * gap, 3)

    def colour_at(x: int, y: int, column: int) -> list[int]:
        left = gap + column * (side + gap)
        return picture[head + 4 * y, left + 4 * x].tolist()

    red = [0xC8, 0x1E, 0x28]  # of the second class
    assert np.abs(np.subtract(colour_at(72, 30, 1), red)).max() < 40, 'the right edge'
    assert colour_at(56, 28, 1) == [200] * 3, 'inside of the box'
    assert colour_at(4, 15, 1) == [200] * 3, 'a low score is not drawn'
    assert colour_at(72, 30, 0) == [200] * 3, 'the ground truth has no box'


def test_ground_truth_has_a_score_of_one() -> None:
    truth = ground_truth([(1, 2, 3, 4)], [2])
    assert truth.bboxes.tolist() == [[1, 2, 3, 4]]
    assert (truth.labels.tolist(), truth.scores.tolist()) == ([2], [1])
