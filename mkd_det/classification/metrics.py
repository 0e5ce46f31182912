"""Accuracy and confusion matrix of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from ..errors import ConfigError, is_integer


@METRICS.register_module()
class ClassAccuracy(BaseMetric):
    """Top-k accuracy in percent, and optionally the confusion matrix as an image.

    Args:
        topk: Values of k to report.
        per_class: Log the accuracy of every class.
        picture: Image file for the confusion matrix, whose rows are normalised by the
            true class. None: no image.
        **base: Arguments of mmengine's BaseMetric.
    """

    default_prefix = 'accuracy'

    def __init__(
        self,
        topk: Sequence[int] = (1, 5),
        per_class: bool = False,
        picture: str | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        listed = isinstance(topk, (list, tuple)) and len(topk)
        if not listed or not all(is_integer(k) and k > 0 for k in topk):
            raise ConfigError(
                'ClassAccuracy: topk must be a list of integers above 0',
                actual=topk,
                fix='topk=(1, 5)',
            )
        self.topk, self.per_class, self.picture = tuple(topk), per_class, picture

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store label and top predictions of each sample."""
        for sample in data_samples:
            scores = sample['pred_score']
            best = scores.topk(min(max(self.topk), len(scores))).indices
            self.results.append((int(sample['gt_label']), best.tolist()))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the accuracies by name, such as top1 and top5, in percent."""
        labels = np.array([label for label, _ in results])
        guesses = np.array([best for _, best in results])
        hits = guesses == labels[:, None]
        metrics = {f'top{k}': 100 * float(hits[:, :k].any(1).mean()) for k in self.topk}
        names = (self.dataset_meta or {}).get('classes') or ()
        count = max(len(names), int(labels.max()) + 1, int(guesses.max()) + 1)
        matrix = np.zeros((count, count))
        np.add.at(matrix, (labels, guesses[:, 0]), 1)
        share = matrix / matrix.sum(1, keepdims=True).clip(1)
        if self.per_class:
            shown = ', '.join(
                f'{names[i] if i < len(names) else i} {100 * share[i, i]:.1f}'
                for i in range(count)
                if matrix[i].any()
            )
            MMLogger.get_current_instance().info(f'accuracy by class: {shown}')
        if self.picture:
            draw_confusion_matrix(share, names, Path(self.picture))
        return metrics


def draw_confusion_matrix(share: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Save a confusion matrix (K, K), whose rows sum to 1, as an image."""
    # Without pyplot, which selects a GUI backend for the whole process.
    from matplotlib.figure import Figure

    size = max(4.0, 0.45 * len(share) + 1.5)
    figure = Figure(figsize=(size, size), layout='constrained')
    axes = figure.subplots()
    axes.imshow(share, vmin=0, vmax=1, cmap='Blues')
    ticks = [names[i] if i < len(names) else str(i) for i in range(len(share))]
    axes.set_xticks(range(len(share)), ticks, rotation=90)
    axes.set_yticks(range(len(share)), ticks)
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    if len(share) <= 20:
        for (row, column), value in np.ndenumerate(share):
            if value >= 0.005:
                colour = 'white' if value > 0.5 else 'black'
                text = f'{100 * value:.0f}'
                axes.text(column, row, text, ha='center', va='center', color=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
