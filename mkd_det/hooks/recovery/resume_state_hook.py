"""Make a resumed run continue as the killed one would have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...data.determinism import transforms_in
from ...distiller.model import Distiller
from ...distiller.state import (
    check_resumable,
    put_random_states,
    random_states_in,
)
from ...io.random_state import preserved_random_state, random_state, set_random_state
from ...training.carried_state import (
    Attributes,
    changed_attributes,
    container_sizes,
    named_transforms,
    read_attributes,
    write_attributes,
)
from ...training.validation import (
    epoch_length,
    in_mid_epoch,
    steps_done,
    validates_after,
)


@HOOKS.register_module()
class ResumeStateHook(Hook):
    """Saves what else a training carries from step to step, and restores it on resume.

    mmengine's checkpoints have weights, optimizer and schedules, but no random states,
    and mmengine draws a new seed on resume when the config gives none. Also missing
    are the buffers of all ranks but the first (each has batch statistics of its own),
    and what modules and transforms keep in plain attributes, such as the size that
    `BatchSyncRandomResize` has drawn last. With this hook, losses and validations after
    a kill and `--resume` equal those of a run that was not killed (bit for bit on a
    CPU, where the arithmetic itself is exact), if the run continues from the end of an
    epoch and either `num_workers=0` or `persistent_workers=False`.

    Where that is not so, the resumed run says it. Persistent workers have random states
    of their own, which cannot be read: the run continues with the same images in the
    same order, but augments them differently. The same holds for iteration-based
    training with workers. The images in a cache of the pipeline (`CachedMosaic`) are
    not saved.

    The hook changes nothing in a run that is not resumed. Distill configs have it by
    default, `mkd_det.run.train` adds it to plain ones: teachers, roots of chains and
    the students that a comparison trains alone.

    Raises:
        ResumeError: The checkpoint of a distillation is of another plan, of no
            distillation at all, or cannot be resumed.
    """

    # Last before the first iteration, so that no other hook draws in between.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._ranks: list[dict[str, Any]] | None = None
        self._resumed: list[dict[str, Any]] | None = None
        self._length: int | None = None
        self._validating = False
        self._quiet: DataLoader | None = None
        self._modules: Attributes = {}
        self._transforms: Attributes = {}
        self._caches: dict[str, int] = {}

    def before_val(self, runner: Runner) -> None:
        """Note that validation runs."""
        self._validating = True

    def after_val(self, runner: Runner) -> None:
        """Note that validation is over."""
        self._validating = False

    def before_checkpoint(self, runner: Runner) -> None:
        """Gather the states of all ranks (`SafeCheckpointHook` calls this)."""
        self._ranks = all_gather_object(self._state(runner))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the states beside the weights, on rank 0."""
        ranks = self._ranks or [self._state(runner)]
        self._ranks = None
        put_random_states(checkpoint, ranks)

    def _state(self, runner: Runner) -> dict[str, Any]:
        """Return what this rank has to restore when it continues from here."""
        with preserved_random_state():
            if not self._validating and _validation_follows(runner):
                # The killed run would have validated before the next step; the
                # resumed one does not. All that validating draws is the seed
                # for the workers of a new iterator.
                _draw_as_iterator(runner.val_dataloader)
            state = random_state()
        sampler = _sampler_of(runner.train_dataloader)
        model, transforms = _model(runner), _pipeline(runner)
        caches = container_sizes(transforms)
        modules = read_attributes(dict(model.named_modules()))
        # Those of the first rank are in the state dict.
        buffers = {n: b.cpu() for n, b in model.named_buffers()} if get_rank() else {}
        return dict(
            random=state,
            sampler_seed=getattr(sampler, 'seed', None),
            # Those of the first rank are in the state dict.
            buffers=buffers,
            modules=changed_attributes(self._modules, modules),
            transforms=changed_attributes(
                self._transforms, read_attributes(transforms)
            ),
            not_saved=[n for n, size in caches.items() if size != self._caches.get(n)],
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint that this run cannot resume from."""
        if not runner._resume:
            return
        model = _model(runner)
        if isinstance(model, Distiller):
            saved = check_resumable(checkpoint, model)
            model.teachers.keep_speeds(saved.get('speeds', {}))
        self._length = epoch_length(checkpoint)
        self._resumed = random_states_in(checkpoint)
        if self._resumed is None:
            runner.logger.warning(
                'resume: not exact: the checkpoint has no random states, so images'
                ' are augmented differently (it is not of mkd-det train, or of an'
                ' earlier version)'
            )

    def before_train(self, runner: Runner) -> None:
        """Continue where the killed run stood."""
        model, transforms = _model(runner), _pipeline(runner)
        modules = dict(model.named_modules())
        self._modules = read_attributes(modules)
        self._transforms = read_attributes(transforms)
        self._caches = container_sizes(transforms)
        if self._resumed is None:
            return
        ranks, self._resumed = self._resumed, None
        loader, loop, rank = runner.train_dataloader, runner.train_loop, get_rank()
        for line in _inexact(loader, loop, ranks, self._length):
            runner.logger.warning(f'resume: not exact: {line}')
        if rank >= len(ranks):
            return
        write_attributes(modules, ranks[rank].get('modules'))
        write_attributes(transforms, ranks[rank].get('transforms'))
        _set_buffers(model, ranks[rank].get('buffers') or {})
        _set_seeds(loader, ranks[rank]['sampler_seed'], runner.seed)
        set_random_state(ranks[rank]['random'])
        if isinstance(loop, IterBasedTrainLoop) and loader.generator is None:
            # The killed run drew its iterator's seed at the start. Making the
            # iterator anew must not draw from the restored state.
            loader.generator, self._quiet = torch.Generator(), loader

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Let later iterators draw as they always do; this one exists now."""
        if self._quiet is not None:
            self._quiet.generator, self._quiet = None, None


def _inexact(
    loader: DataLoader,
    loop: Any,
    ranks: Sequence[Mapping[str, Any]],
    length: int | None,
) -> Iterator[str]:
    """Yield why a resumed run is not exactly the one that was killed."""
    if loader.persistent_workers:
        yield (
            'workers are persistent: images come in the same order, but are augmented'
            ' differently (persistent_workers=False continues exactly)'
        )
    elif loader.num_workers and isinstance(loop, IterBasedTrainLoop):
        yield (
            'workers run through the whole training: images come in the same order, but'
            ' are augmented differently (num_workers=0 continues exactly)'
        )
    before, now = len(ranks), get_world_size()
    if in_mid_epoch(loop, length):
        yield 'the checkpoint is of the middle of an epoch: that epoch starts again'
    if before != now:
        rest = '; further ones begin with new random numbers' if now > before else ''
        yield (
            f'the checkpoint has random states and batch statistics of {before}'
            f' process(es), not of {now}{rest}'
        )
    caches = dict.fromkeys(name for one in ranks for name in one.get('not_saved') or ())
    if caches:
        yield f'{", ".join(caches)} begins empty: the cached images were not saved'


def _set_buffers(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Restore the buffers of this rank."""
    for name, buffer in model.named_buffers():
        if name in saved and saved[name].shape == buffer.shape:
            buffer.copy_(saved[name])


def _model(runner: Runner) -> nn.Module:
    """Return the model without wrappers."""
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    return model


def _pipeline(runner: Runner) -> dict[str, Any]:
    """Return the transforms of the training data in this process, by name."""
    return named_transforms(transforms_in(runner.train_dataloader.dataset))


def _validation_follows(runner: Runner) -> bool:
    """Return whether mmengine validates after the step or epoch that ends now."""
    if runner._val_loop is None:
        return False
    return validates_after(runner.train_loop, steps_done(runner.train_loop) + 1)


def _draw_as_iterator(loader: DataLoader) -> None:
    """Draw what `iter(loader)` draws from torch's generator."""
    alive = loader.persistent_workers and loader._iterator is not None
    if loader.generator is None and not alive:
        torch.empty((), dtype=torch.int64).random_()


def _sampler_of(loader: DataLoader) -> Any:
    """Return the sampler that orders the images; a batch sampler may hold it."""
    inner = getattr(loader.batch_sampler, 'sampler', None)
    return inner if hasattr(inner, 'seed') else loader.sampler


def _set_seeds(loader: DataLoader, sampler_seed: int | None, seed: int) -> None:
    """Give the data the seeds of the killed run.

    Where the config gives none, this run has drawn its own before it knew of the
    checkpoint.
    """
    sampler = _sampler_of(loader)
    if sampler_seed is not None and hasattr(sampler, 'seed'):
        sampler.seed = sampler_seed
    start = loader.worker_init_fn
    if isinstance(start, partial) and 'seed' in start.keywords:
        loader.worker_init_fn = partial(start.func, **{**start.keywords, 'seed': seed})
