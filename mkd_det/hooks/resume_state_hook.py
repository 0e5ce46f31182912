"""Makes a resumed run continue as the killed one would have."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import partial
from os.path import commonprefix
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..distiller.model import Distiller
from ..errors import ResumeError
from ..io.random_state import preserved_random_state, random_state, set_random_state
from ..training.runtime import get_distiller

KEY = 'distill_resume'
# How many differences an error names, and how much of each, in characters.
LINES, WIDTH = 6, 80


@HOOKS.register_module()
class ResumeStateHook(Hook):
    """Random states into every checkpoint, and out of it on resume.

    mmengine's checkpoints hold weights, optimizer and schedules, but not where
    the random generators stood, and it draws a new seed on resume when the
    config gives none. With this hook, losses after a kill and `--resume` equal
    those of a run that was not killed (bit for bit on a CPU, where the
    arithmetic itself is exact), when the run continues from the end of an epoch
    and either `num_workers=0` or `persistent_workers=False`. Persistent workers
    carry random states of their own, which nobody can read: the run continues
    with the same images in the same order, but augmented differently. So it does
    in iteration-based training with workers.

    It changes nothing in a run that is not resumed.

    Raises:
        ResumeError: The checkpoint is of another plan, or of no distillation at
            all, or one that cannot be continued from.
    """

    # Last before the first iteration, so that no other hook draws in between.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._ranks: list[dict[str, Any]] | None = None
        self._resumed: dict[str, Any] | None = None
        self._validating = False
        self._quiet: DataLoader | None = None

    # -- saving ----------------------------------------------------------------

    def before_val(self, runner: Runner) -> None:
        """Note that validation runs."""
        self._validating = True

    def after_val(self, runner: Runner) -> None:
        """Note that it is over."""
        self._validating = False

    def before_checkpoint(self, runner: Runner) -> None:
        """Every rank: gather the states (`SafeCheckpointHook` calls this)."""
        self._ranks = all_gather_object(self._state(runner))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Rank 0: put the states beside the weights."""
        ranks = self._ranks or [self._state(runner)]
        self._ranks = None
        checkpoint[KEY] = dict(ranks=ranks)

    def _state(self, runner: Runner) -> dict[str, Any]:
        """What this rank has to restore when it continues from here."""
        with preserved_random_state():
            if not self._validating and _validation_follows(runner):
                # The killed run would have validated before the next step; the
                # resumed one does not. All that validating draws is the seed
                # for the workers of a new iterator.
                _draw_as_iterator(runner.val_dataloader)
            state = random_state()
        sampler = _sampler_of(runner.train_dataloader)
        return dict(random=state, sampler_seed=getattr(sampler, 'seed', None))

    # -- resuming --------------------------------------------------------------

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint that cannot continue this run."""
        if not runner._resume:
            return
        distiller = get_distiller(runner, 'ResumeStateHook')
        saved = check_resumable(checkpoint, distiller)
        distiller.teachers.keep_speeds(saved.get('speeds', {}))
        self._resumed = checkpoint[KEY]

    def before_train(self, runner: Runner) -> None:
        """Continue where the killed run stood."""
        if self._resumed is None:
            return
        ranks, self._resumed = self._resumed['ranks'], None
        loader, rank = runner.train_dataloader, get_rank()
        if loader.persistent_workers:
            runner.logger.warning(
                'Resumed with persistent workers: images come in the same order as'
                ' without the interruption, but are augmented differently'
                ' (persistent_workers=False continues exactly)'
            )
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop) and loop.iter % max(len(loader), 1):
            runner.logger.warning(
                'Resumed from the middle of an epoch: that epoch starts again'
            )
        if rank >= len(ranks):
            runner.logger.warning(
                f'The checkpoint holds random states of {len(ranks)} processes, not'
                f' of rank {rank}: the run continues with fresh random numbers'
            )
            return
        _set_seeds(loader, ranks[rank]['sampler_seed'], runner.seed)
        set_random_state(ranks[rank]['random'])
        if isinstance(loop, IterBasedTrainLoop) and loader.generator is None:
            # The killed run drew its iterator's seed at the start. Making the
            # iterator anew must not draw from the restored state.
            loader.generator, self._quiet = torch.Generator(), loader

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """The iterator stands: later ones draw as they always do."""
        if self._quiet is not None:
            self._quiet.generator, self._quiet = None, None


def check_resumable(
    checkpoint: Mapping[str, Any], distiller: Distiller
) -> dict[str, Any]:
    """The distillation state of `checkpoint`.

    Raises:
        ResumeError: It was not written by a training like that of `distiller`.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    metadata = getattr(weights, '_metadata', None) or {}
    saved = metadata.get('', {}).get('distill')
    if saved is None or KEY not in checkpoint:
        raise ResumeError(
            'the checkpoint holds no distillation state: it is a plain student, or'
            ' was trained without ResumeStateHook',
            expected='a checkpoint that this training wrote (epoch_*.pth)',
            fix="load_from='...' without resume: start from its weights",
        )
    _check_whole(saved, checkpoint[KEY])
    # Checkpoints of former versions hold no settings.
    theirs = {**saved['plan'], **_marked(saved.get('settings') or {})}
    ours = distiller.plan.describe()
    if saved.get('settings'):
        ours |= _marked(distiller.settings)
    if theirs != ours:
        raise ResumeError(
            'the checkpoint is of another distillation plan:\n'
            + '\n'.join(_differences(theirs, ours, distiller.plan.off)),
            fix='the config it was trained with; or load_from without resume, to'
            ' start from its weights',
        )
    if 'optimizer' not in checkpoint:
        raise ResumeError(
            'the checkpoint holds no optimizer: best_*.pth are for use, not to go on',
            expected='epoch_*.pth (work_dir/last_checkpoint names the last)',
            fix="load_from='...' without resume: start from its weights",
        )
    return saved


