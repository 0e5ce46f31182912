"""Short real trainings for the tests of hooks. Plain functions, so that
processes that a test starts and kills can import them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS, METRICS
from mmengine.runner import Runner
from yapf.yapflib import yapf_api

import faults
import tiny
from mkd_det import DistillHook


class LossLog(Hook):
    """Writes every loss of every step to a file, exactly."""

    priority = 'HIGHEST'

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        values = {k: float(v.detach()).hex() for k, v in sorted(outputs.items())}
        with open(self.path, 'a') as file:
            file.write(f'{runner.iter} {values}\n')


@HOOKS.register_module(force=True)
class DiceHook(DistillHook):
    """Draws from every global generator in every step, and logs it."""

    def after_terms(self, runner: Runner, losses: dict[str, Any]) -> None:
        losses['stat_torch'] = torch.rand(())
        losses['stat_numpy'] = torch.tensor(np.random.rand())
        losses['stat_python'] = torch.tensor(random.random())


@METRICS.register_module(force=True)
class EpochMetric(BaseMetric):
    """A metric that gets better with every epoch, or worse with `sign=-1`."""

    default_prefix = 'toy'

    def __init__(self, sign: int = 1) -> None:
        super().__init__()
        self.sign = sign

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [0] * len(data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        epoch = MessageHub.get_current_instance().get_info('epoch', 0)
        return {'mAP': 100 + self.sign * epoch}


def distill_cfg(
    root: Path,
    epochs: int = 1,
    val: bool = True,
    images: int = 6,
    terms: dict[str, Any] | None = None,
    teacher: dict[str, Any] | None = None,
    **distiller: Any,
) -> Config:
    """A whole distillation, GFL to GFL, 64x96 images, with its own data and
    teacher file under `root`."""
    data = root / 'coco'
    if not data.exists():
        tiny.write_coco(data, images=images)
    wide = tiny.gfl(base_channels=8, neck=16)
    file = root / 'teacher.pth'
    if not file.exists():
        tiny.write_checkpoint(wide, file)
    model = dict(
        type='Distiller',
        student=tiny.gfl(base_channels=4, neck=8),
        teachers=dict(
            t=dict(cfg=wide, checkpoint=str(file), speed='off') | (teacher or {})
        ),
        taps=dict(fpn='neck', stages='backbone'),
        probe_size=64,
        terms=terms
        or dict(
            loss_attention=dict(type='AttentionKD', student='fpn', teacher='t.fpn')
        ),
        **distiller,
    )
    cfg = tiny.runner_cfg(model, data, root / 'run', epochs=epochs, val=val)
    # A horizontal flip draws from numpy's generator in every step.
    flip = dict(type='RandomFlip', prob=0.5)
    cfg.train_dataloader.dataset.pipeline.insert(-1, flip)
    return cfg


def build(cfg: Config, name: str) -> Runner:
    """A runner with a name of its own: mmengine keeps its globals by name."""
    from mmdet.utils import register_all_modules

    torch.set_num_threads(1)
    # Where mmengine spends nine tenths of so short a training: making the text
    # of the config pretty, five times.
    yapf_api.FormatCode = lambda text, **_: (text, True)
    register_all_modules(init_default_scope=True)
    cfg = cfg.copy()
    cfg.experiment_name = name
    return Runner.from_cfg(cfg)


def logged(path: Path) -> dict[int, str]:
    """What `LossLog` wrote, the last time each step was done."""
    lines = path.read_text().splitlines()
    return {int(line.split(' ', 1)[0]): line.split(' ', 1)[1] for line in lines}


# Processes that a test starts: forked from one that has imported everything and
# has done nothing yet (autograd does not survive a fork).
PROCESSES = multiprocessing.get_context('forkserver')
_ROOMS = ('datasets', 'engine', 'evaluation', 'models', 'visualization')
_PRELOADED = [
    'hook_runs',
    *(f'mmdet.{room}' for room in _ROOMS),
    'mkd_det.cli.train',
    'mkd_det.experiments.runs',
    'mkd_det.run',
    'setuptools',  # mmengine asks it for the compiler's version
]
PROCESSES.set_forkserver_preload(_PRELOADED)


def start(config: Path, log: Path, **env: str) -> Any:
    """Train `config` in a process of its own, losses to `log` (each rank to a
    file of its own: `log` and the rank). KILL_AT='module:function' and KILL_COUNT='2'
    kill it at a named moment, see `faults.arm`."""
    child = PROCESSES.Process(target=_child, args=(config, log, env))
    child.start()
    return child


def train_two_ranks(cfg: Config, log: Path) -> list[int]:
    """Train on two gloo ranks; return their exit codes."""
    file = log.with_suffix('.py')
    cfg.dump(file)
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = str(free.getsockname()[1])
    world = dict(MASTER_ADDR='localhost', MASTER_PORT=port, WORLD_SIZE='2')
    ranks = [start(file, log, RANK=r, LOCAL_RANK=r, **world) for r in '01']
    for child in ranks:
        child.join(timeout=300)
    return [child.exitcode for child in ranks]


def said(log: Path, **env: str) -> str:
    """What such a process had to say."""
    return Path(f'{log}{env.get("RANK", "")}.out').read_text()[-3000:]


def _child(config: Path, log: Path, env: dict[str, str]) -> None:
    gc.freeze()  # mmengine collects garbage for each dataset that it builds
    os.environ.update(env)
    if 'KILL_AT' in env:
        faults.arm(env['KILL_AT'], int(env.get('KILL_COUNT', 1)))
    rank = env.get('RANK', '')
    with open(f'{log}{rank}.out', 'w') as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if rank:
        # mmengine's launcher asks for a GPU whatever the backend.
        torch.distributed.init_process_group('gloo')
    runner = build(Config.fromfile(config), 'child')
    runner.register_hook(LossLog(Path(f'{log}{rank}')))
    runner.train()
