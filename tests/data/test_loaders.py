"""Dataloaders and evaluators that a runner cannot build are refused before training."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import tiny
from mkd_det.data import check_loaders
from mkd_det.errors import ConfigError


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_coco(tmp_path_factory.mktemp('loaders'))


@pytest.fixture
def cfg(data: Path, tmp_path: Path) -> Config:
    """A training on 8 images with batch size 2."""
    return tiny.runner_cfg(tiny.gfl(), data, tmp_path / 'run')


def loader(**changes: Any) -> Callable[[Config], Any]:
    return lambda cfg: cfg.train_dataloader.update(changes)


def dataset(**changes: Any) -> Callable[[Config], Any]:
    return lambda cfg: cfg.train_dataloader.dataset.update(changes)


def val(**changes: Any) -> Callable[[Config], Any]:
    return lambda cfg: cfg.val_dataloader.dataset.update(changes)


def top(**changes: Any) -> Callable[[Config], Any]:
    return lambda cfg: cfg.update(changes)


def evaluator(**changes: Any) -> Callable[[Config], Any]:
    return lambda cfg: cfg.val_evaluator.update(changes)


def wrapped(**wrapper: Any) -> Callable[[Config], Any]:
    """Return a change that wraps the dataset."""

    def change(cfg: Config) -> None:
        inner = cfg.train_dataloader.pop('dataset')
        cfg.train_dataloader.dataset = dict(dataset=inner, **wrapper)

    return change


def pipeline(change: Callable[[list], Any]) -> Callable[[Config], Any]:
    return lambda cfg: change(cfg.train_dataloader.dataset.pipeline)


NOTHING = dict(type='ConcatDataset', datasets=[])
# What it is, and a word that the message must hold.
CASES: dict[str, tuple[Callable[[Config], Any], str]] = {
    'batch 0': (loader(batch_size=0), 'batch_size'),
    'batch -1': (loader(batch_size=-1), 'batch_size'),
    'batch str': (loader(batch_size='2'), 'batch_size'),
    'batch 2.0': (loader(batch_size=2.0), 'batch_size'),
    'batch None': (loader(batch_size=None), 'batch_size'),
    'batch True': (loader(batch_size=True), 'batch_size'),
    'val batch 0': (lambda c: c.val_dataloader.update(batch_size=0), 'val_dataloader'),
    'workers': (loader(num_workers=-1), 'num_workers'),
    'ahead': (loader(num_workers=1, prefetch_factor=0), 'prefetch_factor'),
    'unknown key': (loader(batchsize=2), 'batchsize'),
    'sampler': (loader(sampler=dict(type='DefaultSamplr')), 'DefaultSamplr'),
    'no iteration': (loader(batch_size=99, drop_last=True), 'no iteration'),
    'no iteration by shape': (
        loader(
            batch_size=9,
            batch_sampler=dict(type='AspectRatioBatchSampler', drop_last=True),
        ),
        'no iteration',
    ),
    'val drops all': (
        lambda c: c.val_dataloader.update(batch_size=9, drop_last=True),
        'val_dataloader: an epoch has no iteration',
    ),
    'filtered': (
        dataset(filter_cfg=dict(filter_empty_gt=True, min_size=9999)),
        'no image',
    ),
    'val filtered': (
        val(test_mode=False, filter_cfg=dict(min_size=9999)),
        'no image',
    ),
    'filter str': (dataset(filter_cfg=dict(min_size='a')), 'train_dataloader'),
    'filter': (dataset(filter_cfg='a'), 'train_dataloader'),
    'indices': (dataset(indices=0), 'no image'),
    'repeat 0': (wrapped(type='RepeatDataset', times=0), 'no image'),
    'concat nothing': (
        lambda c: setattr(c.train_dataloader, 'dataset', dict(NOTHING)),
        'train_dataloader',
    ),
    'wrapper': (wrapped(type='RepeatDatset', times=2), 'RepeatDatset'),
    'transform': (dataset(pipeline=[dict(type='LoadImg')]), 'LoadImg'),
    'argument': (pipeline(lambda p: p[0].update(foo=1)), 'foo'),
    'no pipeline': (dataset(pipeline=[]), 'no inputs'),
    'no boxes': (pipeline(lambda p: p.pop(1)), 'no bboxes'),
    'no labels': (pipeline(lambda p: p[1].update(with_label=False)), 'no labels'),
    'no packing': (pipeline(lambda p: p.pop()), 'no inputs'),
    'no image': (pipeline(lambda p: p.pop(0)), "dict(type='LoadImageFromFile')"),
    'no train': (top(train_dataloader=None), 'no train_dataloader'),
    'no train_cfg': (top(train_cfg=None), 'no train_cfg'),
    'no val': (top(val_dataloader=None), 'no val_dataloader'),
    'no val_cfg': (top(val_cfg=None), 'no val_cfg'),
    'no evaluator': (top(val_evaluator=None), 'no val_evaluator'),
    'evaluator str': (top(val_evaluator='CocoMetric'), 'val_evaluator'),
    'metric type': (evaluator(type='CocoMetrc'), 'CocoMetrc'),
    'metric': (evaluator(metric='bbx'), 'bbx'),
    'metric device': (evaluator(collect_device='tpu'), 'available: cpu'),
    'metric argument': (evaluator(ann='x'), 'val_evaluator'),
}


@pytest.mark.parametrize('case', CASES)
def test_loaders_that_a_runner_cannot_build_are_refused(case: str, cfg: Config) -> None:
    change, word = CASES[case]
    change(cfg)
    with pytest.raises(ConfigError) as caught:
        check_loaders(cfg)
    assert word in str(caught.value)


def two_sources(cfg: Config, kind: str) -> Any:
    """Let half of each batch of 2 be of each of two sources; return their configs."""
    loader = cfg.train_dataloader.to_dict()
    loader['sampler'] = dict(type=kind, batch_size=2, source_ratio=[1, 1])
    parts = [loader['dataset'], deepcopy(loader['dataset'])]
    loader['dataset'] = dict(type='ConcatDataset', datasets=parts)
    cfg.train_dataloader = loader
    return cfg.train_dataloader.dataset.datasets


@pytest.mark.parametrize('kind', ['MultiSourceSampler', 'GroupMultiSourceSampler'])
def test_sources_that_fill_no_batch_are_refused(kind: str, cfg: Config) -> None:
    """mmdet's samplers would look for images of such a source for ever."""
    two_sources(cfg, kind)
    check_loaders(cfg)
    cfg.train_dataloader.sampler.source_ratio = [3, 1]
    with pytest.raises(ConfigError, match='takes no image of a source'):
        check_loaders(cfg)
    cfg.train_dataloader.sampler.update(source_ratio=[1, 1], batch_size=4)
    with pytest.raises(ConfigError, match='another size') as caught:
        check_loaders(cfg)
    assert 'sampler.batch_size=2' in caught.value.fix