def _check_whole(saved: Any, state: Any) -> None:
    """Raise unless both hold what this version of ours puts there."""
    parts = ('plan', 'adapters', 'losses', 'branches')
    ranks = state.get('ranks') if isinstance(state, Mapping) else None
    if (
        not isinstance(saved, Mapping)
        or not all(isinstance(saved.get(part), Mapping) for part in parts)
        or not isinstance(ranks, list)
        or not all(isinstance(r, Mapping) and 'random' in r for r in ranks)
    ):
        raise ResumeError(
            'the distillation state in the checkpoint is not what ResumeStateHook'
            ' writes',
            fix='another checkpoint of that training',
        )


def _marked(settings: Mapping[str, str]) -> dict[str, str]:
    return {f'settings of {part}': words for part, words in settings.items()}


def _differences(
    saved: Mapping[str, str], ours: Mapping[str, str], off: Sequence[str]
) -> list[str]:
    """A line for each part that differs, what matters first, the first ones only."""
    parts = [p for p in dict.fromkeys([*saved, *ours]) if saved.get(p) != ours.get(p)]
    # A term that is not there leaves out its settings, its taps and its adapter.
    of_terms = [p for p in parts if 'term ' in p or p.startswith('settings')]
    if of_terms:
        parts = of_terms + [p for p in parts if p in saved and p in ours]
    lines = []
    for part in dict.fromkeys(parts):
        theirs, own = saved.get(part, 'none'), ours.get(part, 'none')
        if part in off:
            lines.append(
                f'  {part} has weight 0, which takes it out of the plan; a small'
                ' weight (1e-9) keeps it in'
            )
        elif part.removeprefix('settings of ') == part or 'none' not in (theirs, own):
            theirs, own = _where_they_part(theirs, own)
            lines.append(f'  {part}: checkpoint has {theirs}; config has {own}')
    rest = len(lines) - LINES
    return lines[:LINES] + ([f'  and {rest} more'] if rest > 0 else [])


def _where_they_part(first: str, second: str) -> list[str]:
    """Both texts, as far as they are needed to see the difference."""
    same = len(commonprefix([first, second]))
    start = 0 if max(len(first), len(second)) <= WIDTH else max(same - 20, 0)
    ends = (text[start : start + WIDTH] for text in (first, second))
    return [
        ('...' if start else '') + end + ('...' if len(text) > start + WIDTH else '')
        for text, end in zip((first, second), ends)
    ]


def _validation_follows(runner: Runner) -> bool:
    """Whether mmengine's loop validates after the step or epoch that ends now."""
    loop = runner.train_loop
    if runner._val_loop is None:
        return False
    if isinstance(loop, EpochBasedTrainLoop):
        done, last = loop.epoch + 1, loop.max_epochs
    elif isinstance(loop, IterBasedTrainLoop):
        done, last = loop.iter + 1, loop.max_iters
    else:
        return False
    stage = bisect(loop.dynamic_milestones, done + 1) - 1
    interval = loop.dynamic_intervals[stage]
    return done >= loop.val_begin and (done % interval == 0 or done == last)


def _draw_as_iterator(loader: DataLoader) -> None:
    """Draw what `iter(loader)` draws from torch's generator."""
    alive = loader.persistent_workers and loader._iterator is not None
    if loader.generator is None and not alive:
        torch.empty((), dtype=torch.int64).random_()


def _sampler_of(loader: DataLoader) -> Any:
    """The sampler that orders the images: a batch sampler may hold it."""
    inner = getattr(loader.batch_sampler, 'sampler', None)
    return inner if hasattr(inner, 'seed') else loader.sampler


def _set_seeds(loader: DataLoader, sampler_seed: int | None, seed: int) -> None:
    """Give the data the seeds of the killed run: where the config gives none,
    this run has drawn its own before it knew of the checkpoint."""
    sampler = _sampler_of(loader)
    if sampler_seed is not None and hasattr(sampler, 'seed'):
        sampler.seed = sampler_seed
    start = loader.worker_init_fn
    if isinstance(start, partial) and 'seed' in start.keywords:
        loader.worker_init_fn = partial(start.func, **{**start.keywords, 'seed': seed})
