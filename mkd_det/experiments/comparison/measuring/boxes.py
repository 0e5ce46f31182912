"""Box mAP of weighted images: what COCOeval finds image by image, summed up anew."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric
from pycocotools.cocoeval import COCOeval

# IoU that each of COCO's figures counts; all of them where None.
_OVERLAPS = {'bbox_mAP': None, 'bbox_mAP_50': 0.5, 'bbox_mAP_75': 0.75}
# COCOeval takes the mAP of at most so many boxes of an image and class.
_MOST_BOXES = 100


@dataclass(frozen=True)
class BoxResults:
    """Detections in a set of images, and which of them are right.

    Detections of a class lie together, in the order of the images.

    Args:
        images: Ids of the images (I,).
        image: Index of each detection's image (D,).
        category: Index of its class (D,).
        box: Its x, y, width and height (D, 4).
        score: Its score (D,).
        matched: Whether it is matched to an object, for each IoU (T, D).
        ignored: Whether it does not count, for each IoU (T, D).
        objects: Number of objects that count, of each class in each image (K, I).
        recalls: Recalls at which precision is averaged (R,).
    """

    images: np.ndarray
    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray
    recalls: np.ndarray

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return the mAP of images that count several times, or not at all.

        It is exactly COCOeval's of a data set in which the images stand so often.

        Args:
            weights: Integers of shape (N, I).

        Returns:
            Shape (N,); NaN where no object is left.
        """
        overlaps, classes = len(self.matched), len(self.objects)
        shape = (len(weights), overlaps, len(self.recalls), classes)
        precision = np.full(shape, -1.0)
        for k in range(classes):
            of_class = np.flatnonzero(self.category == k)
            order = np.argsort(-self.score[of_class], kind='mergesort')
            chosen = of_class[order]
            counts = weights @ self.objects[k]
            known = np.flatnonzero(counts)
            for t in range(overlaps if len(known) else 0):
                precision[known, t, :, k] = self._precision(
                    chosen[~self.ignored[t, chosen]], t, weights[known], counts[known]
                )
        means = (one[one > -1] for one in precision)
        return np.array([one.mean() if len(one) else np.nan for one in means])

    def _precision(
        self, chosen: np.ndarray, t: int, weights: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        """Return the precision of one class at each recall.

        Precision is highest, and recall changes, where an object is found: other
        detections need not be looked at one by one.

        Args:
            chosen: Indices of the detections, by falling score.
            t: Index of the IoU.
            weights: Of each image, shape (N, I).
            counts: Number of objects, shape (N,).

        Returns:
            Shape (N, R).
        """
        right = self.matched[t, chosen]
        each = weights[:, self.image[chosen]]
        seen = np.cumsum(each, axis=1)[:, right].astype(float)
        found = np.cumsum(each[:, right], axis=1).astype(float)
        values = found / (seen + np.spacing(1))
        best = np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1]
        best = np.pad(best, ((0, 0), (0, 1)))  # recalls that are not reached
        recall = found / counts[:, None]
        index = [np.searchsorted(one, self.recalls, side='left') for one in recall]
        return np.take_along_axis(best, np.array(index).reshape(len(best), -1), axis=1)


def read_boxes(metric: Any, results: Sequence[Any], key: str) -> BoxResults | None:
    """Return the detections that a CocoMetric has evaluated.

    Args:
        metric: The metric, after its evaluation.
        results: Its results before.
        key: Key of the figure that counts.

    Returns:
        None for other metrics and figures, and where nothing was detected.
    """
    prefix, _, name = key.rpartition('/')
    if not isinstance(metric, CocoMetric) or metric.prefix != prefix:
        return None
    if name not in _OVERLAPS or 'bbox' not in metric.metrics:
        return None
    with tempfile.TemporaryDirectory() as folder:
        files = metric.results2json([found for _, found in results], f'{folder}/x')
        detections = json.loads(Path(files['bbox']).read_text())
    if not detections:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        truth = metric._coco_api
        evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
        settings = evaluation.params
        settings.catIds, settings.imgIds = metric.cat_ids, metric.img_ids
        settings.maxDets, settings.iouThrs = list(metric.proposal_nums), metric.iou_thrs
        settings.areaRng, settings.areaRngLbl = settings.areaRng[:1], ['all']
        evaluation.evaluate()
    overlap = _OVERLAPS[name]
    most = _MOST_BOXES if overlap is None else evaluation.params.maxDets[-1]
    return _read(evaluation, overlap, most)


def _read(evaluation: COCOeval, overlap: float | None, most: int) -> BoxResults:
    """Return what COCOeval has found, at most so many boxes of an image and class."""
    settings = evaluation.params
    wanted = np.ones(len(settings.iouThrs), bool)
    if overlap is not None:
        wanted = np.asarray(settings.iouThrs) == overlap
    place = {image: index for index, image in enumerate(settings.imgIds)}
    objects = np.zeros((len(settings.catIds), len(place)), int)
    parts: dict[str, list[Any]] = {
        name: [] for name in ('image', 'category', 'ids', 'score')
    }
    matched, ignored = [], []
    classes = {category: index for index, category in enumerate(settings.catIds)}
    for one in filter(None, evaluation.evalImgs):
        image, category = place[one['image_id']], classes[one['category_id']]
        objects[category, image] = np.count_nonzero(np.asarray(one['gtIgnore']) == 0)
        ids = one['dtIds'][:most]
        parts['image'] += [image] * len(ids)
        parts['category'] += [category] * len(ids)
        parts['ids'] += ids
        parts['score'] += one['dtScores'][:most]
        matched.append(one['dtMatches'][wanted, :most] > 0)
        ignored.append(one['dtIgnore'][wanted, :most] > 0)
    annotations: Mapping[int, Any] = evaluation.cocoDt.anns
    return BoxResults(
        images=np.array(settings.imgIds),
        image=np.array(parts['image'], int),
        category=np.array(parts['category'], int),
        box=np.array([annotations[i]['bbox'] for i in parts['ids']], np.float32),
        score=np.array(parts['score'], float),
        matched=np.concatenate(matched, axis=1),
        ignored=np.concatenate(ignored, axis=1),
        objects=objects,
        recalls=np.asarray(settings.recThrs),
    )
