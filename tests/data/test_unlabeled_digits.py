"""Unlabelled pictures of the demo: each is new, and the same wherever it is painted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

pytest.importorskip('sklearn', reason='needs the demo extra')
pytest.importorskip('skimage', reason='needs the demo extra')

from mkd_det.data import check_data
from mkd_det.data.digits import DigitSettings, _painters
from mkd_det.errors import ConfigError

SIZE = 96
DATA = dict(
    type='UnlabeledDigits',
    size=SIZE,
    pipeline=[
        dict(type='LoadImageFromNDArray'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ],
)


def dataset(**settings: Any) -> Any:
    init_default_scope('mmdet')
    return DATASETS.build({**DATA, **settings})


def test_a_picture_has_no_labels_and_is_like_those_with_labels() -> None:
    data = dataset()
    sample = data[7]
    assert sample['inputs'].shape == (3, SIZE, SIZE)
    assert sample['data_samples'].metainfo['unlabeled'] is True
    assert len(sample['data_samples'].gt_instances) == 0
    scene = _painters(DigitSettings(4, 2, SIZE, 0))[0].paint([0, 2, 7])
    bgr = torch.from_numpy(scene.image[..., ::-1].copy()).permute(2, 0, 1)
    assert torch.equal(sample['inputs'], bgr)


def picture(data: Any, index: int) -> Any:
    """Return the picture that a sample shows, RGB."""
    return data[index]['inputs'].permute(1, 2, 0).numpy()[..., ::-1]


def test_groups_by_shape_are_found_without_painting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = dataset()
    monkeypatch.setattr(type(data), '_painter', property(lambda _: pytest.fail()))
    known = data.get_data_info(99_999)
    assert (known['width'], known['height']) == (SIZE, SIZE)


def test_no_picture_is_one_of_a_split_or_another_picture() -> None:
    data, (train, val) = dataset(), _painters(DigitSettings(4, 2, SIZE, 0))
    own = [picture(data, i) for i in range(3)]
    splits = enumerate((train, val))
    others = [p.paint([0, s, i]).image for s, p in splits for i in (0, 1)]
    assert len({image.tobytes() for image in [*own, *others]}) == 7
    other_seed = picture(dataset(seed=1), 0)
    assert (other_seed != own[0]).any()


def loader(workers: int) -> Any:
    """Batches of pictures, in the order in which a training draws them."""
    sampler = dict(type='MultiSourceSampler', batch_size=4, source_ratio=[1, 1], seed=3)
    parts = [{**DATA, 'seed': seed, 'pictures': 9} for seed in (0, 1)]
    data = dict(type='ConcatDataset', datasets=parts)
    cfg = dict(batch_size=4, num_workers=workers, sampler=sampler, dataset=data)
    return Runner.build_dataloader(cfg, seed=0)


def test_workers_do_not_change_what_is_drawn() -> None:
    init_default_scope('mmdet')
    one, two = iter(loader(0)), iter(loader(2))
    for _ in range(3):
        first, second = next(one)['inputs'], next(two)['inputs']
        assert all(map(torch.equal, first, second))


def test_no_picture_is_drawn_twice_before_all_were_drawn() -> None:
    init_default_scope('mmdet')
    drawn: list[str] = []
    for _, batch in zip(range(4), loader(0)):
        drawn += [sample.img_id for sample in batch['data_samples'][2:]]
    assert len(set(drawn)) == len(drawn) == 8


def test_the_data_check_paints_one() -> None:
    cfg = dict(train_dataloader=dict(dataset=dict(DATA)))
    (line,) = check_data(cfg, ('train',))
    assert '100000 pictures without labels' in line
    with pytest.raises(ConfigError) as error:
        dataset(pictures=0)
    assert error.value.actual == 'pictures=0'
