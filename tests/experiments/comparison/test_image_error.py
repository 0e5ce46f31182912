"""The error of a figure that comes from the images: COCOeval's own, drawn again."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mkd_det.classification.metrics import ClassAccuracy
from mkd_det.experiments.comparison.measuring.boxes import BoxResults, read_boxes
from mkd_det.experiments.comparison.measuring.image_error import image_errors
from mkd_det.experiments.comparison.measuring.image_results import (
    HitResults,
    from_arrays,
    read_images,
    to_arrays,
)

IMAGES, CLASSES = 12, ('a', 'b', 'absent')
BOX = 'coco/bbox_mAP'


def write_truth(path: Path, random: np.random.Generator) -> list[dict[str, Any]]:
    """Objects of two classes in images of which some are empty; one is a crowd."""
    objects: list[dict[str, Any]] = []
    for image in range(IMAGES):
        for _ in range(random.integers(0, 5)):
            x, y, w, h = random.uniform(5, 40, 4).tolist()
            category = int(random.integers(1, 3))
            known = dict(image_id=image, category_id=category, iscrowd=0)
            objects.append(dict(known, id=len(objects) + 1, bbox=[x, y, w, h]))
            objects[-1]['area'] = w * h
    objects[3]['iscrowd'] = 1
    content = dict(
        images=[dict(id=i, width=100, height=100) for i in range(IMAGES)],
        annotations=objects,
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )
    path.write_text(json.dumps(content))
    return objects


def evaluated(path: Path, seed: int = 0) -> tuple[CocoMetric, list[Any]]:
    """A metric that has evaluated noisy detections, and what it was given."""
    random = np.random.default_rng(seed)
    objects = write_truth(path, np.random.default_rng(0))
    with contextlib.redirect_stdout(io.StringIO()):
        metric = CocoMetric(ann_file=str(path), metric='bbox')
        metric.dataset_meta = dict(classes=CLASSES)
        for image in range(IMAGES):
            own = [o for o in objects if o['image_id'] == image] * 3
            boxes = np.array([o['bbox'] for o in own]).reshape(-1, 4)
            boxes = boxes + random.normal(0, 2.5, boxes.shape)
            boxes[:, 2:] += boxes[:, :2]
            labels = [o['category_id'] - 1 for o in own]
            labels = np.where(random.random(len(own)) < 0.8, labels, 1)
            found = dict(
                bboxes=torch.tensor(boxes),
                scores=torch.tensor(random.random(len(own))),
                labels=torch.tensor(labels).long(),
            )
            sample = dict(img_id=image, ori_shape=(100, 100), pred_instances=found)
            metric.process({}, [sample])
        results = list(metric.results)
        metric.evaluate(IMAGES)
    return metric, results


def reference(metric: CocoMetric, results: list[Any], path: Path) -> COCOeval:
    files = metric.results2json([found for _, found in results], str(path))
    truth: COCO = metric._coco_api
    evaluation = COCOeval(truth, truth.loadRes(files['bbox']), 'bbox')
    evaluation.params.catIds, evaluation.params.imgIds = metric.cat_ids, metric.img_ids
    evaluation.params.maxDets = list(metric.proposal_nums)
    evaluation.evaluate()
    return evaluation


def repeated(evaluation: COCOeval, weights: np.ndarray) -> list[float]:
    """COCOeval's figures of a data set in which the images stand so often."""
    settings = evaluation.params
    shape = (len(settings.catIds), len(settings.areaRng), len(weights))
    each = np.empty(shape, object)
    each[:] = np.array([*evaluation.evalImgs, None], object)[:-1].reshape(shape)
    order = np.repeat(np.arange(len(weights)), weights)
    evaluation.evalImgs = list(each[..., order].ravel())
    evaluation._paramsEval.imgIds = settings.imgIds = list(range(len(order)))
    evaluation.accumulate()
    evaluation.summarize()
    return list(evaluation.stats[:3])


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[CocoMetric, list[Any]]:
    return evaluated(tmp_path_factory.mktemp('coco') / 'truth.json')


