"""What the runner is told is refused before the work dir is made, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import tiny
from mkd_det.errors import ConfigError
from mkd_det.preflight.checks import check_before_start
from mkd_det.preflight.launchers import check_launcher
from mkd_det.preflight.runner_settings import check_length, check_runner_settings

Change = Callable[[Config], Any]


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A training whose data is not there."""
    return tiny.runner_cfg(tiny.gfl(), Path('nowhere'), tmp_path / 'run')


def top(**changes: Any) -> Change:
    return lambda cfg: [setattr(cfg, name, value) for name, value in changes.items()]


def loop(**changes: Any) -> Change:
    return lambda cfg: cfg.train_cfg.update(changes)


def by_iteration(**changes: Any) -> Change:
    loop = dict(type='IterBasedTrainLoop', max_iters=9, **changes)
    return lambda cfg: setattr(cfg, 'train_cfg', loop)


# What it is, and a word that the message must hold.
BAD: dict[str, tuple[Change, str]] = {
    'benchmark': (top(env_cfg=dict(cudnn_benchmark='maybe')), 'cudnn_benchmark'),
    'epochs 0': (loop(max_epochs=0), 'max_epochs'),
    'epochs -1': (loop(max_epochs=-1), 'max_epochs'),
    'epochs str': (loop(max_epochs='3'), 'max_epochs'),
    'epochs 1.5': (loop(max_epochs=1.5), 'max_epochs'),
    'epochs None': (loop(max_epochs=None), 'max_epochs'),
    'epochs inf': (loop(max_epochs=float('inf')), 'max_epochs'),
    'epochs True': (loop(max_epochs=True), 'max_epochs'),
    'no epochs': (lambda c: c.train_cfg.pop('max_epochs'), 'max_epochs'),
    'iters 0': (by_iteration() and loop(max_iters=0), 'max_iters'),
    'iters of epochs': (loop(max_iters=3), 'max_iters'),
    'iterations 0': (by_iteration(val_interval=0), 'val_interval'),
    'val_interval 0': (loop(val_interval=0), 'val_interval'),
    'val_interval str': (loop(val_interval='2'), 'val_interval'),
    'val_begin': (loop(val_begin=-1), 'val_begin'),
    'dynamic': (loop(dynamic_intervals=[[8, 1]]), 'dynamic_intervals'),
    'dynamic 0': (loop(dynamic_intervals=[(8, 0)]), 'dynamic_intervals'),
    'loop type': (loop(type='EpochBasedTrainLop'), 'EpochBasedTrainLoop'),
    'loop both': (loop(by_epoch=True), 'by_epoch'),
    'loop neither': (lambda c: c.train_cfg.pop('type'), 'by_epoch'),
    'loop str': (top(train_cfg='EpochBasedTrainLoop'), 'train_cfg'),
    'val loop': (lambda c: c.val_cfg.update(typ='x'), 'val_cfg'),
    'val loop type': (lambda c: c.val_cfg.update(type='ValLop'), 'ValLoop'),
    'test loop': (lambda c: c.test_cfg.update(fp=True), 'test_cfg'),
    'no test data': (top(test_dataloader=None), 'test_dataloader'),
    'no val loop': (top(val_cfg=None), 'val_cfg'),
    'seed': (top(randomness=dict(seed='3')), 'seed'),
    'seed -1': (top(randomness=dict(seed=-1)), 'seed'),
    'seed 2**32': (top(randomness=dict(seed=2**32)), 'seed'),
    'seed 1.0': (top(randomness=dict(seed=1.0)), 'seed'),
    'randomness': (top(randomness=dict(sed=1)), 'available: seed'),
    'randomness int': (top(randomness=3), 'randomness'),
    'randomness None': (top(randomness=None), 'randomness'),
    'runner': (top(runner_type='Runer'), 'available: Runner'),
    'wrapper': (top(model_wrapper_cfg=dict(type='DDP')), 'model_wrapper_cfg'),
    'sync_bn': (top(sync_bn='yes'), 'sync_bn'),
    'level': (top(log_level='LOUD'), 'available: DEBUG'),
    'level None': (top(log_level=None), 'log_level'),
    'env': (top(env_cfg=3), 'env_cfg'),
    'start method': (
        top(env_cfg=dict(mp_cfg=dict(mp_start_method='frok'))),
        'available: fork',
    ),
    'mp_cfg': (top(env_cfg=dict(mp_cfg=dict(start_method='fork'))), 'start_method'),
    'opencv': (
        top(env_cfg=dict(mp_cfg=dict(opencv_num_threads='0'))),
        'opencv_num_threads',
    ),
    'environment': (
        top(env_cfg=dict(cudnn_benchmarks=True)),
        'available: cudnn_benchmark',
    ),
    'fp16': (lambda c: c.val_cfg.update(fp16='x'), 'val_cfg.fp16'),
    'deterministic': (top(randomness=dict(deterministic='x')), 'deterministic'),
    'seeds of ranks': (top(randomness=dict(diff_rank_seed=3)), 'diff_rank_seed'),
    'scope': (top(default_scope=''), "default_scope = 'mmdet'"),
    'limit': (top(env_cfg=dict(resource_limit='many')), 'resource_limit'),
    'scale': (top(auto_scale_lr=dict(enable=True)), 'base_batch_size'),
    'scale 0': (top(auto_scale_lr=dict(enable=True, base_batch_size=0)), 'base'),
    'scale True': (top(auto_scale_lr=True), 'auto_scale_lr'),
    'resume': (top(resume='auto'), 'fix:       resume=True'),
    'resume path': (top(resume='run/epoch_3.pth'), "load_from='run/epoch_3.pth'"),
    'resume int': (top(resume=1), 'resume=True'),
    'start': (top(load_from=''), 'load_from'),
    'start list': (top(load_from=[]), 'load_from'),
    'model': (lambda c: c.model.update(type='GLF'), 'available: GFL'),
    'no model': (lambda c: c.model.pop('type'), 'model'),
    'work_dir': (top(work_dir=3), 'work_dir'),
    'no work_dir': (lambda c: c.pop('work_dir'), 'work_dir'),
    'name': (top(experiment_name=3), 'experiment_name'),
    'hooks list': (top(default_hooks=[]), 'default_hooks'),
    'hooks dict': (top(custom_hooks=dict(type='EMAHook')), 'custom_hooks'),
    'visualizer': (top(visualizer='wandb'), 'visualizer'),
    'processor': (top(log_processor=10), 'log_processor'),
    'launcher': (top(launcher='pytorhc'), 'available: none'),
    'compile': (top(compile='yes'), 'compile'),
    'schedule': (top(param_scheduler=[], optim_wrapper=None), 'param_scheduler'),
}


