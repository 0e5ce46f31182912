"""Accuracies of a classifier by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from PIL import Image

from mkd_det.errors import ConfigError

# Four classes; the scores' order is the order of the guesses.
SAMPLES = [
    (0, [0.4, 0.3, 0.2, 0.1]),  # first guess
    (0, [0.3, 0.4, 0.2, 0.1]),  # second
    (1, [0.2, 0.1, 0.3, 0.4]),  # fourth
    (2, [0.1, 0.2, 0.4, 0.3]),  # first
    (2, [0.1, 0.2, 0.3, 0.4]),  # second
]


def evaluate(classes: tuple[str, ...] | None = None, **args: Any) -> dict[str, float]:
    metric = METRICS.build(dict(type='ClassAccuracy', **args))
    if classes:
        metric.dataset_meta = dict(classes=classes)
    samples = [
        dict(gt_label=torch.tensor([label]), pred_score=torch.tensor(scores))
        for label, scores in SAMPLES
    ]
    metric.process(None, samples[:2])
    metric.process(None, samples[2:])
    return metric.evaluate(len(samples))


def test_topk_accuracy_in_percent() -> None:
    assert evaluate(topk=(1, 2, 3)) == pytest.approx(
        {'accuracy/top1': 40.0, 'accuracy/top2': 80.0, 'accuracy/top3': 80.0}
    )


def test_more_predictions_than_classes_are_valid() -> None:
    assert evaluate()['accuracy/top5'] == 100.0


def test_accuracy_by_class_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    logger = MMLogger.get_instance('metric', logger_name='metric')
    logger.addHandler(caplog.handler)
    evaluate(classes=('cat', 'dog', 'owl', 'cow'), per_class=True)
    (line,) = [r.getMessage() for r in caplog.records if 'by class' in r.getMessage()]
    # No cow was shown.
    assert line.endswith('cat 50.0, dog 0.0, owl 50.0')


def test_the_confusion_matrix_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / 'plots/confusion.png'
    evaluate(classes=('cat', 'dog', 'owl', 'cow'), picture=str(path))
    pixels = np.asarray(Image.open(path).convert('RGB')).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0]) > 50
    # A dog is always taken for a cow: the darkest cell. Cat and owl are half right.
    assert blue.mean() > 0.05


@pytest.mark.parametrize('topk', [(), (0,), 5, (1.5,)])
def test_impossible_topk(topk: Any) -> None:
    with pytest.raises(ConfigError, match='topk'):
        METRICS.build(dict(type='ClassAccuracy', topk=topk))