@pytest.mark.parametrize('figure', ['', '_50', '_75'])
def test_images_that_count_once_give_cocoevals_own_figure(
    found: Any, figure: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    metric, results = found
    read = read_boxes(metric, results, BOX + figure)
    assert read is not None and len(read.images) == IMAGES
    evaluation = reference(metric, results, tmp_path / 'x')
    evaluation.accumulate()
    evaluation.summarize()
    expected = evaluation.stats[('', '_50', '_75').index(figure)]
    (value,) = read.values(np.ones((1, IMAGES), int))
    assert value == expected and 0.05 < value < 0.95  # to the last digit


def test_images_that_count_several_times_stand_several_times(
    found: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    metric, results = found
    read = read_boxes(metric, results, BOX)
    assert read is not None
    random = np.random.default_rng(1)
    weights = random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=6)
    values = read.values(weights)
    assert len(set(values)) == 6
    for one, value in zip(weights, values, strict=True):
        expected = repeated(reference(metric, results, tmp_path / 'x'), one)[0]
        assert value == pytest.approx(expected, abs=1e-12)


def test_samples_without_objects_have_no_figure(found: Any) -> None:
    read = read_boxes(*found, BOX)
    assert read is not None
    weights = np.zeros((2, IMAGES), int)
    empty = np.flatnonzero(read.objects.sum(0) == 0)
    assert len(empty)
    weights[0, empty[0]] = IMAGES
    weights[1] = 1
    values = read.values(weights)
    assert math.isnan(values[0]) and values[1] == read.values(weights[1:])[0]


def test_predictions_travel_through_a_file(found: Any, tmp_path: Path) -> None:
    read = read_boxes(*found, BOX)
    assert read is not None
    np.savez(tmp_path / 'x.npz', **to_arrays(read))
    with np.load(tmp_path / 'x.npz', allow_pickle=False) as arrays:
        again = from_arrays('BoxResults', arrays)
    assert isinstance(again, BoxResults)
    once = np.ones((1, IMAGES), int)
    assert again.values(once) == read.values(once)
    boxes = [tuple(box) for _, one in found[1] for box in one['bboxes'][:, :2]]
    assert {tuple(box) for box in read.box[:, :2]} == {
        tuple(np.float32(v) for v in box) for box in boxes
    }


def test_figures_that_are_no_sum_of_images_are_left_out(found: Any) -> None:
    metric, results = found
    for key in ('coco/bbox_mAP_s', 'coco/segm_mAP', 'other/bbox_mAP', 'bbox_mAP'):
        assert read_images(metric, results, key) is None, key
    nothing = [(truth, {k: v[:0] for k, v in one.items() if k != 'img_id'})
               for truth, one in results]  # fmt: skip
    assert read_images(metric, nothing, BOX) is None
    assert from_arrays('', {}) is None


def test_the_accuracy_of_a_classifier() -> None:
    metric = ClassAccuracy(topk=(1, 2))
    results = [(0, [0, 1]), (1, [0, 1]), (2, [0, 1]), (1, [1, 0])]
    top1 = read_images(metric, results, 'accuracy/top1')
    top2 = read_images(metric, results, 'accuracy/top2')
    assert isinstance(top1, HitResults) and isinstance(top2, HitResults)
    weights = np.array([[1, 1, 1, 1], [0, 0, 4, 0], [2, 0, 1, 1]])
    assert top1.values(weights).tolist() == [50.0, 0.0, 75.0]
    assert top2.values(weights).tolist() == [75.0, 0.0, 75.0]


def test_the_error_of_an_accuracy_is_the_binomial_one() -> None:
    """sqrt(p (1 - p) / n); of a difference, that of the images that differ."""
    count = 400
    hits = np.arange(count) < 0.3 * count
    better = np.arange(count) < 0.4 * count
    numbers = np.arange(count)
    rows = {
        'alone': [HitResults(numbers, hits)] * 2,
        'row': [HitResults(numbers, better)],
    }
    found = image_errors(rows, 4000)
    assert found['alone'].difference is None and found['alone'].images == count
    expected = 100 * math.sqrt(0.3 * 0.7 / count)
    assert found['alone'].deviation == pytest.approx(expected, rel=0.05)
    row = found['row']
    # A tenth of the images is known to the row only.
    deviation = 100 * math.sqrt(0.1 * 0.9 / count)
    assert row.difference == pytest.approx(deviation, rel=0.05)
    bounds = (10 - 1.96 * deviation, 10 + 1.96 * deviation)
    assert row.interval == pytest.approx(bounds, rel=0.06)
    assert image_errors(rows, 4000) == found, 'equal numbers, equal errors'


def test_rows_of_other_images_are_not_compared() -> None:
    hits = HitResults(np.arange(3), np.array([1, 0, 1]) > 0)
    other = HitResults(np.arange(2), np.array([1, 0]) > 0)
    assert image_errors({'alone': [hits], 'row': [other]}) == {}
    assert image_errors({'alone': [hits], 'row': []}) == {}
    assert image_errors({}) == {}