@pytest.mark.parametrize('case', BAD)
def test_it_is_refused(case: str, cfg: Config) -> None:
    change, word = BAD[case]
    change(cfg)
    with pytest.raises(ConfigError) as caught:
        check_runner_settings(cfg)
        check_length(cfg)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    'change',
    [
        loop(max_epochs=12.0, val_begin=0),
        loop(dynamic_intervals=[(8, 1), (10, 2)]),
        by_iteration(val_interval=3),
        top(train_cfg=dict(by_epoch=True, max_epochs=3), val_cfg=dict()),
        top(train_cfg=dict(by_epoch=False, max_iters=3), test_cfg=dict(fp16=True)),
        top(test_dataloader=None, test_evaluator=None, test_cfg=None),
        top(randomness=dict(seed=None)),
        top(randomness=dict(seed=2**32 - 1, deterministic=True, diff_rank_seed=False)),
        top(runner_type='FlexibleRunner'),
        top(log_level=10),
        top(log_level='DEBUG'),
        top(env_cfg=dict(cudnn_benchmark=True, dist_cfg=dict(backend='nccl'))),
        top(auto_scale_lr=dict(base_batch_size='unused')),
        top(auto_scale_lr=dict(enable=True, base_batch_size=8)),
        top(compile=True),
        top(compile=dict(mode='max-autotune')),
        top(custom_hooks=None, visualizer=None),
        top(default_scope=None),
    ],
)
def test_what_mmengine_takes_passes(cfg: Config, change: Change) -> None:
    change(cfg)
    before = cfg.pretty_text
    check_runner_settings(cfg)
    check_length(cfg)
    assert cfg.pretty_text == before


