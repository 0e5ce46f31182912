"""A batch size that fits the memory, and the learning rate that goes with it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub

import tiny
from mkd_det.config_files.reading import load_config
from mkd_det.errors import ConfigError
from mkd_det.experiments import memory
from mkd_det.experiments.distillation import trial
from mkd_det.experiments.distillation.prepare import prepare
from mkd_det.experiments.distillation.settings import DistillSettings
from mkd_det.experiments.memory import (
    StepMemory,
    batch_part,
    check_room,
    fitting_batch,
    measure_memory,
    wanted_batch,
)

STEP = StepMemory(fixed=100.0, image=10.0)


def training(batch: int = 16, **scaling: Any) -> Config:
    return Config(
        dict(
            train_dataloader=dict(batch_size=batch),
            optim_wrapper=dict(optimizer=dict(lr=0.02)),
            **({'auto_scale_lr': scaling} if scaling else {}),
        )
    )


def test_the_batch_is_halved_until_it_fits() -> None:
    assert fitting_batch(STEP, 16, None) == 16
    assert fitting_batch(STEP, 16, 1000) == 16
    # 0.8 of 200 bytes are free for 100 and 10 for each image.
    assert fitting_batch(STEP, 16, 200) == 4
    assert fitting_batch(STEP, 16, 111) == 1
    with pytest.raises(ConfigError) as caught:
        fitting_batch(STEP, 16, 109)
    assert 'no room for the memory estimate' in caught.value.message
    assert caught.value.actual == '0 MB are free' and 'Resize' in caught.value.fix


def test_a_batch_of_the_user_is_refused_with_one_that_fits() -> None:
    check_room(STEP, 16, 260)
    check_room(STEP, 16, None)
    with pytest.raises(ConfigError) as caught:
        check_room(STEP, 16, 200)
    assert caught.value.fix == '--cfg-options train_dataloader.batch_size=6'
    check_room(STEP, 6, 200)


def test_the_learning_rate_follows_the_batch() -> None:
    assert batch_part(training(16, base_batch_size=16), 16) == ({}, [])
    parts, (note,) = batch_part(training(16, base_batch_size=16), 4)
    assert parts['train_dataloader'] == dict(batch_size=4)
    assert parts['auto_scale_lr'] == dict(enable=True)
    assert '0.02 to 0.005' in note and '16 images' in note
    # Of a config for eight processes, that is trained by one.
    parts, (note,) = batch_part(training(2, base_batch_size=16), 2)
    assert 'train_dataloader' not in parts and '0.02 to 0.0025' in note
    # Without a word on it, the learning rate is for the batch of the config.
    parts, _ = batch_part(training(16), 8)
    assert parts['auto_scale_lr'] == dict(enable=True, base_batch_size=16)


def test_processes_share_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('WORLD_SIZE', '8')
    assert batch_part(training(2, base_batch_size=16), 2) == ({}, [])
    monkeypatch.setattr(memory.torch.cuda, 'is_available', lambda: True)
    assert wanted_batch(training(1, base_batch_size=16)) == 2
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert wanted_batch(training(1, base_batch_size=16)) == 16
    monkeypatch.setattr(memory.torch.cuda, 'is_available', lambda: False)
    assert wanted_batch(training(1, base_batch_size=16)) == 1


def test_a_training_of_one_process_in_a_launch_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr(memory.torch.cuda, 'is_available', lambda: True)
    cfg = training(16, base_batch_size=16)
    assert wanted_batch(training(1, base_batch_size=16), ranks=1) == 16
    assert batch_part(cfg, 16, ranks=1) == ({}, [])
    parts, (note,) = batch_part(cfg, 8, ranks=1)
    assert parts['auto_scale_lr'] == dict(enable=True) and '0.02 to 0.01' in note


def test_a_wider_model_and_a_larger_image_need_more(tmp_path: Path) -> None:
    data = tiny.write_coco(tmp_path / 'data', images=2)
    small, wide = (
        tiny.runner_cfg(tiny.gfl(base, 16), data, tmp_path) for base in (4, 16)
    )
    large = deepcopy(small)
    large.train_dataloader.dataset.pipeline[2].scale = (960, 640)
    found = [measure_memory(cfg) for cfg in (small, wide, large)]
    assert found[0].fixed < found[1].fixed and found[0].image < found[1].image
    assert found[0].fixed == found[2].fixed
    assert 20 < found[2].image / found[0].image < 200
    assert found[0].of(3) == found[0].fixed + 3 * found[0].image


def test_images_that_change_their_size_in_a_training(tmp_path: Path) -> None:
    """As of YOLOX, which asks the runner how far it is; here none is."""
    model = tiny.gfl(4, 8)
    resize = dict(
        type='BatchSyncRandomResize', random_size_range=(64, 96), size_divisor=32
    )
    model['data_preprocessor']['batch_augments'] = [resize]
    data = tiny.write_coco(tmp_path / 'data', images=2)
    MessageHub.get_current_instance().runtime_info.pop('iter', None)
    assert measure_memory(tiny.runner_cfg(model, data, tmp_path)).image > 0


def test_a_model_with_masks(tmp_path: Path) -> None:
    data = tiny.write_coco(tmp_path / 'data', images=2)
    cfg = tiny.runner_cfg(tiny.mask_rcnn(4, 8), data, tmp_path)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'LoadAnnotations':
            step.with_mask = True
    assert measure_memory(cfg).image > 0


@pytest.fixture(scope='module')
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('pair')
    data = tiny.write_coco(root / 'data', images=6)
    for name, model in (('small', tiny.gfl(4, 8)), ('big', tiny.gfl(8, 16))):
        cfg = tiny.runner_cfg(model, data, root / name, epochs=2, batch_size=4)
        cfg.auto_scale_lr = dict(enable=False, base_batch_size=4)
        cfg.pop('work_dir')
        cfg.dump(root / f'{name}.py')
    tiny.write_checkpoint(tiny.gfl(8, 16), root / 'big.pth')
    return root


def settings(pair: Path, work_dir: Path, **changes: Any) -> DistillSettings:
    given: dict[str, Any] = dict(
        student=str(pair / 'small.py'),
        teacher=str(pair / 'big.py'),
        checkpoint=str(pair / 'big.pth'),
        work_dir=work_dir,
        data=pair / 'data/annotations.json',
        epochs=1,
    )
    return DistillSettings(**{**given, **changes})


def test_distill_writes_a_batch_that_fits_and_says_so(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StepMemory(1e9, 1e9)
    monkeypatch.setattr(trial, 'estimate_memory', lambda cfg: (step, ''))
    for module in (trial, memory):
        monkeypatch.setattr(module, 'free_bytes', lambda: int(4e9))
    given = settings(pair, tmp_path / 'run')
    prepared = prepare(given)
    notes = '; '.join(prepared.notes)
    assert 'batch size 2 instead of 4: a step needs about 3.00 GB' in notes
    assert 'learning rate scaled, 0.001 to 0.0005' in notes
    prepared.write(given.folder)
    cfg = load_config(str(given.folder / 'distill.py'))
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=4)
    assert '4.00 GB' not in (given.folder / 'distill.py').read_text()


def test_no_room_writes_nothing(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (trial, memory):
        monkeypatch.setattr(module, 'free_bytes', lambda: 1000)
    given = settings(pair, tmp_path / 'run')
    with pytest.raises(ConfigError) as caught:
        prepare(given)
    assert 'no room' in caught.value.message and not given.work_dir.exists()
    # Without --data the batch is the user's: it is refused, not changed.
    with pytest.raises(ConfigError):
        prepare(settings(pair, tmp_path / 'run', data=None))


def test_a_batch_of_the_command_line_is_kept(pair: Path, tmp_path: Path) -> None:
    options = {'train_dataloader.batch_size': 10_000_000}
    with pytest.raises(ConfigError) as caught:
        prepare(settings(pair, tmp_path / 'run', options=options))
    assert 'batch of 10000000' in caught.value.message
    assert 'batch_size=' in caught.value.fix
