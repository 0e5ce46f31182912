"""A checkpoint notes facts of its training; a resume says what it does differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, Runner

import hook_runs
import tiny
import tiny_images
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.errors import ResumeError
from mkd_det.hooks.recovery.run_record_hook import RunRecordHook
from mkd_det.training.validation import epoch_length, in_mid_epoch


def train(cfg: Config, name: str, resume: bool = False) -> tuple[Runner, list[str]]:
    """Train, or resume from the first epoch; return the runner and the hook's lines."""
    cfg = cfg.copy()
    if resume:
        cfg.resume, cfg.load_from = True, str(Path(cfg.work_dir, 'epoch_1.pth'))
    runner = hook_runs.build(cfg, name)
    runner.register_hook(RunRecordHook())
    lines: list[str] = []
    warn = runner.logger.warning

    def note(text: str, *rest: Any, **more: Any) -> None:
        lines.extend([text] if text.startswith('resume: ') else [])
        warn(text, *rest, **more)

    runner.logger.warning = note
    runner.train()
    return runner, lines


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Two epochs of two iterations, with a schedule."""
    data = tiny_images.write_folder(tmp_path / 'images', 4)
    cfg = tiny_images.runner_cfg(tiny_images.classifier(), data, tmp_path / 'run', 2)
    cfg.param_scheduler = [dict(type='MultiStepLR', milestones=[5], gamma=0.5)]
    return cfg


def test_parts_with_metainfo_of_their_own_are_left_as_they_are(tmp_path: Path) -> None:
    """A ConcatDataset of such parts has a list of them."""
    data = tiny.write_coco(tmp_path / 'data', images=2)
    cfg = tiny.runner_cfg(tiny.gfl(4, 8), data, tmp_path / 'run', val=False)
    parts = [cfg.train_dataloader.dataset.to_dict() for _ in range(2)]
    for number, part in enumerate(parts):
        part['metainfo'] = dict(classes=tiny.CLASSES, palette=[(number,) * 3] * 3)
    loader = cfg.train_dataloader.to_dict()
    both = dict(type='ConcatDataset', datasets=parts)
    cfg.train_dataloader = dict(loader, dataset=both)
    train(cfg, 'parts')
    meta = read_checkpoint(tmp_path / 'run' / 'epoch_1.pth')['meta']
    assert [one['palette'][0][0] for one in meta['dataset_meta']] == [0, 1]


def test_a_checkpoint_notes_labels_processes_and_batch_size(cfg: Config) -> None:
    train(cfg, 'first')
    content = read_checkpoint(Path(cfg.work_dir, 'epoch_1.pth'))
    assert content['meta']['run'] == dict(
        label_names=list(tiny_images.CLASSES),
        world_size=1,
        batch_size=6,
        epoch_length=2,
        accumulative_counts=1,
    )


def test_the_exported_student_has_the_record(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False)
    cfg.default_hooks.export_student = dict(type='ExportStudentHook')
    train(cfg, 'export')
    content = read_checkpoint(Path(cfg.work_dir, 'student_last.pth'))
    assert content['meta']['run']['label_names'] == list(tiny.CLASSES)


def test_an_unchanged_resume_says_nothing(cfg: Config) -> None:
    train(cfg, 'first')
    assert train(cfg, 'second', resume=True)[1] == []


def test_each_setting_that_is_not_used_is_said_in_a_line(cfg: Config) -> None:
    train(cfg, 'first')
    cfg.train_dataloader.batch_size = 4
    cfg.optim_wrapper.optimizer.update(lr=0.5, weight_decay=0.1)
    cfg.param_scheduler = [dict(type='MultiStepLR', milestones=[7], gamma=0.1)]
    runner, lines = train(cfg, 'second', resume=True)
    group = runner.optim_wrapper.optimizer.param_groups[0]
    assert (group['lr'], group['weight_decay']) == (0.05, 0)
    for words in (
        '4 images a batch on each process, the checkpoint is of 6',
        'an epoch has 3 iterations, it had 2',
        'lr=0.5 of the config is not used: a resumed training keeps lr=0.05',
        'weight_decay=0.1 of the config is not used',
        'milestones=[7] of the config is not used: a resumed training keeps'
        ' milestones=[5]',
        'gamma=0.1 of the config is not used: a resumed training keeps gamma=0.5',
    ):
        assert len([line for line in lines if words in line]) == 1, (words, lines)
    assert len(lines) == 6


def test_other_processes_are_said(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        'mkd_det.hooks.recovery.run_record_hook.get_world_size', lambda: 2
    )
    train(cfg, 'first')
    monkeypatch.undo()
    (line,) = train(cfg, 'second', resume=True)[1]
    assert '1 process(es), the checkpoint is of 2' in line


def test_another_accumulation_is_said(cfg: Config) -> None:
    train(cfg, 'first')
    cfg.optim_wrapper.accumulative_counts = 2
    (line,) = train(cfg, 'second', resume=True)[1]
    assert 'a step every 2 batch(es), the checkpoint is of one every 1' in line


def test_a_shorter_epoch_is_not_the_middle_of_one(cfg: Config) -> None:
    train(cfg, 'first')
    length = epoch_length(read_checkpoint(Path(cfg.work_dir, 'epoch_1.pth')))
    for iteration, inside in ((2, False), (3, True), (4, False)):
        loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
        loop._iter, loop.dataloader = iteration, range(3)
        assert in_mid_epoch(loop, length) == inside
        assert in_mid_epoch(loop, None) == bool(iteration % 3)


def test_accumulated_gradients_need_the_same_epochs(cfg: Config) -> None:
    cfg.optim_wrapper.accumulative_counts = 2
    train(cfg, 'first')
    cfg.train_dataloader.batch_size = 4
    with pytest.raises(ResumeError) as info:
        train(cfg, 'second', resume=True)
    assert '2 iterations' in info.value.expected
    assert '3 iterations, accumulative_counts=2' in info.value.actual
