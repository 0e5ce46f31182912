"""Promise: a cached teacher yields what the teacher yields, or is run again."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from torch import Tensor

import faults
import hook_runs
import tiny
from mkd_det.data.determinism import count_versions, random_transforms
from mkd_det.errors import ConfigError, DataError
from mkd_det.hooks.teacher_cache_hook import TeacherCacheHook
from mkd_det.structures import Levels
from mkd_det.taps import Tap
from mkd_det.teachers import cache
from mkd_det.teachers.cache import TeacherCache

TAPS = dict(fpn=Tap.parse('neck'), head=Tap.parse('bbox_head'))
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Source:
    """Stands for the teacher: counts the images that it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, images: Tensor) -> dict[str, Levels]:
        self.asked.append(len(images))
        mean = images.mean((1, 2, 3))[:, None, None, None]
        fpn = (images * 2, images[..., ::2, ::2] + mean)
        # The first image's is too large for float16, the others' are not.
        large = (
            images[:, :1]
            * torch.tensor([1e6, 1, 1, 1])[: len(images), None, None, None]
        )
        return dict(fpn=fpn, head=((images, large),))


def store(folder: Path, seed: int = 0, **taps: Tap) -> TeacherCache:
    return TeacherCache(folder, tiny.build(tiny.gfl(4, 8), seed), taps or TAPS)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the cache logs."""
    logger = logging.getLogger('cache')
    monkeypatch.setattr(cache.MMLogger, 'get_current_instance', lambda: logger)
    caplog.set_level(logging.INFO)
    return caplog


def flat(levels: dict[str, Levels]) -> list[Tensor]:
    return [*levels['fpn'], *levels['head'][0]]


def test_what_is_known_is_not_computed_again(tmp_path: Path) -> None:
    source = Source()
    first = store(tmp_path).run(IMAGES, source)
    plain = source(IMAGES)
    # Another process, another order, one image that is new.
    other = torch.cat([IMAGES[[2, 0]], IMAGES[:1] + 1])
    again = store(tmp_path)
    second = again.run(other, source)
    assert source.asked == [4, 4, 1]
    assert (again.hits, again.misses) == (2, 1)
    for ours, exact in zip(flat(first), flat(plain), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-3)
    for one, two in zip(flat(first), flat(second), strict=True):
        # The first epoch sees the same as the others, bit for bit.
        assert torch.equal(one[[2, 0]], two[:2])
    # What float16 cannot hold (here a million) is kept all the same.
    assert torch.isfinite(first['head'][0][1]).all()


def test_another_teacher_or_other_taps_find_nothing(tmp_path: Path) -> None:
    source = Source()
    for one in (
        store(tmp_path),
        store(tmp_path, seed=1),
        store(tmp_path, fpn=TAPS['fpn'], head=Tap.parse('neck')),
    ):
        one.run(IMAGES, source)
    assert source.asked == [4, 4, 4]
    assert len(list(tmp_path.glob('*.sqlite'))) == 3


def test_equal_weights_in_other_layers_are_another_teacher(tmp_path: Path) -> None:
    one = tiny.build(tiny.gfl(4, 8))
    other = tiny.build(tiny.gfl(4, 8))
    assert (
        TeacherCache(tmp_path, one, TAPS).path
        == TeacherCache(tmp_path, other, TAPS).path
    )
    other.backbone.relu = torch.nn.SiLU()
    assert (
        TeacherCache(tmp_path, one, TAPS).path
        != TeacherCache(tmp_path, other, TAPS).path
    )
    half = one.to(torch.bfloat16)
    assert TeacherCache(tmp_path, half, TAPS).path.name.endswith('.sqlite')


def test_padding_belongs_to_the_image(tmp_path: Path) -> None:
    source, one = Source(), store(tmp_path)
    one.run(IMAGES, source)
    one.run(torch.nn.functional.pad(IMAGES, (0, 8)), source)
    assert source.asked == [4, 4]


def test_equal_pixels_with_other_padding_are_another_image(tmp_path: Path) -> None:
    """Models with masks see what is padding, where it is 0 like a dark image."""
    source, one = Source(), store(tmp_path)
    whole, part = (
        [DetDataSample(metainfo=dict(img_shape=(8, width)))] for width in (8, 4)
    )
    for samples in (whole, part, whole, part):
        one.run(IMAGES[:1], lambda images, _: source(images), samples)
    assert source.asked == [1, 1] and one.hits == 2


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    source = Source()
    one = store(tmp_path)
    one.run(IMAGES, source)
    with closing(sqlite3.connect(one.path)) as file, file:
        file.execute('UPDATE seen SET said = zeroblob(length(said)) WHERE rowid = 2')
    found = store(tmp_path).run(IMAGES, source)
    assert source.asked == [4, 1]
    assert all(torch.isfinite(part).all() for part in flat(found))
    store(tmp_path).run(IMAGES, source)
    assert source.asked == [4, 1]


def test_a_file_that_is_no_database_is_made_anew(tmp_path: Path, log: Any) -> None:
    source = Source()
    one = store(tmp_path)
    one.path.write_bytes(b'not a database' * 100)
    one.run(IMAGES, source)
    assert 'is damaged' in log.text
    store(tmp_path).run(IMAGES, source)
    assert source.asked == [4]


@pytest.mark.parametrize(
    'what', ['attempt to write a readonly database', 'database or disk is full']
)
def test_a_store_that_takes_no_more_is_read_all_the_same(
    what: str, tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    store(tmp_path).run(IMAGES[:2], source)
    real = sqlite3.connect

    class Refusing(sqlite3.Connection):
        def executemany(self, *_: Any) -> Any:
            raise sqlite3.OperationalError(what)

    monkeypatch.setattr(
        cache.sqlite3, 'connect', lambda *a, **k: real(*a, factory=Refusing, **k)
    )
    one = store(tmp_path)
    for _ in range(2):
        one.run(IMAGES, source)
    assert source.asked == [2, 2, 2]
    assert log.text.count(what) == 1


ENTRIES = {
    'nothing': 'NULL',
    'a number': '7',
    'words': "'words'",
    'no bytes': "x''",
}


@pytest.mark.parametrize('case', ENTRIES)
def test_an_entry_of_another_type_is_computed_again(case: str, tmp_path: Path) -> None:
    source = Source()
    one = store(tmp_path)
    one.run(IMAGES, source)
    with closing(sqlite3.connect(one.path)) as file, file:
        file.execute(f'UPDATE seen SET said = {ENTRIES[case]} WHERE rowid = 2')
        file.execute('UPDATE seen SET crc = NULL WHERE rowid = 3')
    store(tmp_path).run(IMAGES, source)
    assert source.asked == [4, 1]


def test_a_hostile_entry_does_not_run(tmp_path: Path) -> None:
    source = Source()
    one = store(tmp_path)
    one.run(IMAGES, source)
    file = faults.hostile(tmp_path / 'evil.pth', tmp_path / 'ran')
    with closing(sqlite3.connect(one.path)) as opened, opened:
        opened.execute('UPDATE seen SET said = ?', [file.read_bytes()])
    store(tmp_path).run(IMAGES, source)
    assert source.asked == [4, 4] and not (tmp_path / 'ran').exists()


def test_a_locked_file_is_waited_for_a_few_times_and_then_left(
    tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    one = store(tmp_path)
    one.run(IMAGES[:1], source)
    waits: list[float] = []
    real = sqlite3.connect

    def connect(*args: Any, timeout: float) -> sqlite3.Connection:
        waits.append(timeout)
        return real(*args, timeout=0)

    with closing(real(one.path)) as other:
        other.execute('BEGIN EXCLUSIVE')
        monkeypatch.setattr(cache.sqlite3, 'connect', connect)
        for _ in range(5):
            one.run(IMAGES, source)
        assert sum(waits) <= cache.MAX_WAITS * cache.PATIENCE <= 5, 'in seconds'
        assert log.text.count('is locked by another process') == 1
    assert source.asked == [1, 4, 4, 4, 4, 4]
    monkeypatch.undo()
    store(tmp_path).run(IMAGES[:1], source)
    assert len(source.asked) == 6, 'what was there is still there'


def test_a_lock_that_ends_costs_nothing_but_a_computation(tmp_path: Path) -> None:
    source = Source()
    one = store(tmp_path)
    one.run(IMAGES[:1], source)
    with (
        closing(sqlite3.connect(one.path, timeout=0)) as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(cache, 'PATIENCE', 0.0)
        other.execute('BEGIN EXCLUSIVE')
        one.run(IMAGES[:1], source)
        other.rollback()
    one.run(IMAGES[:1], source)
    assert source.asked == [1, 1]


def test_a_pipe_in_its_place_is_left_alone(tmp_path: Path) -> None:
    source = Source()
    faults.pipe(store(tmp_path).path)
    for _ in range(2):
        store(tmp_path).run(IMAGES, source)
    assert source.asked == [4, 4]


def test_nothing_is_deleted(tmp_path: Path) -> None:
    source = Source()
    one = store(tmp_path)
    one.path.write_bytes(b'somebody has put this here' * 50)
    with faults.deletions() as touched:
        one.run(IMAGES, source)
    aside = Path(f'{one.path}.damaged')
    assert aside.read_bytes().startswith(b'somebody')
    assert set(touched) <= {one.path, aside}


def test_a_place_where_no_folder_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='cannot be created'):
        store(tmp_path / 'file' / 'cache')


# -- in a training ---------------------------------------------------------------


def run(tmp_path: Path, name: str, *transforms: dict[str, Any], **teacher: Any) -> Any:
    cfg = hook_runs.distill_cfg(tmp_path, epochs=2, val=False, teacher=teacher)
    dataset = cfg.train_dataloader.dataset
    kept = [t for t in dataset.pipeline if t['type'] != 'RandomFlip']
    dataset.pipeline = [*kept[:-1], *transforms, kept[-1]]
    cfg.custom_hooks = [dict(type='TeacherCacheHook')]
    return hook_runs.build(cfg, name)


def count_images(runner: Any) -> list[int]:
    """Return a list that gets the number of images of each run of the teacher."""
    calls: list[int] = []
    teacher = runner.model.teachers['t']
    teacher.model.backbone.register_forward_hook(
        lambda _, args, output: calls.append(len(args[0]))
    )
    calls.clear()
    return calls


def test_the_second_epoch_asks_no_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run(tmp_path, 'cached', cache=str(tmp_path / 'cache'))
    calls = count_images(runner)
    said: list[str] = []
    monkeypatch.setattr(runner.logger, 'info', lambda text, *_: said.append(text))
    runner.train()
    images = len(runner.train_dataloader.dataset)
    # One by the estimate, the rest in the first epoch; none in the second.
    # The engine that settles on the first batch runs that batch once more.
    assert images <= sum(calls) <= images + 3
    log = '\n'.join(said)
    assert f'{images - 1} computed' in log
    assert f'{images} images found, 0 computed' in log
    assert 'MB an image' in log


FLIP = dict(type='RandomFlip', prob=0.5)


def test_both_versions_of_a_flip_are_kept_for_later_trainings(tmp_path: Path) -> None:
    first = run(tmp_path, 'first', FLIP, cache=str(tmp_path / 'cache'))
    asked = count_images(first)
    first.train()
    images = len(first.train_dataloader.dataset)
    assert images < sum(asked) <= 2 * images + 3
    second = run(tmp_path, 'second', FLIP, cache=str(tmp_path / 'cache'))
    asked = count_images(second)
    second.train()
    # Equal seeds flip equally; the first batch settles how the teacher is run.
    assert sum(asked) <= 4


@pytest.mark.parametrize(
    ('flip', 'versions'),
    [
        ({}, 1),
        (FLIP, 2),
        (dict(FLIP, prob=0.0), 1),
        (dict(FLIP, direction=['horizontal', 'vertical', 'diagonal']), 4),
    ],
)
def test_versions_by_flips_are_counted(
    tmp_path: Path, flip: dict[str, Any], versions: int
) -> None:
    runner = run(tmp_path, 'counted', *([flip] if flip else []))
    dataset = runner.build_dataloader(runner._train_dataloader).dataset
    assert count_versions(dataset) == versions
    assert random_transforms(dataset) == []


def test_a_random_pipeline_is_refused_by_name(tmp_path: Path) -> None:
    noise = dict(type='PhotoMetricDistortion')
    runner = run(tmp_path, 'random', FLIP, noise, cache=str(tmp_path / 'cache'))
    with pytest.raises(ConfigError, match='come again') as caught:
        runner.train()
    assert caught.value.actual == 'random: PhotoMetricDistortion'


def test_without_a_cache_nothing_is_checked(tmp_path: Path) -> None:
    runner = run(tmp_path, 'plain', dict(type='PhotoMetricDistortion'))
    TeacherCacheHook().before_train(runner)


@TRANSFORMS.register_module(force=True)
class SecretNoise(BaseTransform):
    """Random, and does not say so."""

    def transform(self, results: dict) -> dict:
        results['img'] = results['img'] + torch.rand(()).numpy()
        return results


def test_randomness_that_nobody_declares_is_found_by_looking(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False)
    pipeline = [t for t in cfg.train_dataloader.dataset.pipeline]
    pipeline[-2] = dict(type='SecretNoise')
    pipeline.insert(-1, FLIP)
    cfg.train_dataloader.dataset.pipeline = pipeline
    runner = hook_runs.build(cfg, 'secret')
    dataset = runner.build_dataloader(cfg.train_dataloader).dataset
    before = torch.get_rng_state()
    assert random_transforms(dataset) == [f'the pipeline of {type(dataset).__name__}']
    assert torch.equal(torch.get_rng_state(), before)
