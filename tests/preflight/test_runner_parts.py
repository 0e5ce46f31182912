"""What a runner builds is built before the work dir is made, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

import tiny
from mkd_det.errors import ConfigError
from mkd_det.preflight.checks import check_before_start, check_optimizer
from mkd_det.preflight.optimizer_settings import check_schedules
from mkd_det.preflight.runner_parts import check_runner_parts, check_submodules

Change = Callable[[Config], Any]


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A training whose data is not there."""
    return tiny.runner_cfg(tiny.gfl(), Path('nowhere'), tmp_path / 'run')


def hook(**given: Any) -> Change:
    return lambda cfg: setattr(cfg, 'custom_hooks', [given])


def default(name: str, **changes: Any) -> Change:
    return lambda cfg: cfg.default_hooks[name].update(changes)


def top(**changes: Any) -> Change:
    return lambda cfg: [setattr(cfg, name, value) for name, value in changes.items()]


def backend(kind: str) -> Change:
    return top(visualizer=dict(type='Visualizer', vis_backends=[dict(type=kind)]))


COCO = dict(type='CocoMetric', metric='bbox')
# What it is, and a word that the message must hold.
BAD: dict[str, tuple[Change, str]] = {
    'hook': (hook(type='EMAHok'), 'EMAHok'),
    'hook without type': (hook(interval=1), 'custom_hooks[0]'),
    'hook str': (top(custom_hooks=['EMAHook']), 'custom_hooks[0]'),
    'hook None': (top(custom_hooks=[None]), 'custom_hooks[0]'),
    'argument': (default('logger', intervall=1), 'intervall'),
    'interval': (default('checkpoint', interval='1'), 'interval'),
    'interval of a part': (default('checkpoint', interval=1.5), 'whole number'),
    'keep': (default('checkpoint', max_keep_ckpts='2'), 'max_keep_ckpts'),
    'logger': (default('logger', interval='10'), 'interval'),
    'priority': (hook(type='EMAHook', priority='URGENT'), 'priority'),
    'priority 200': (hook(type='EMAHook', priority=200), 'priority'),
    'no default': (
        lambda c: c.default_hooks.update(visualisation=None),
        'visualisation',
    ),
    'average': (hook(type='EMAHook', ema_type='MeanAverage'), 'MeanAverage'),
    'momentum': (hook(type='EMAHook', momentum=2.0), 'momentum'),
    'begins': (hook(type='EMAHook', begin_epoch=1, begin_iter=1), 'begin'),
    'best': (default('checkpoint', save_best='coco/nope'), "'coco/nope'"),
    'best of two': (
        default('checkpoint', save_best=['coco/bbox_mAP', 'coco/segm_mAP']),
        "'coco/segm_mAP'",
    ),
    'best of a number': (default('checkpoint', save_best=3), 'save_best'),
    'best of odd ones': (default('checkpoint', save_best=[None]), 'save_best'),
    'one file name': (default('checkpoint', filename_tmpl='a.pth'), 'one number'),
    'file of a folder': (default('checkpoint', filename_tmpl='x/{}.pth'), 'out_dir'),
    'file elsewhere': (default('checkpoint', filename_tmpl='/etc/{}.pth'), 'out_dir'),
    'file of names': (default('checkpoint', filename_tmpl='{a}.pth'), 'filename_tmpl'),
    'backend of files': (default('checkpoint', backend_args=3), 'backend_args'),
    'name of a visualizer': (top(visualizer=dict(name=3)), 'visualizer: name'),
    'rule': (default('checkpoint', save_best='coco/bbox_mAP', rule='more'), 'rule'),
    'stop': (hook(type='EarlyStoppingHook', monitor='bbox_mAP'), 'coco/bbox_mAP'),
    'processor': (top(log_processor=dict(window=3)), 'log_processor'),
    'processor type': (top(log_processor=dict(type='LogProcesor')), 'LogProcesor'),
    'window 0': (top(log_processor=dict(window_size=0)), 'at least 1'),
    'window -3': (top(log_processor=dict(window_size=-3)), 'window_size=4'),
    'window str': (top(log_processor=dict(window_size='x')), 'window_size'),
    'window 2.5': (top(log_processor=dict(window_size=2.5)), 'window_size'),
    'digits': (top(log_processor=dict(num_digits='x')), 'num_digits'),
    'visualizer': (top(visualizer=dict(type='DetVisualizer')), 'DetVisualizer'),
    'backend': (backend('LocalBackend'), 'LocalBackend'),
    'backend argument': (
        top(visualizer=dict(vis_backends=[dict(type='LocalVisBackend', dir='x')])),
        'visualizer',
    ),
    'package': (backend('NeptuneVisBackend'), 'pip install neptune'),
    'two metrics': (top(val_evaluator=[COCO, COCO]), 'coco/bbox_mAP'),
}


