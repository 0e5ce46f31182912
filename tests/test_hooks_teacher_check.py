"""A teacher is measured before the first iteration, and training never knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from mmdet.models.detectors import GFL
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

import hook_runs
import tiny
from mkd_det.errors import ConfigError, TeacherChanceError, TeacherClassesError


@MODELS.register_module()
class OracleGFL(GFL):
    """A GFL whose predictions are the truth."""

    asked: ClassVar[int] = 0

    def predict(self, inputs: Any, samples: list, rescale: bool = True) -> list:
        for sample in samples:
            OracleGFL.asked += 1
            torch.rand(())
            truth = sample.gt_instances
            scale = torch.tensor(sample.scale_factor).repeat(2)
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes / scale,
                labels=truth.labels,
                scores=torch.ones(len(truth)),
            )
        return samples


@MODELS.register_module()
class BlindGFL(GFL):
    """A GFL that finds nothing."""

    def predict(self, inputs: Any, samples: list, rescale: bool = True) -> list:
        for sample in samples:
            sample.pred_instances = InstanceData(
                bboxes=torch.zeros(0, 4),
                labels=torch.zeros(0, dtype=torch.long),
                scores=torch.zeros(0),
            )
        return samples


def _cfg(root: Path, kind: str = 'OracleGFL', val: bool = True, **check: Any) -> Any:
    cfg = hook_runs.distill_cfg(root, val=val)
    cfg.model.teachers.t.cfg.type = kind
    cfg.default_hooks.teacher_check = dict(type='TeacherCheckHook', **check)
    cfg.log_level = 'INFO'
    if val:
        cfg.train_cfg.val_begin = 9
    return cfg


def _train(cfg: Any, name: str = 'check') -> Any:
    runner = hook_runs.build(cfg, name)
    runner.train()
    return runner


def _log(runner: Any) -> str:
    return next(Path(runner.log_dir).glob('*.log')).read_text()


def test_the_teachers_figure_is_logged_in_one_line(tmp_path: Path) -> None:
    runner = _train(_cfg(tmp_path))
    (line,) = [s for s in _log(runner).splitlines() if 'Teacher t (OracleGFL)' in s]
    assert 'coco/bbox_mAP 1.0000 on all 6 validation images' in line
    hub = runner.message_hub.get_scalar('teacher/t/coco/bbox_mAP')
    assert hub.current() == 1
    scalars = next(Path(runner.log_dir).glob('vis_data/scalars.json')).read_text()
    assert '"teacher/t/coco/bbox_mAP": 1.0' in scalars


def test_n_images_are_measured_as_a_set_of_their_own(tmp_path: Path) -> None:
    # Images that the teacher is not shown do not count as missed.
    runner = _train(_cfg(tmp_path, num_images=3))
    assert 'coco/bbox_mAP 1.0000 on 3 of 6 validation images' in _log(runner)


@pytest.mark.parametrize('kind', ['GFL', 'BlindGFL'])
def test_a_teacher_no_better_than_chance_stops(tmp_path: Path, kind: str) -> None:
    cfg = _cfg(tmp_path, kind)
    with pytest.raises(TeacherChanceError, match='no better than chance') as error:
        _train(cfg)
    assert 'teacher.pth' in error.value.hint
    assert not list(Path(cfg.work_dir).glob('*.pth')), 'nothing was trained'


def test_training_is_the_same_with_the_check_and_without(tmp_path: Path) -> None:
    logs = []
    for name in ('with', 'without'):
        cfg = _cfg(tmp_path)
        cfg.custom_hooks = [dict(type='DiceHook')]
        if name == 'without':
            del cfg.default_hooks.teacher_check
        runner = hook_runs.build(cfg, name)
        runner.register_hook(hook_runs.LossLog(tmp_path / name))
        runner.train()
        logs.append(hook_runs.logged(tmp_path / name))
        teacher = runner.model.teachers['t'].model
        assert not any(module.training for module in teacher.modules())
    assert logs[0] == logs[1]
    assert len(logs[0]) == 3


def test_a_resumed_run_does_not_measure_again(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path)
    _train(cfg, 'first')
    asked = OracleGFL.asked
    cfg.train_cfg.max_epochs, cfg.resume = 2, True
    runner = _train(cfg, 'again')
    assert runner.iter == 6
    assert OracleGFL.asked == asked


def test_classes_in_another_order_stop(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path)
    wide = tiny.gfl(base_channels=8, neck=16)
    tiny.write_checkpoint(wide, tmp_path / 'teacher.pth', classes=tiny.CLASSES[::-1])
    with pytest.raises(TeacherClassesError, match='another order'):
        _train(cfg)


def test_another_number_of_classes_stops_unless_allowed(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path)
    wide = tiny.gfl(base_channels=8, neck=16, num_classes=5)
    tiny.write_checkpoint(wide, tmp_path / 'teacher.pth', classes=None)
    cfg.model.teachers.t.cfg.bbox_head.num_classes = 5
    with pytest.raises(TeacherClassesError, match='5 classes apart, the data has 3'):
        _train(cfg)
    cfg.default_hooks.teacher_check.check_classes = False
    assert 'Teacher t is not measured' in _log(_train(cfg, 'allowed'))


def test_other_normalisation_is_logged(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, val=False)
    own = cfg.model.teachers.t.cfg.data_preprocessor
    own.update(mean=[100.0, 110.0, 120.0], bgr_to_rgb=False)
    log = _log(_train(cfg))
    assert 'normalises with mean [100.0, 110.0, 120.0], the student with' in log
    assert 'colour channels in the reverse order' in log
    assert 'no val_dataloader' in log


def test_an_unknown_metric_lists_the_known(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, num_images=2, metric='coco/bbox_map')
    with pytest.raises(ConfigError) as error:
        _train(cfg)
    assert error.value.available[0] == 'coco/bbox_mAP'
