"""Resume after a kill continues with the same losses as without it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import hook_runs
import tiny
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.distiller.state import check_resumable
from mkd_det.errors import ResumeError
from mkd_det.io.random_state import random_state

STEPS = 3  # an epoch: 6 images, 2 a batch


def _cfg(root: Path, epochs: int = 3, **kwargs: Any) -> Any:
    cfg = hook_runs.distill_cfg(root, epochs=epochs, **kwargs)
    cfg.default_hooks.resume_state = dict(type='ResumeStateHook')
    cfg.default_hooks.checkpoint.type = 'SafeCheckpointHook'
    cfg.custom_hooks = [dict(type='DiceHook')]
    return cfg


def _train(cfg: Any, log: Path, resume: bool = False) -> dict[int, str]:
    cfg = cfg.copy()
    cfg.resume = resume
    runner = hook_runs.build(cfg, log.stem)
    runner.register_hook(hook_runs.LossLog(log))
    runner.train()
    return hook_runs.logged(log)


def _train_and_kill(cfg: Any, log: Path, after: int) -> dict[int, str]:
    """Train in another process and kill it with SIGKILL after step `after`."""
    file = Path(cfg.work_dir).parent / 'killed.py'
    cfg.dump(file)
    child = hook_runs.start(file, log)
    deadline = time.monotonic() + 240
    try:
        while not log.exists() or len(log.read_text().splitlines()) <= after:
            assert child.is_alive(), hook_runs.said(log)
            if time.monotonic() > deadline:
                raise TimeoutError(hook_runs.said(log))
            time.sleep(0.01)
    finally:
        child.kill()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    return hook_runs.logged(log)


def _train_two_ranks(cfg: Any, log: Path) -> list[dict[int, str]]:
    """Train on two gloo ranks; return the losses of each rank."""
    for rank, code in enumerate(hook_runs.train_two_ranks(cfg, log)):
        assert code == 0, hook_runs.said(log, RANK=str(rank))
    return [hook_runs.logged(Path(f'{log}{rank}')) for rank in '01']


def test_a_killed_run_continues_with_the_same_losses(tmp_path: Path) -> None:
    whole = _cfg(tmp_path)
    whole.work_dir = str(tmp_path / 'whole')
    expected = _train(whole, tmp_path / 'whole.log')
    cfg = _cfg(tmp_path)
    before = _train_and_kill(cfg, tmp_path / 'killed.log', after=STEPS + 1)
    after = _train(cfg, tmp_path / 'resumed.log', resume=True)
    assert min(after) in (STEPS, 2 * STEPS), 'it has started from the beginning'
    assert len(expected) == 3 * STEPS
    assert {**before, **after} == expected


@pytest.mark.parametrize('kind', ['workers without a seed', 'iterations'])
def test_resumed_steps_are_the_killed_runs_own(tmp_path: Path, kind: str) -> None:
    cfg = _cfg(tmp_path)
    if kind == 'workers without a seed':
        cfg.train_dataloader.num_workers = 2
        cfg.train_dataloader.persistent_workers = False
        cfg.randomness = dict(seed=None)
    else:
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=2)
        cfg.train_dataloader.sampler.type = 'InfiniteSampler'
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=4)
    # The last step before the kill lies in the middle of an epoch, behind a
    # checkpoint and a validation.
    before = _train_and_kill(cfg, tmp_path / 'killed.log', after=STEPS + 2)
    pointer = Path(cfg.work_dir, 'last_checkpoint')
    first = next(Path(cfg.work_dir).glob('*_[14].pth'))
    pointer.write_text(str(first))
    after = _train(cfg, tmp_path / 'resumed.log', resume=True)
    both = sorted(set(before) & set(after))
    assert len(both) >= 2
    assert {i: before[i] for i in both} == {i: after[i] for i in both}


def test_every_rank_continues_with_its_own_random_numbers(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, epochs=2, images=4)
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    # All ranks take part in measuring the teacher, too.
    cfg.default_hooks.teacher_check = dict(
        type='TeacherCheckHook', num_images=3, threshold=0
    )
    whole = _train_two_ranks(cfg, tmp_path / 'whole.log')
    last = Path(cfg.work_dir, 'epoch_2.pth')
    expected = _buffers(last)
    last.unlink()
    cfg.resume, cfg.load_from = True, str(Path(cfg.work_dir, 'epoch_1.pth'))
    again = _train_two_ranks(cfg, tmp_path / 'again.log')
    for rank in (0, 1):
        assert list(again[rank]) == [1]
        assert again[rank][1] == whole[rank][1]
    assert again[0] != again[1], 'the ranks draw different numbers'
    # Each rank validates with batch statistics of its own.
    found = _buffers(last)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def _buffers(checkpoint: Path) -> dict[str, Any]:
    """The batch statistics of the second rank, which are not those of the first."""
    content = read_checkpoint(checkpoint)
    first, second = content['distill_resume']['ranks']
    assert first['buffers'] == {}
    means = {n: b for n, b in second['buffers'].items() if n.endswith('running_mean')}
    weights = {f'student.{key}': v for key, v in content['state_dict'].items()}
    assert len(means) > 10
    assert not any(torch.equal(mean, weights[n]) for n, mean in means.items())
    return second['buffers']


def test_what_modules_carry_between_iterations_is_resumed(tmp_path: Path) -> None:
    """`BatchSyncRandomResize` keeps the size that it has drawn last."""
    logs = []
    for name in ('whole', 'resumed'):
        cfg = _cfg(tmp_path, epochs=2)
        cfg.work_dir = str(tmp_path / name)
        resize = dict(
            type='BatchSyncRandomResize',
            random_size_range=(64, 160),
            interval=2,
            size_divisor=32,
        )
        cfg.model.student.data_preprocessor.batch_augments = [resize]
        if name == 'resumed':
            cfg.train_cfg.max_epochs = 1
            _train(cfg, tmp_path / f'first {name}.log')
            cfg.train_cfg.max_epochs = 2
        logs.append(_train(cfg, tmp_path / f'{name}.log', resume=name == 'resumed'))
    assert list(logs[1]) == [3, 4, 5]
    assert logs[1].items() <= logs[0].items()
    ranks = read_checkpoint(Path(cfg.work_dir, 'epoch_1.pth'))['distill_resume'][
        'ranks'
    ]
    ((path, state),) = ranks[0]['modules'].items()
    assert path.endswith('batch_augments.0') and '_input_size' in state


def test_a_resume_that_is_not_exact_says_why(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, epochs=2, val=False)
    dataset = cfg.train_dataloader.dataset
    pipeline = dataset.pipeline
    dataset.pipeline = pipeline[:2]
    mosaic = dict(type='CachedMosaic', img_scale=(64, 64), max_cached_images=6)
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', dataset=dataset, pipeline=[mosaic, pipeline[-1]]
    )
    _train(cfg, tmp_path / 'first.log')
    cfg.load_from = str(Path(cfg.work_dir, 'epoch_1.pth'))
    cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
    lines = _said(cfg, tmp_path / 'resumed.log')
    assert ['workers are persistent' in line for line in lines] == [True, False]
    assert 'CachedMosaic.results_cache begins empty' in lines[1]


def test_iterations_with_workers_are_said_to_be_not_exact(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, val=False)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1)
    _train(cfg, tmp_path / 'first.log')
    cfg.load_from = str(Path(cfg.work_dir, 'iter_1.pth'))
    cfg.train_dataloader.num_workers = 1
    (line,) = _said(cfg, tmp_path / 'resumed.log')
    assert 'num_workers=0 continues exactly' in line


def _said(cfg: Any, log: Path) -> list[str]:
    """Resume; return why it is not exact."""
    cfg.resume = True
    runner = hook_runs.build(cfg, log.stem)
    lines: list[str] = []
    runner.logger.warning = lambda text, *_, **__: lines.append(text)
    runner.train()
    return [line for line in lines if line.startswith('resume: not exact')]


def test_the_hook_changes_nothing_in_a_run_that_is_not_resumed(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, epochs=2)
    with_it = _train(cfg, tmp_path / 'with.log')
    del cfg.default_hooks.resume_state
    assert _train(cfg, tmp_path / 'without.log') == with_it


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    cfg = _cfg(tmp_path, epochs=1, val=False, images=2)
    _train(cfg, tmp_path / 'first.log')
    return Path(cfg.work_dir, 'epoch_1.pth')


def test_a_checkpoint_holds_nothing_that_needs_unpickling(checkpoint: Path) -> None:
    content = read_checkpoint(str(checkpoint))
    assert len(content['distill_resume']['ranks']) == 1


def test_resuming_under_another_plan_says_what_differs(
    checkpoint: Path, tmp_path: Path
) -> None:
    terms = dict(
        loss_attention=dict(type='AttentionKD', student='stages', teacher='t.stages')
    )
    cfg = _cfg(tmp_path, epochs=2, val=False, terms=terms)
    with pytest.raises(ResumeError, match='another distillation plan') as error:
        _train(cfg, tmp_path / 'other.log', resume=True)
    assert 'fpn <- t.fpn' in str(error.value)
    assert 'stages <- t.stages' in str(error.value)


def test_another_weight_is_not_another_plan(checkpoint: Path, tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, epochs=2, val=False)
    cfg.model.terms.loss_attention.weight = 3.0
    assert list(_train(cfg, tmp_path / 'weight.log', resume=True)) == [1]


def _state(root: Path) -> tuple[Any, dict[str, Any]]:
    """Return a config with two terms and the content of its untrained checkpoint."""
    pair = dict(student='fpn', teacher='t.fpn')
    terms = dict(
        loss_attention=dict(type='AttentionKD', **pair),
        loss_relation=dict(type='RelationKD', relation='spatial', **pair),
    )
    cfg = hook_runs.distill_cfg(root, images=1, val=False, terms=terms)
    return cfg, _content(cfg)


def _content(cfg: Any) -> dict[str, Any]:
    model = _loaded(cfg)
    state = dict(random=random_state(), sampler_seed=None)
    return dict(
        state_dict=model.state_dict(), optimizer={}, distill_resume=dict(ranks=[state])
    )


def _loaded(cfg: Any) -> Any:
    model = tiny.build(cfg.model.to_dict())
    model.teachers.load()
    return model


def _other_teacher(model: Any) -> None:
    file = Path(model.teachers.t.checkpoint)
    content = torch.load(file)
    content['state_dict']['backbone.conv1.weight'] *= 1.1
    torch.save(content, file)


OTHER_TRAININGS: dict[str, tuple[Any, str]] = {
    'teacher': (_other_teacher, 'settings of teacher t: checkpoint has weights'),
    'setting': (
        lambda model: model.terms.loss_relation.update(normalize=False),
        'settings of term loss_relation: checkpoint has normalize=true',
    ),
    'weight 0': (
        lambda model: model.terms.loss_relation.update(weight=0),
        'term loss_relation has weight 0, which takes it out of the plan',
    ),
    'branch': (
        lambda model: model.update(
            branches=dict(
                e=dict(type='ExplorationBranch', on=['neck.fpn_convs', 'bbox_head'])
            )
        ),
        'branch e: checkpoint has none',
    ),
}


@pytest.mark.parametrize('case', OTHER_TRAININGS)
def test_resuming_another_training_lists_a_few_short_differences(
    case: str, tmp_path: Path
) -> None:
    change, words = OTHER_TRAININGS[case]
    cfg, content = _state(tmp_path)
    change(cfg.model)
    with pytest.raises(ResumeError) as error:
        check_resumable(content, _loaded(cfg))
    assert words in str(error.value)
    assert len(str(error.value)) < 1000


def test_settings_that_may_change_do_not_prevent_a_resume(tmp_path: Path) -> None:
    cfg, content = _state(tmp_path)
    term = cfg.model.terms.loss_relation
    # The default, written out, is no other setting.
    term.update(weight=3.0, schedule=dict(warmup_iters=2), normalize=True)
    file = Path(cfg.model.teachers.t.checkpoint)
    cfg.model.teachers.t.checkpoint = str(file.rename(tmp_path / 'moved.pth'))
    assert check_resumable(content, _loaded(cfg))['plan']


def test_a_checkpoint_of_an_earlier_version_resumes(tmp_path: Path) -> None:
    cfg, content = _state(tmp_path)
    del content['state_dict']._metadata['']['distill']['settings']
    assert check_resumable(content, _loaded(cfg))['plan']


@pytest.mark.parametrize('state', [{}, 3, dict(ranks=[3]), dict(ranks=None)])
def test_a_damaged_distillation_state_is_a_typed_error(
    state: Any, tmp_path: Path
) -> None:
    cfg, content = _state(tmp_path)
    content['distill_resume'] = state
    with pytest.raises(ResumeError, match='not what ResumeStateHook writes'):
        check_resumable(content, _loaded(cfg))


def test_resuming_a_plain_student_says_load_from(tmp_path: Path) -> None:
    cfg = _cfg(tmp_path, val=False)
    file = tiny.write_checkpoint(cfg.model.student, tmp_path / 'student.pth')
    cfg.load_from = str(file)
    with pytest.raises(ResumeError, match='plain student') as error:
        _train(cfg, tmp_path / 'plain.log', resume=True)
    assert 'load_from' in error.value.fix


def test_resuming_a_checkpoint_without_optimizer_is_an_error(
    checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=False)
    del content['optimizer']
    torch.save(content, tmp_path / 'best.pth')
    cfg = _cfg(tmp_path, val=False)
    cfg.load_from = str(tmp_path / 'best.pth')
    with pytest.raises(ResumeError, match='no optimizer'):
        _train(cfg, tmp_path / 'best.log', resume=True)