@pytest.mark.parametrize('case', BAD)
def test_it_is_refused(case: str, cfg: Config) -> None:
    change, word = BAD[case]
    change(cfg)
    with pytest.raises(ConfigError) as caught:
        check_runner_parts(cfg)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    'change',
    [
        top(visualizer=None, log_processor=None, default_hooks=None),
        top(log_processor=dict(type='LogProcessor', window_size=10, by_epoch=True)),
        lambda c: c.default_hooks.update(timer=None, runtime_info=None),
        hook(type='EMAHook', momentum=0.1, priority=49),
        hook(type='EarlyStoppingHook', monitor='coco/bbox_mAP'),
        hook(type='DetVisualizationHook', draw=True),
        default('checkpoint', save_best='auto', interval=2, priority='LOW'),
        default('checkpoint', filename_tmpl='step_{:04d}.pth'),
        default('checkpoint', save_best=['coco/bbox_mAP_50'], max_keep_ckpts=2),
        top(val_evaluator=[COCO, dict(COCO, prefix='more')]),
        lambda c: (
            setattr(c.val_cfg, 'type', 'TeacherStudentValLoop'),
            default('checkpoint', save_best='teacher/coco/bbox_mAP')(c),
        ),
        lambda c: (
            setattr(c, 'val_evaluator', dict(type='EpochMetric')),
            default('checkpoint', save_best='toy/mAP')(c),
        ),
    ],
)
def test_what_mmengine_takes_passes(cfg: Config, change: Change) -> None:
    change(cfg)
    before = cfg.pretty_text
    check_runner_parts(cfg)
    assert cfg.pretty_text == before
    assert not Visualizer._instance_dict  # the runner makes its own
    assert not Path(cfg.work_dir).exists()


def test_a_hook_object_passes(cfg: Config) -> None:
    class Own(Hook):
        def __init__(self, interval: int) -> None:
            assert interval > 1

    HOOKS.register_module(module=Own, force=True)
    cfg.custom_hooks = [Own(2), dict(type='Own', interval=2)]
    check_runner_parts(cfg)
    cfg.custom_hooks[1].interval = 1
    with pytest.raises(ConfigError, match='AssertionError'):
        check_runner_parts(cfg)


# -- schedules ---------------------------------------------------------------------

LINEAR = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5)
STEPS = dict(type='MultiStepLR', milestones=[8, 11])
COSINE = dict(type='CosineAnnealingLR', T_max=12, convert_to_iter_based=True)
SCHEDULES: dict[str, tuple[Any, str]] = {
    'type': (dict(STEPS, type='MultiStpLR'), 'MultiStpLR'),
    'no type': ([dict(milestones=[8])], 'type'),
    'str': ('MultiStepLR', 'param_scheduler'),
    'argument': (dict(STEPS, gama=0.1), 'gama'),
    'milestones': (dict(STEPS, milestones=['8', '11']), 'milestones[0]'),
    'end': (dict(LINEAR, end=0), 'end'),
    'end str': (dict(LINEAR, end='5'), 'param_scheduler[0].end'),
    'factor': (dict(LINEAR, start_factor=3.0), 'between 0 and 1'),
    'period': (dict(type='StepLR', step_size=0, end=3), 'ZeroDivisionError'),
    'monitor': (
        dict(type='ReduceOnPlateauLR', monitor='bbox_mAP', rule='greater'),
        'coco/bbox_mAP',
    ),
}


class Loader(DataLoader):
    """Four batches of nothing."""

    def __init__(self) -> None:
        super().__init__(range(8), batch_size=2)  # type: ignore[arg-type]


def scheduled(cfg: Config, *schedules: Any) -> None:
    cfg.param_scheduler = list(schedules)
    wrapper = check_optimizer(cfg, nn.Linear(1, 1))
    assert wrapper is not None
    check_schedules(cfg, wrapper, dict(train=Loader()))


@pytest.mark.parametrize('case', SCHEDULES)
def test_a_schedule_is_refused(case: str, cfg: Config) -> None:
    schedule, word = SCHEDULES[case]
    with pytest.raises(ConfigError) as caught:
        scheduled(cfg, schedule)
    assert word in str(caught.value)


