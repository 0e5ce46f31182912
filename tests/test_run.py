"""Trainings and tests can be run from Python, without a command line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.utils import manager

import tiny
from mkd_det import run
from mkd_det.errors import ConfigError, OwnCodeError, ResumeError
from mkd_det.run import evaluate, train
from mkd_det.training.student_config import student_config
from tooling import distiller_cfg


def config(coco_root: Path, tmp_path: Path) -> Config:
    cfg = tiny.runner_cfg(distiller_cfg(None), coco_root, tmp_path / 'run')
    cfg.default_hooks.teacher_check = None
    cfg.launcher = 'none'
    return cfg


def test_python_callers_get_the_runner_and_the_metrics(
    coco_root: Path, tmp_path: Path
) -> None:
    cfg = config(coco_root, tmp_path)
    runner = train(cfg)
    assert (runner.epoch, runner.iter) == (1, 4)
    checkpoint = tmp_path / 'run/epoch_1.pth'
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    assert all(torch.equal(v, weights[k]) for k, v in runner.model.state_dict().items())

    plain = student_config(cfg)
    plain.work_dir = str(tmp_path / 'test')
    metrics = evaluate(plain, str(checkpoint))
    assert 0 <= metrics['coco/bbox_mAP'] <= 1


def test_a_value_that_fails_in_the_first_step_is_named(
    coco_root: Path, tmp_path: Path
) -> None:
    cfg = config(coco_root, tmp_path)
    cfg.model.student.train_cfg.allowed_border = 'x'
    with pytest.raises(OwnCodeError, match='TypeError') as caught:
        train(cfg)
    assert caught.value.message.startswith('GFLHead has failed')
    assert 'gfl_head.py' in caught.value.actual
    assert caught.value.fix.startswith('other values for GFLHead in the config')
    assert list((tmp_path / 'run').glob('*/traceback.txt'))


def test_the_config_is_not_written_through_a_link(tmp_path: Path) -> None:
    original, copies = tmp_path / 'a.py', tmp_path / 'run'
    copies.mkdir()
    for kind in ('symlink_to', 'hardlink_to'):
        original.write_text('model = 1')
        getattr(copies / 'a.py', kind)(original)
        cfg = Config(dict(work_dir=str(copies)), filename=str(original))
        run.unlink_config_copy(cfg)
        cfg.dump(copies / 'a.py')  # as mmengine's runner
        assert original.read_text() == 'model = 1'
        (copies / 'a.py').unlink()
    original.write_text('work_dir = 1')
    run.unlink_config_copy(Config(dict(work_dir=str(tmp_path)), filename=str(original)))
    assert original.exists()  # a config of the work dir itself stays


def test_a_config_without_test_data_is_refused(coco_root: Path, tmp_path: Path) -> None:
    plain = student_config(config(coco_root, tmp_path))
    plain.work_dir = str(tmp_path / 'test')
    plain.test_evaluator = None
    with pytest.raises(ConfigError) as caught:
        evaluate(plain, 'missing.pth')
    assert 'test_evaluator' in caught.value.fix
    assert not (tmp_path / 'test').exists()


def test_an_error_leaves_no_lock_of_mmengine_to_other_threads(
    coco_root: Path, tmp_path: Path
) -> None:
    cfg = tiny.runner_cfg(tiny.gfl(), coco_root, tmp_path / 'run')

    def fail(cfg: Config) -> None:
        MMLogger.get_instance(None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, 'check_before_start', fail)
        with pytest.raises(AssertionError):
            train(cfg)

    def name_of(name: str) -> str:
        assert manager._lock.acquire(timeout=20), 'the lock is held'
        manager._lock.release()
        return MMLogger.get_instance(name).instance_name

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(name_of, 'of a thread').result() == 'of a thread'


def test_a_plain_training_is_resumed_as_exactly_as_a_distillation(
    coco_root: Path, tmp_path: Path
) -> None:
    """Teachers and roots of chains are plain; a flip draws in every step."""
    weights = []
    for name, epochs in (('whole', [2]), ('stopped', [1, 2])):
        for end in epochs:
            cfg = tiny.runner_cfg(tiny.gfl(4, 8), coco_root, tmp_path / name, end)
            flip = dict(type='RandomFlip', prob=0.5)
            cfg.train_dataloader.dataset.pipeline.insert(-1, flip)
            cfg.merge_from_dict(dict(launcher='none', resume=end != epochs[0]))
            weights.append(train(cfg).model.state_dict())
    whole, first, resumed = weights
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert not all(torch.equal(value, first[key]) for key, value in whole.items())


def test_a_plain_checkpoint_without_random_states_is_said_to_be_not_exact(
    coco_root: Path, tmp_path: Path
) -> None:
    cfg = tiny.runner_cfg(tiny.gfl(4, 8), coco_root, tmp_path / 'run')
    cfg.launcher = 'none'
    train(cfg)
    file = tmp_path / 'run/epoch_1.pth'
    content = torch.load(file, weights_only=False)
    del content['distill_resume']
    torch.save(content, file)
    cfg.merge_from_dict({'resume': True, 'train_cfg.max_epochs': 2})
    train(cfg)
    logs = ''.join(log.read_text() for log in (tmp_path / 'run').rglob('*.log'))
    assert 'resume: not exact: the checkpoint has no random states' in logs

    content['distill_resume'] = dict(ranks=3)
    torch.save(content, file)
    (tmp_path / 'run/last_checkpoint').write_text(str(file))
    with pytest.raises(ResumeError, match='random states'):
        train(cfg)
