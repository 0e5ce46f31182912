"""What a resumed training does differently than its config or the killed run says.

mmengine restores the optimizer and the schedules from the checkpoint, over what the
config says, and compares neither processes nor batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..errors import ResumeError
from .class_names import RUN_RECORD

# What a schedule counts; everything else in its state is a setting.
_COUNTERS = ('last_step', '_global_step', '_last_value', 'base_values', 'verbose')
_NEW_START = 'load_from without resume starts with that of the config'


def report_differences(
    runner: Runner, checkpoint: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[str]:
    """Return a line for each difference between a checkpoint and the resumed training.

    Args:
        runner: The runner, before its optimizer is restored.
        checkpoint: The checkpoint that it resumes from.
        facts: Facts of this training, as `RunRecordHook` notes them.

    Raises:
        ResumeError: Gradients are accumulated, and an epoch has another number of
            iterations.
    """
    meta = checkpoint.get('meta') or {}
    return [
        *_compare_facts(meta.get(RUN_RECORD), facts),
        *_compare_epochs(runner, meta),
        *_compare_optimizers(runner.optim_wrapper, checkpoint.get('optimizer')),
        *_compare_schedules(
            runner.param_schedulers, checkpoint.get('param_schedulers')
        ),
    ]


def _compare_facts(saved: Any, facts: Mapping[str, Any]) -> Iterator[str]:
    saved = saved if isinstance(saved, Mapping) else {}
    for key, words in (
        ('world_size', 'process(es)'),
        ('batch_size', 'images a batch on each process'),
    ):
        before, now = saved.get(key), facts.get(key)
        if None not in (before, now) and before != now:
            yield (
                f'the resumed training has {now} {words}, the checkpoint is of'
                f' {before}: it continues with the learning rate of the checkpoint,'
                ' and not as the killed one would have'
            )
    before, now = (f.get('accumulative_counts') for f in (saved, facts))
    if None not in (before, now) and before != now:
        yield (
            f'the resumed training takes a step every {now} batch(es), the checkpoint'
            f' is of one every {before}: accumulative_counts={now} of the config counts'
            ' from here on'
        )
    before, now = saved.get('label_names'), facts.get('label_names')
    if before and now and list(before) != list(now):
        yield (
            f'the labels of the data mean other classes ({", ".join(now)}) than in the'
            f' checkpoint ({", ".join(map(str, before))})'
        )


def _compare_epochs(runner: Runner, meta: Mapping[str, Any]) -> Iterator[str]:
    """Compare the iterations of an epoch with those of the killed training."""
    loop = runner.train_loop
    epoch, iteration = meta.get('epoch'), meta.get('iter')
    if not isinstance(loop, EpochBasedTrainLoop) or not epoch or not iteration:
        return
    now = len(loop.dataloader)
    if iteration == epoch * now or iteration % epoch:
        return  # the same; or saved in the middle of an epoch
    before = iteration // epoch
    counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    if counts > 1:
        raise ResumeError(
            'a training that accumulates gradients cannot be resumed with another'
            ' number of iterations in an epoch',
            expected=f'{before} iterations, as in the checkpoint',
            actual=f'{now} iterations, accumulative_counts={counts}',
            fix='as many processes and images a batch as before; or load_from without'
            ' resume',
        )
    yield (
        f'an epoch has {now} iterations, it had {before}: what counts iterations'
        f' (schedules, logs) continues at {iteration}'
    )


def _compare_optimizers(wrapper: Any, saved: Any) -> Iterator[str]:
    """Compare the settings of the config with those that mmengine restores."""
    if not isinstance(saved, Mapping):
        return
    if isinstance(wrapper, OptimWrapperDict):
        for name, one in wrapper.items():
            yield from _compare_optimizers(one, saved.get(name))
        return
    told: set[str] = set()
    groups = saved.get('param_groups') or []
    for ours, theirs in zip(wrapper.optimizer.param_groups, groups):
        for key in ours.keys() & theirs.keys() - {'params', 'param_names'} - told:
            if key.startswith('initial_'):
                continue
            # Schedules change a setting; they keep its first value beside it.
            now = ours.get(f'initial_{key}', ours[key])
            before = theirs.get(f'initial_{key}', theirs[key])
            if _differ(now, before):
                told.add(key)
                yield (
                    f'{key}={now} of the config is not used: a resumed training keeps'
                    f' {key}={before} of the checkpoint ({_NEW_START})'
                )


def _compare_schedules(schedulers: Any, saved: Any, of: str = '') -> Iterator[str]:
    """Compare the schedules of the config with those that mmengine restores."""
    if isinstance(schedulers, Mapping):
        for name, part in schedulers.items():
            if isinstance(saved, Mapping):
                yield from _compare_schedules(part, saved.get(name), f'{name}.')
        return
    if not isinstance(schedulers, Sequence) or not isinstance(saved, Sequence):
        return
    if len(schedulers) != len(saved):
        yield (
            f'{of}param_scheduler: the config has {len(schedulers)} schedules, the'
            f' checkpoint {len(saved)}; the states of the first'
            f' {min(len(schedulers), len(saved))} are restored'
        )
    for number, (scheduler, theirs) in enumerate(zip(schedulers, saved)):
        ours = scheduler.state_dict()
        for key in sorted(ours.keys() & theirs.keys() - set(_COUNTERS)):
            if _differ(ours[key], theirs[key]):
                now, before = map(_shown, (ours[key], theirs[key]))
                yield (
                    f'{of}param_scheduler[{number}]: {key}={now} of the config is not'
                    f' used: a resumed training keeps {key}={before} of the checkpoint'
                    f' ({_NEW_START})'
                )


def _shown(value: Any) -> Any:
    """Return the milestones of a schedule as they stand in a config."""
    return sorted(value.elements()) if isinstance(value, Counter) else value


def _differ(first: Any, second: Any) -> bool:
    """Return whether two settings differ; lists and tuples may be the same."""
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return list(first) != list(second)
    try:
        return bool(first != second)
    except (RuntimeError, ValueError):  # tensors and arrays
        return False
