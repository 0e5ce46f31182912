"""A kill between a checkpoint and its validation loses neither figures nor the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.runner import Runner
from mmengine.runner.loops import ValLoop

import hook_runs
import tiny_images
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.hooks.recovery.missing_validation_hook import NOTE, MissingValidationHook


class Killed(BaseException):
    """Stands for a kill."""


def cfg_of(root: Path, name: str = 'run', epochs: int = 3) -> Any:
    """A training whose metric is worse after every epoch."""
    cfg = hook_runs.distill_cfg(root, epochs=epochs)
    cfg.work_dir = str(root / name)
    cfg.val_evaluator = dict(type='EpochMetric', sign=-1)
    cfg.default_hooks.checkpoint = dict(
        type='SafeCheckpointHook', interval=1, save_best='toy/mAP', rule='greater'
    )
    cfg.default_hooks.export_student = dict(type='ExportStudentHook')
    cfg.default_hooks.resume_state = dict(type='ResumeStateHook')
    cfg.custom_hooks = [dict(type='DiceHook')]
    return cfg


def train(cfg: Any, name: str, log: Path, resume: bool = False) -> Runner:
    cfg = cfg.copy()
    cfg.resume = resume
    cfg.visualizer.name = name  # mmengine keeps it by its name
    runner = hook_runs.build(cfg, name)
    runner.register_hook(hook_runs.LossLog(log))
    runner.register_hook(MissingValidationHook())
    runner.train()
    return runner


def kill_at_validation(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the so manieth validation be the end of the process."""
    calls, run = [0], ValLoop.run

    def killed(loop: ValLoop) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise Killed
        return run(loop)

    monkeypatch.setattr(ValLoop, 'run', killed)


def validated(cfg: Any) -> list[int]:
    """Epochs with logged figures."""
    lines = []
    for file in sorted(Path(cfg.work_dir).glob('*/vis_data/scalars.json')):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    return [line['step'] for line in lines if 'toy/mAP' in line]


def best_student(cfg: Any) -> dict[str, Any]:
    content = read_checkpoint(Path(cfg.work_dir, 'student_best.pth'))
    return dict(epoch=content['meta']['epoch'], weights=content['state_dict'])


def test_the_lost_validation_is_made_up_and_the_best_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cfg = cfg_of(tmp_path, 'whole'), cfg_of(tmp_path)
    train(whole, 'whole', tmp_path / 'whole.log')
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at_validation(patch, 1)
        train(cfg, 'killed', tmp_path / 'log')
    assert validated(cfg) == []
    # Killed again before the next checkpoint: the best is not lost.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at_validation(patch, 2)
        train(cfg, 'again', tmp_path / 'log', resume=True)
    assert validated(cfg) == [1]
    train(cfg, 'resumed', tmp_path / 'log', resume=True)
    assert validated(cfg) == [1, 2, 3] == validated(whole)
    mine, theirs = best_student(cfg), best_student(whole)
    assert mine['epoch'] == theirs['epoch'] == 1
    assert all(v.equal(theirs['weights'][k]) for k, v in mine['weights'].items())
    best = [path.name for path in Path(cfg.work_dir).glob('best_*')]
    assert best == ['best_toy_mAP_epoch_1.pth']
    losses = [hook_runs.logged(tmp_path / name) for name in ('whole.log', 'log')]
    assert losses[0] == losses[1], 'validating has left no trace'


def test_what_was_validated_is_not_validated_again(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path, epochs=1)
    train(cfg, 'first', tmp_path / 'log')
    assert json.loads(Path(cfg.work_dir, NOTE).read_text())['1']['best_score'] == 100
    cfg.train_cfg.max_epochs = 2
    train(cfg, 'second', tmp_path / 'log', resume=True)
    assert validated(cfg) == [1, 2]


def test_a_new_training_forgets_the_notes_of_an_old_one(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path, epochs=2)
    train(cfg, 'first', tmp_path / 'log')
    cfg.train_cfg.max_epochs = 1
    train(cfg, 'second', tmp_path / 'log')
    assert set(json.loads(Path(cfg.work_dir, NOTE).read_text())) == {'1'}


def test_iterations_are_validated_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = cfg_of(tmp_path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    cfg.default_hooks.logger.log_metric_by_epoch = False
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at_validation(patch, 1)
        train(cfg, 'killed', tmp_path / 'log')
    train(cfg, 'resumed', tmp_path / 'log', resume=True)
    assert validated(cfg) == [2, 4]


def test_a_run_without_iterations_left_is_validated(tmp_path: Path) -> None:
    data = tiny_images.write_folder(tmp_path / 'data')
    cfg = tiny_images.runner_cfg(
        tiny_images.classifier(), data, tmp_path / 'work', epochs=1
    )
    runs = []
    for resume in (False, True):
        runner = Runner.from_cfg(cfg.copy())
        runner._resume = resume
        runner.register_hook(MissingValidationHook())
        validate = runner.val_loop.run
        calls: list[int] = []
        runner.val_loop.run = lambda calls=calls, run=validate: (calls.append(1), run())
        runner.train()
        runs.append(len(calls))
    # Once in training; and once where there was nothing left to train.
    assert runs == [1, 1]