def test_a_runner_of_the_user_takes_what_it_likes(cfg: Config) -> None:
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    class OwnRunner(Runner):
        pass

    RUNNERS.register_module(module=OwnRunner, force=True)
    cfg.update(runner_type='OwnRunner', compile='yes', randomness=dict(dice=3))
    check_runner_settings(cfg)


@pytest.mark.parametrize('given', [True, {}, dict(backend='inductor')])
def test_a_distillation_is_not_compiled(given: Any, tmp_path: Path) -> None:
    """It would compile for minutes, and then fail."""
    model = dict(type='Distiller', student=tiny.gfl())
    cfg = tiny.runner_cfg(model, Path('nowhere'), tmp_path / 'run')
    cfg.compile = given
    with pytest.raises(ConfigError, match='compile') as caught:
        check_before_start(cfg)
    assert 'compile = False' in caught.value.fix
    assert not (tmp_path / 'run').exists()
    cfg.compile = False
    check_runner_settings(cfg)


# -- launchers ---------------------------------------------------------------------

PYTORCH = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_PORT='29500')
SLURM = dict(SLURM_PROCID='0', SLURM_NTASKS='1', SLURM_NODELIST='a')
MPI = {f'OMPI_COMM_WORLD_{name}': '0' for name in ('RANK', 'SIZE', 'LOCAL_RANK')}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the environment of a launcher, and the number of GPUs."""

    def launched(gpus: int = 0, **environment: str) -> None:
        for name in (*PYTORCH, *SLURM, *MPI, 'MASTER_ADDR'):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        device = 'cuda' if gpus else 'cpu'
        monkeypatch.setattr('mkd_det.preflight.launchers.get_device', lambda: device)
        monkeypatch.setattr('torch.cuda.device_count', lambda: gpus)

    return launched


@pytest.mark.parametrize(
    ('launcher', 'environment'), [('pytorch', PYTORCH), ('slurm', SLURM), ('mpi', MPI)]
)
def test_a_launcher_without_its_environment_is_refused(
    launcher: str, environment: dict[str, str], launched: Callable[..., None]
) -> None:
    whole = {**environment, 'MASTER_ADDR': 'localhost'}
    for gpus in (0, 1):
        launched(gpus)
        with pytest.raises(ConfigError) as caught:
            check_launcher(Config(dict(launcher=launcher)))
        assert next(iter(environment)) in caught.value.expected
        assert "launcher='none'" in caught.value.fix
    launched(1, **{**whole, next(iter(environment)): 'x'})
    with pytest.raises(ConfigError) as caught:
        check_launcher(Config(dict(launcher=launcher)))
    assert caught.value.actual == 'x'
    launched(1, **whole)
    check_launcher(Config(dict(launcher=launcher)))
    launched(0, **whole)
    if launcher == 'pytorch':  # without a GPU, it works as well
        check_launcher(Config(dict(launcher=launcher)))
        return
    with pytest.raises(ConfigError, match='needs a GPU'):
        check_launcher(Config(dict(launcher=launcher)))


def test_a_port_is_a_port(launched: Callable[..., None]) -> None:
    launched(1, **{**PYTORCH, 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '65536'})
    with pytest.raises(ConfigError, match='MASTER_PORT is no port'):
        check_launcher(Config(dict(launcher='pytorch')))


def test_there_are_no_more_processes_than_gpus(launched: Callable[..., None]) -> None:
    launched(2, **{**PYTORCH, 'LOCAL_RANK': '2', 'MASTER_ADDR': 'localhost'})
    with pytest.raises(ConfigError, match='than it has GPUs') as caught:
        check_launcher(Config(dict(launcher='pytorch')))
    assert '--nproc_per_node=2' in caught.value.fix