def test_groups_that_only_one_source_has_are_refused(
    cfg: Config, tmp_path: Path
) -> None:
    high = tiny.write_coco(tmp_path / 'high', size=(96, 64))
    two_sources(cfg, 'GroupMultiSourceSampler')[1].update(data_root=str(high))
    with pytest.raises(ConfigError, match='high images by source') as caught:
        check_loaders(cfg)
    cfg.train_dataloader.sampler.type = caught.value.fix.split("'")[1]
    check_loaders(cfg)


def test_an_empty_part_of_a_dataset_is_refused(cfg: Config) -> None:
    """mmengine cannot serialize it, although other parts have images."""
    whole = deepcopy(cfg.train_dataloader.dataset)
    empty = {**whole, 'filter_cfg': dict(min_size=9999)}
    both = dict(type='ConcatDataset', datasets=[whole, empty])
    cfg.train_dataloader.dataset = both
    with pytest.raises(ConfigError, match='no image'):
        check_loaders(cfg)


@pytest.mark.parametrize(
    'change',
    [
        wrapped(type='RepeatDataset', times=2),
        wrapped(type='ClassBalancedDataset', oversample_thr=0.5),
        loader(batch_sampler=dict(type='AspectRatioBatchSampler')),
        loader(num_workers=2, persistent_workers=True),
        loader(sampler=dict(type='InfiniteSampler'), batch_size=99, drop_last=True),
        loader(num_batch_per_epoch=1),
        top(val_dataloader=None, val_cfg=None, val_evaluator=None),
        lambda c: c.update(val_evaluator=[c.val_evaluator]),
        lambda c: setattr(c, 'val_evaluator', dict(metrics=[dict(c.val_evaluator)])),
    ],
)
def test_valid_loaders_pass(
    cfg: Config, change: Callable[[Config], Any], capfd: pytest.CaptureFixture
) -> None:
    change(cfg)
    before = cfg.pretty_text
    check_loaders(cfg)
    assert cfg.pretty_text == before  # mmdet writes into what it builds from
    assert 'loading annotations' not in capfd.readouterr().out


def test_an_image_without_boxes_may_come_first(
    cfg: Config, data: Path, tmp_path: Path
) -> None:
    content = json.loads((data / 'annotations.json').read_text())
    boxes = content['annotations']
    content['annotations'] = [box for box in boxes if box['image_id']]
    (tmp_path / 'some.json').write_text(json.dumps(content))
    cfg.train_dataloader.dataset.ann_file = str(tmp_path / 'some.json')
    check_loaders(cfg)


def by_dataset(cfg: Config, parts: int, metrics: int, *prefixes: str) -> Config:
    dataset = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[deepcopy(dataset) for _ in range(parts)]
    )
    cfg.val_evaluator = dict(
        type='MultiDatasetsEvaluator',
        metrics=[deepcopy(cfg.val_evaluator) for _ in range(metrics)],
        dataset_prefixes=list(prefixes),
    )
    return cfg


def test_an_evaluator_by_dataset_has_a_metric_for_each(cfg: Config) -> None:
    check_loaders(by_dataset(deepcopy(cfg), 2, 2, 'a', 'b'))
    for parts, metrics, names in (
        (2, 1, 'ab'),
        (2, 2, 'a'),
        (3, 2, 'ab'),
        (2, 2, 'aa'),
    ):
        with pytest.raises(ConfigError, match='dataset_prefixes'):
            check_loaders(by_dataset(deepcopy(cfg), parts, metrics, *names))
    alone = by_dataset(deepcopy(cfg), 1, 1, 'a')
    alone.val_dataloader.dataset = cfg.val_dataloader.dataset
    with pytest.raises(ConfigError, match='concatenated'):
        check_loaders(alone)
