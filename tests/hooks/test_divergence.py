"""A training that diverges stops with a typed error and leaves what is needed to
replay the step; nothing that is not finite is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import Tensor

import hook_runs
import tiny_images
from mkd_det import LOSSES, PairLoss
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.errors import CheckpointFileError, ConfigError, DivergenceError
from mkd_det.hooks.recovery import divergence_hook
from mkd_det.hooks.recovery.divergence_hook import DivergenceHook
from mkd_det.training.divergence import replay


@LOSSES.register_module(force=True)
class ZeroRoot(PairLoss):
    """A loss of 0 whose gradient is not a number."""

    def pair(self, student: Tensor, teacher: Tensor, mask: Any = None) -> Tensor:
        return (student - student.detach()).abs().sum().sqrt()


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledWrapper(OptimWrapper):
    """Mixed precision's gradient scaler, on a CPU."""

    def __init__(self, scale: float, **more: Any) -> None:
        super().__init__(**more)
        self.loss_scaler = torch.amp.GradScaler(
            'cpu', init_scale=scale, backoff_factor=1e-20
        )

    def backward(self, loss: Tensor, **more: Any) -> None:
        self.loss_scaler.scale(loss).backward(**more)
        self._inner_count += 1

    def step(self, **more: Any) -> None:
        self.loss_scaler.step(self.optimizer, **more)
        self.loss_scaler.update()


def start(cfg: Any, name: str) -> Runner:
    runner = hook_runs.build(cfg, name)
    runner.register_hook(DivergenceHook())
    runner.train()
    return runner


def diverge(cfg: Any, name: str) -> DivergenceError:
    with pytest.raises(DivergenceError) as info:
        start(cfg, name)
    return info.value


def cfg_of(root: Path, **more: Any) -> Any:
    cfg = hook_runs.distill_cfg(root, val=False, **more)
    cfg.default_hooks.export_student = dict(type='ExportStudentHook')
    cfg.custom_hooks = [dict(type='DiceHook')]
    return cfg


def term(kind: str = 'AttentionKD', weight: float = 1.0) -> dict[str, Any]:
    return dict(
        loss_bad=dict(type=kind, student='fpn', teacher='t.fpn', weight=weight),
        loss_good=dict(type='AttentionKD', student='stages', teacher='t.stages'),
    )


def step_file(cfg: Any, iteration: int) -> Path:
    return Path(cfg.work_dir, f'diverged_iter_{iteration}.pth')


def test_a_learning_rate_that_is_too_high_stops_the_training(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path, epochs=2)
    cfg.optim_wrapper.optimizer.lr = 1e18
    error = diverge(cfg, 'rate')
    assert 'iteration 2 (epoch 1)' in error.message
    assert 'the first output that is not finite is that of student.' in error.message
    assert error.actual == 'no checkpoint yet'
    assert str(step_file(cfg, 2)) in error.fix
    assert not list(Path(cfg.work_dir).glob('epoch_*.pth'))
    assert not Path(cfg.work_dir, 'student_last.pth').exists()
    findings = replay(cfg, step_file(cfg, 2))
    assert not findings.finite
    assert str(findings) in error.message, 'the replayed step is the same'


@pytest.mark.parametrize('accumulated', [1, 3])
def test_the_term_is_named(tmp_path: Path, accumulated: int) -> None:
    cfg = cfg_of(tmp_path, terms=term(weight=1e39))
    cfg.optim_wrapper.accumulative_counts = accumulated
    error = diverge(cfg, 'term')
    assert 'iteration 1 ' in error.message
    assert 'loss_bad is inf' in error.message
    assert 'loss_good' not in error.message
    findings = replay(cfg, step_file(cfg, 1))
    assert findings.bad_losses == ['loss_bad']
    assert math.isfinite(findings.losses['loss_good'])
    assert str(findings) in error.message


def test_a_gradient_that_is_not_finite_stops_it_while_losses_are(
    tmp_path: Path,
) -> None:
    cfg = cfg_of(tmp_path, terms=term('ZeroRoot'))
    error = diverge(cfg, 'gradient')
    assert 'the gradient of loss_bad is not finite at student.' in error.message
    assert 'loss_good' not in error.message
    findings = replay(cfg, step_file(cfg, 1))
    assert (findings.bad_losses, findings.layer) == ([], '')
    assert list(findings.gradients) == ['loss_bad']


def test_the_step_is_not_written_through_a_link(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path, terms=term(weight=1e39))
    other = tmp_path / 'other.pth'
    other.write_text('other')
    Path(cfg.work_dir).mkdir()
    step_file(cfg, 1).symlink_to(other)
    diverge(cfg, 'link')
    assert other.read_text() == 'other' and not step_file(cfg, 1).is_symlink()


