"""Teachers are evaluated before the first iteration without changing the training."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from mmdet.models.detectors import GFL
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

import hook_runs
import tiny
import tiny_images
from mkd_det.classification import ImageClassifier
from mkd_det.data import check_data, check_loaders
from mkd_det.errors import ConfigError, TeacherChanceError, TeacherClassesError
from mkd_det.hooks.teacher_check_hook import TeacherCheckHook
from mkd_det.preflight.hook_checks import check_hooks
from mkd_det.training.class_names import with_class_names


@MODELS.register_module()
class OracleGFL(GFL):
    """A GFL that predicts the ground truth."""

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


# Where a teacher of five classes has the data's; it lacks the second.
FIVE, OF_DATA = ('cat', 'blue', 'Red', 'dog', 'tan'), torch.tensor([2, 0, 1])


@MODELS.register_module()
class OracleOfFive(OracleGFL):
    """An oracle of other classes, which also sees a dog everywhere."""

    def predict(self, inputs: Any, samples: list, rescale: bool = True) -> list:
        for sample in super().predict(inputs, samples, rescale):
            found = sample.pred_instances
            found.labels = OF_DATA[found.labels]
            dogs = InstanceData(
                bboxes=found.bboxes,
                labels=torch.full_like(found.labels, 3),
                scores=found.scores,
            )
            sample.pred_instances = InstanceData.cat([dogs, found])
        return samples


@MODELS.register_module()
class BlindGFL(GFL):
    """A GFL that detects nothing."""

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


def test_the_teachers_metric_is_logged_in_one_line(tmp_path: Path) -> None:
    runner = _train(_cfg(tmp_path))
    (line,) = [s for s in _log(runner).splitlines() if 'Teacher t (OracleGFL)' in s]
    assert 'coco/bbox_mAP 1.0000 on all 6 validation images' in line
    hub = runner.message_hub.get_scalar('teacher/t/coco/bbox_mAP')
    assert hub.current() == 1
    scalars = next(Path(runner.log_dir).glob('vis_data/scalars.json')).read_text()
    assert '"teacher/t/coco/bbox_mAP": 1.0' in scalars


def test_a_subset_is_evaluated_on_its_own_objects(tmp_path: Path) -> None:
    # Images that the teacher is not shown do not count as missed.
    runner = _train(_cfg(tmp_path, num_images=3))
    assert 'coco/bbox_mAP 1.0000 on 3 of 6 validation images' in _log(runner)


@pytest.mark.parametrize('images', [None, 2])
def test_each_data_set_is_evaluated_by_its_own_metric(
    tmp_path: Path, images: int | None
) -> None:
    """Both number their images from 0, so that a mix-up would count misses."""
    cfg = _cfg(tmp_path, num_images=images)
    # Of the second, which is small, an even choice would show no image.
    second = tiny.write_coco(tmp_path / 'second', images=1, seed=5)
    parts, metrics = [], []
    for root in (tmp_path / 'coco', second):
        part, metric = deepcopy(cfg.val_dataloader.dataset), deepcopy(cfg.val_evaluator)
        part.data_root, metric.ann_file = str(root), str(root / 'annotations.json')
        parts.append(part)
        metrics.append(metric)
    # Other metainfo, the same classes: the data has a list of metainfo.
    parts[1].metainfo.palette = [(1, 2, 3)] * 3
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
    cfg.val_evaluator = dict(
        type='MultiDatasetsEvaluator', metrics=metrics, dataset_prefixes=['a', 'b']
    )
    cfg.train_cfg.val_begin = 1
    cfg.model.student.test_cfg.score_thr = 0.0  # it finds something
    cfg.default_hooks.checkpoint.save_best = 'b/coco/bbox_mAP'
    check_data(cfg)
    check_loaders(cfg)
    runner = _train(cfg)
    for name in 'ab':
        key = f'teacher/t/{name}/coco/bbox_mAP'
        assert runner.message_hub.get_scalar(key).current() == 1
    assert ('all 7' if images is None else '3 of 7') in _log(runner)
    assert 'val/a/coco/bbox_mAP' in runner.message_hub.log_scalars


@pytest.mark.parametrize('kind', ['GFL', 'BlindGFL'])
def test_a_teacher_no_better_than_chance_stops(tmp_path: Path, kind: str) -> None:
    cfg = _cfg(tmp_path, kind)
    with pytest.raises(TeacherChanceError, match='no better than chance') as error:
        _train(cfg)
    assert 'teacher.pth' in error.value.fix
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


def test_a_resumed_run_does_not_repeat_the_check(tmp_path: Path) -> None:
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
    with pytest.raises(TeacherClassesError, match='has 5 classes, the data has 3'):
        _train(cfg)
    cfg.default_hooks.teacher_check.check_classes = False
    assert 'Teacher t is not evaluated' in _log(_train(cfg, 'allowed'))


def test_a_mapped_teacher_is_measured_on_what_both_know(tmp_path: Path) -> None:
    """What it lacks is not missed, and its other classes are no false alarms."""
    cfg = _cfg(tmp_path, 'OracleOfFive')
    wide = tiny.gfl(base_channels=8, neck=16, num_classes=5)
    tiny.write_checkpoint(wide, tmp_path / 'teacher.pth', classes=FIVE)
    cfg.model.teachers.t.cfg.bbox_head.num_classes = 5
    cfg.model.teachers.t.class_map = 'auto'
    cfg.model.taps.head = 'bbox_head'
    cfg.model.terms.loss_soft = dict(
        type='SoftOutputKD', student='head', teacher='t.head'
    )
    log = _log(_train(with_class_names(cfg)))
    assert 'loss_soft_cls' in log
    assert 'coco/bbox_mAP 1.0000 on all 6 validation images' in log
    assert 'Teacher t: 2 of 3 classes are taught; green: nothing from' in log
    assert 'red <- Red, blue <- blue' in log


def test_other_normalisation_is_logged(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, val=False)
    own = cfg.model.teachers.t.cfg.data_preprocessor
    own.update(mean=[100.0, 110.0, 120.0], bgr_to_rgb=False)
    log = _log(_train(cfg))
    assert 'normalises with mean [100.0, 110.0, 120.0], the student with' in log
    assert 'colour channels in the reverse order' in log
    assert 'no val_dataloader' in log


def test_an_unknown_metric_lists_the_known_ones(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, num_images=2, metric='coco/bbox_map')
    with pytest.raises(ConfigError) as error:
        _train(cfg)
    assert error.value.available[0] == 'coco/bbox_mAP'


# ------------------------------------------------------------------- classifiers


@MODELS.register_module()
class BlueClassifier(ImageClassifier):
    """A classifier that always predicts the first class."""

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().logits(inputs) * 0 + torch.eye(self.num_classes)[0]


def _classifier_cfg(root: Path, counts: tuple[int, ...], **check: Any) -> Any:
    """Return a config with one class per count; the teacher predicts the first."""
    names = tuple(f'class{i:02d}' for i in range(len(counts)))
    data = tiny_images.write_folder(root / 'data', counts, classes=names)
    cfg = {**tiny_images.classifier(), 'num_classes': len(counts)}
    model = dict(
        type='Distiller',
        student=cfg,
        teachers=dict(t=dict(cfg={**cfg, 'type': 'BlueClassifier'}, checkpoint=None)),
        taps=dict(stages='backbone'),
        terms=dict(
            loss_attention=dict(
                type='AttentionKD', student='stages', teacher='t.stages'
            )
        ),
        probe_size=16,
    )
    cfg = tiny_images.runner_cfg(model, data, root / 'run')
    cfg.default_hooks.teacher_check = dict(type='TeacherCheckHook', **check)
    cfg.log_level = 'INFO'
    return cfg


@pytest.mark.parametrize(
    'counts, wanted',
    [
        # Guessing gives 10 %: 15 % is chance no more.
        ((2, *[2] * 9), 15),
        # Of two classes, 50 %: not 75 %, but 55 %.
        ((6, 6), 55),
    ],
)
def test_a_classifier_that_guesses_stops(
    tmp_path: Path, counts: tuple[int, ...], wanted: float
) -> None:
    with pytest.raises(TeacherChanceError, match='no better than chance') as error:
        _train(_classifier_cfg(tmp_path, counts))
    assert error.value.expected == f'accuracy/top1 of at least {wanted}'


def test_a_classifier_better_than_guessing_goes_on(tmp_path: Path) -> None:
    # 4 of 22, and 6 of 10: just above.
    log = _log(_train(_classifier_cfg(tmp_path / 'ten', (4, *[2] * 9)), 'ten'))
    assert 'accuracy/top1 18.1818 on all 22 validation images' in log
    log = _log(_train(_classifier_cfg(tmp_path / 'two', (6, 4)), 'two'))
    assert 'accuracy/top1 60.0000' in log


def test_a_mapped_classifier_is_measured_on_images_that_it_knows(
    tmp_path: Path,
) -> None:
    """It always says its first class, which is the second of the data."""
    cfg = _classifier_cfg(tmp_path, (6, 4, 2), threshold=0.0)
    cfg.model.teachers.t.cfg.num_classes = 2
    cfg.model.teachers.t.classes = ['class01', 'class02']
    cfg.model.teachers.t.class_map = 'auto'
    log = _log(_train(with_class_names(cfg)))
    # Of class00 it knows nothing: 4 of 6 are right, not 4 of 12.
    assert 'accuracy/top1 66.6667' in log


def test_a_given_threshold_is_used(tmp_path: Path) -> None:
    with pytest.raises(TeacherChanceError) as error:
        _train(_classifier_cfg(tmp_path / 'high', (6, 4), threshold=61.0), 'high')
    assert error.value.expected == 'accuracy/top1 of at least 61'
    _train(_classifier_cfg(tmp_path / 'low', (2, 6), threshold=0.0), 'low')


def test_the_evaluation_is_logged_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        'mkd_det.hooks.teacher_check_hook.print_log',
        lambda text, **_: said.append(text),
    )
    runner = hook_runs.build(_cfg(tmp_path, num_images=2), 'said')

    def measured(*_: Any) -> dict[str, float]:
        assert said[-1] == 'Evaluating teacher t on 2 of 6 validation images'
        return {'coco/bbox_mAP': 1.0}

    monkeypatch.setattr('mkd_det.hooks.teacher_check_hook.evaluate_teacher', measured)
    for hook in runner.hooks:
        if isinstance(hook, TeacherCheckHook):
            hook.before_train(runner)
    assert 'bbox_mAP 1.0000 on 2 of 6' in said[-1]


def test_a_cache_is_refused_before_a_teacher_is_evaluated(tmp_path: Path) -> None:
    OracleGFL.asked = 0
    cfg = _cfg(tmp_path, num_images=2)
    cfg.model.teachers.t.cache = str(tmp_path / 'cache')
    cfg.default_hooks.teacher_cache = dict(type='TeacherCacheHook')
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline.insert(-1, dict(type='PhotoMetricDistortion'))
    with pytest.raises(ConfigError, match='come again'):
        hook_runs.build(cfg, 'cache').train()
    assert OracleGFL.asked == 0


def test_a_metric_that_is_not_measured_is_refused_before_the_training(
    tmp_path: Path,
) -> None:
    cfg = _cfg(tmp_path, metric='coco/bbox_mP')
    with pytest.raises(ConfigError) as caught:
        check_hooks(cfg, tiny.build(cfg.model))
    assert caught.value.available[0] == 'coco/bbox_mAP'
    cfg.default_hooks.teacher_check.metric = 'coco/bbox_mAP_50'
    check_hooks(cfg, tiny.build(cfg.model))