def test_schedules_that_mmengine_takes_pass(cfg: Config) -> None:
    plateau = dict(type='ReduceOnPlateauLR', monitor='coco/bbox_mAP', rule='greater')
    before = cfg.pretty_text
    scheduled(cfg, LINEAR, STEPS, COSINE, dict(type='ConstantLR', factor=0.5), plateau)
    cfg.param_scheduler = []
    assert cfg.pretty_text == before
    cfg.train_cfg = dict(by_epoch=False, max_iters=20)
    scheduled(cfg, LINEAR, dict(STEPS, by_epoch=False), dict(type='PolyLR'))
    cfg.param_scheduler = dict(STEPS)
    wrapper = check_optimizer(cfg, nn.Linear(1, 1))
    assert wrapper is not None
    check_schedules(cfg, wrapper, dict(train=Loader()))


@pytest.mark.parametrize(
    'clip',
    [
        dict(max_norm='ten'),
        dict(norm=2),
        dict(type='nrm', max_norm=1),
        35,
        dict(max_norm=-1),
        dict(max_norm=0),
        dict(max_norm=float('nan')),
        dict(type='value', clip_value=-0.1),
    ],
)
def test_a_clip_of_gradients_is_refused(cfg: Config, clip: Any) -> None:
    cfg.optim_wrapper.clip_grad = clip
    with pytest.raises(ConfigError):
        check_optimizer(cfg, nn.Linear(1, 1))


@pytest.mark.parametrize(
    'clip',
    [
        dict(max_norm=35, norm_type=2),
        dict(type='value', clip_value=0.2),
        dict(max_norm=35, norm_type='inf', error_if_nonfinite=True),
    ],
)
def test_a_clip_of_gradients_passes(cfg: Config, clip: Any) -> None:
    cfg.optim_wrapper.clip_grad = clip
    assert check_optimizer(cfg, nn.Linear(1, 1)) is not None


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        (dict(accumulative_counts=1.5), 'accumulative_counts=2'),
        (dict(paramwise_cfg=dict(bias_lr_mul=2.0)), 'available: bias_lr_mult'),
        (dict(paramwise_cfg=dict(_scope_='mmdet', x=1)), "unknown key 'x'"),
    ],
)
def test_a_setting_of_the_optimizer_that_is_ignored_is_refused(
    cfg: Config, change: dict[str, Any], word: str
) -> None:
    cfg.optim_wrapper.update(change)
    with pytest.raises(ConfigError) as caught:
        check_optimizer(cfg, nn.Linear(1, 1))
    assert word in str(caught.value)


@pytest.mark.parametrize('change', [dict(lr=float('nan')), dict(lr=float('inf'))])
def test_a_learning_rate_that_is_not_finite_is_refused(
    cfg: Config, change: dict
) -> None:
    cfg.optim_wrapper.optimizer.update(change)
    with pytest.raises(ConfigError, match='lr must be a finite number'):
        check_optimizer(cfg, nn.Linear(1, 1))


# -- modules -----------------------------------------------------------------------


@pytest.mark.parametrize('key', ['activation_checkpointing', 'efficient_conv_bn_eval'])
def test_modules_of_the_model_are_there(cfg: Config, key: str) -> None:
    for model in (tiny.gfl(), tiny.distiller(tiny.gfl(), tiny.gfl())):
        built = tiny.build(model)
        cfg[key] = ['backbone.layer1']
        check_submodules(cfg, built)
        cfg[key] = 'backbone.layr1'
        with pytest.raises(ConfigError) as caught:
            check_submodules(cfg, built)
        assert caught.value.available[0] == 'backbone.layer1'


# -- all of it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    'change',
    [
        BAD['hook'][0],
        BAD['best'][0],
        BAD['package'][0],
        lambda c: c.train_cfg.update(max_epochs=0),
        lambda c: setattr(c, 'param_scheduler', [SCHEDULES['type'][0]]),
        lambda c: setattr(c, 'activation_checkpointing', ['nek']),
        top(launcher='slurm'),
    ],
)
def test_nothing_is_written_before(
    cfg: Config, coco_root: Path, tmp_path: Path, change: Change
) -> None:
    cfg = tiny.runner_cfg(tiny.gfl(), coco_root, tmp_path / 'run')
    change(cfg)
    with pytest.raises(ConfigError):
        check_before_start(cfg)
    assert not (tmp_path / 'run').exists()