def test_the_last_checkpoint_is_named_and_is_finite(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path, epochs=2)
    start(cfg, 'first')
    exported = Path(cfg.work_dir, 'student_last.pth').read_bytes()
    cfg.resume, cfg.load_from = True, str(Path(cfg.work_dir, 'epoch_1.pth'))
    cfg.model.task_weight = 1e39
    error = diverge(cfg, 'second')
    assert 'iteration 4 (epoch 2)' in error.message
    assert 'epoch_1.pth, is finite' in error.actual
    assert Path(cfg.work_dir, 'student_last.pth').read_bytes() == exported


def test_a_plain_model_is_watched_as_well(tmp_path: Path) -> None:
    data = tiny_images.write_folder(tmp_path / 'images', 4)
    cfg = tiny_images.runner_cfg(tiny_images.classifier(), data, tmp_path / 'run', 9)
    cfg.optim_wrapper.optimizer.lr = 1e30
    error = diverge(cfg, 'plain')
    (file,) = Path(cfg.work_dir).glob('diverged_iter_*.pth')
    assert str(replay(cfg, file)) in error.message
    for path in Path(cfg.work_dir).glob('epoch_*.pth'):
        state = torch.load(path, weights_only=False)['state_dict']
        assert all(v.isfinite().all() for v in state.values())


@pytest.mark.parametrize('accumulated', [1, 2])
def test_all_ranks_stop_and_keep_their_steps(tmp_path: Path, accumulated: int) -> None:
    cfg = cfg_of(tmp_path, images=4, terms=term(weight=1e39))
    cfg.optim_wrapper.accumulative_counts = accumulated
    cfg.custom_hooks = [dict(type='DivergenceHook')]
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    log = tmp_path / 'log'
    for rank, code in enumerate(hook_runs.train_two_ranks(cfg, log)):
        assert code != 0
        said = hook_runs.said(log, RANK=str(rank))
        assert 'rank 0: loss_bad is inf' in said and 'rank 1: loss_bad' in said
        assert Path(cfg.work_dir, f'diverged_iter_1_rank{rank}.pth').is_file()


def test_steps_that_mixed_precision_skips_are_no_divergence(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path, terms=term(weight=1e4))
    cfg.optim_wrapper.update(type='ScaledWrapper', scale=1e38)
    runner = start(cfg, 'scaled')
    assert runner.iter == 3
    assert 0 < runner.optim_wrapper.loss_scaler.get_scale() < 1e20, 'it has skipped'


def test_mixed_precision_that_skips_for_ever_has_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence_hook, 'MAX_SKIPPED', 3)
    cfg = cfg_of(tmp_path, epochs=3, terms=term(weight=1e39))
    cfg.optim_wrapper.update(type='ScaledWrapper', scale=1.0)
    error = diverge(cfg, 'for ever')
    assert 'iteration 3 ' in error.message
    assert 'loss_bad is inf' in error.message


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The last step of an epoch may overflow, with finite losses and gradients."""
    cfg = cfg_of(tmp_path)

    class Overflow(DivergenceHook):
        priority = 'HIGHEST'

        def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
            if runner.iter == 2:
                next(runner.model.student.parameters()).data[0] = torch.inf

    runner = hook_runs.build(cfg, 'overflow')
    runner.register_hook(DivergenceHook())
    runner.register_hook(Overflow())
    with pytest.raises(DivergenceError, match='is not finite after iteration 3'):
        runner.train()
    assert not list(Path(cfg.work_dir).glob('*.pth'))


def test_a_file_of_another_training_is_refused(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path, terms=term(weight=1e39))
    diverge(cfg, 'refused')
    with pytest.raises(CheckpointFileError) as info:
        replay(cfg, tmp_path / 'teacher.pth')
    assert 'no training step' in info.value.message
    whole = read_checkpoint(step_file(cfg, 1))
    odd = dict(progress=dict(iter='x'), random={}, state_dict=3, autocast='load')
    for key in (*odd, 'batch', 'balance'):
        changed = {k: v for k, v in whole.items() if k != key}
        changed |= {key: odd[key]} if key in odd else {}
        torch.save(changed, tmp_path / 'odd.pth')
        with pytest.raises(CheckpointFileError, match='cannot be run again'):
            replay(cfg, tmp_path / 'odd.pth')
    del cfg.model.terms.loss_good
    with pytest.raises(ConfigError, match='another plan'):
        replay(cfg, step_file(cfg, 1))
