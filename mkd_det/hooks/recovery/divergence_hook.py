"""Stop a training that has diverged, before anything of it is kept."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from ...distiller.state import PARTS, STATE
from ...errors import DivergenceError
from ...training.divergence import StepStart, examine_step, save_step

# A gradient scaler of mixed precision skips steps whose gradients overflow, and halves
# its scale each time. After so many in a row its scale of 2**16 is 2**-14.
MAX_SKIPPED = 30
_FIX = (
    'a smaller learning rate, a smaller weight of the term, or'
    ' optim_wrapper=dict(clip_grad=dict(max_norm=35))'
)


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stops a training at the first loss or gradient that is not finite.

    The optimizer does not take that step, and no checkpoint or student with such
    weights is written. The batch, the random states and the weights that the step began
    with go into `diverged_iter_<iteration>.pth` in the work dir; `mkd-det replay CONFIG
    FILE` runs the step again. The error names the losses that are not finite, or the
    losses whose gradient is not, and the first layer.

    Mixed precision is different: a gradient scaler skips steps that overflow. Only
    after 30 of them in a row a training has diverged.

    Raises:
        DivergenceError: A loss, a gradient or a weight is not finite.
    """

    # Last before the step, so that no other hook draws random numbers in between; and
    # last before a checkpoint is written.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._start: StepStart | None = None
        self._stepped = False
        self._skipped = 0
        self._finite: frozenset[str] = frozenset()
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Watch the optimizers."""
        self._remove_handles()
        state = _model(runner).state_dict()
        # Some models have infinite constants.
        self._finite = frozenset(k for k, v in state.items() if _is_finite(v))
        hook, of_runner = weakref.ref(self), weakref.ref(runner)

        def check(optimizer: Optimizer, *_: Any) -> None:
            mine, its = hook(), of_runner()
            if mine is not None and its is not None:
                mine._before_step(its, optimizer)

        for wrapper in _wrappers(runner):
            if isinstance(optimizer := wrapper.optimizer, Optimizer):
                self._handles.append(optimizer.register_step_pre_hook(check))

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Note what the step begins with."""
        self._start = StepStart.take(_model(runner), data_batch)
        self._stepped = False

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Check a loss that no step of an optimizer has followed."""
        scaled = any(hasattr(wrapper, 'loss_scaler') for wrapper in _wrappers(runner))
        if scaled:
            due = all(wrapper.should_update() for wrapper in _wrappers(runner))
            self._skipped = self._skipped + 1 if due and not self._stepped else 0
            if self._skipped >= MAX_SKIPPED:
                self._stop(runner, f'{MAX_SKIPPED} steps in a row overflowed')
        elif self._is_bad(runner, (outputs or {}).get('loss')):
            self._stop(runner, 'the loss is not finite')
        self._start = None

    def _is_bad(self, runner: Runner, loss: Any) -> bool:
        """Return whether the loss of any rank is not finite; all ranks agree."""
        if get_world_size() == 1:
            return not _is_finite(loss)
        if self._stepped:
            return False  # the averaged gradients were finite
        device = next(_model(runner).parameters()).device
        bad = torch.tensor(float(not _is_finite(loss)), device=device)
        all_reduce(bad, 'max')
        return bool(bad)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite."""
        for part in ('state_dict', 'ema_state_dict'):
            self._check_weights(runner, checkpoint.get(part) or {})
        metadata = getattr(checkpoint['state_dict'], '_metadata', None) or {}
        saved = metadata.get('', {}).get(STATE) or {}
        for part in (*PARTS, 'branches'):
            for key, value in (saved.get(part) or {}).items():
                self._check_weight(runner, f'{part}.{key}', value)

    def after_train(self, runner: Runner) -> None:
        """Stop watching; check the weights that are exported next."""
        self._remove_handles()
        self._check_weights(runner, _model(runner).state_dict())

    def _before_step(self, runner: Runner, optimizer: Optimizer) -> None:
        """Check the gradients before they change a weight."""
        self._stepped = True
        skips = getattr(optimizer, 'found_inf', None)
        if skips is not None and bool(skips):
            return  # a fused optimizer skips the step itself
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group['params']
            if p.grad is not None
        ]
        if gradients and not _is_finite(
            torch.nn.utils.get_total_norm(gradients, norm_type=torch.inf)
        ):
            self._stop(runner, 'a gradient is not finite')

    def _check_weights(self, runner: Runner, weights: Mapping[str, Any]) -> None:
        for key, value in weights.items():
            if key.removeprefix('module.') in self._finite:
                self._check_weight(runner, key, value)

    def _check_weight(self, runner: Runner, key: str, value: Any) -> None:
        if isinstance(value, Tensor) and not _is_finite(value):
            raise DivergenceError(
                f'the training has diverged: {key} is not finite after iteration'
                f' {runner.iter}; it is not saved',
                expected='finite weights',
                actual=_last_checkpoint(runner),
                fix=_FIX,
            )

    def _stop(self, runner: Runner, what: str) -> None:
        """Keep the step, find out where it is not finite, and raise.

        All ranks come here in the same step: gradients are averaged over them.
        """
        self._remove_handles()
        number, rank = runner.iter + 1, get_rank()
        of_rank = f'_rank{rank}' if get_world_size() > 1 else ''
        path = Path(runner.work_dir, f'diverged_iter_{number}{of_rank}.pth')
        model, words = _model(runner), what
        if self._start is not None:
            save_step(path, model, self._start, _autocast_type(runner))
            with next(iter(_wrappers(runner))).optim_context(model):
                words = _examine(model, self._start, what)
        found = all_gather_object(words)
        if len(found) > 1:
            words = '; '.join(f'rank {i}: {part}' for i, part in enumerate(found))
        raise DivergenceError(
            f'the training has diverged in iteration {number} (epoch'
            f' {runner.epoch + 1}): {words}',
            expected='finite losses and gradients',
            actual=_last_checkpoint(runner),
            fix=f'{_FIX}\nmkd-det replay CONFIG {path}  # runs this step again',
        )

    def _remove_handles(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _examine(model: Any, start: StepStart, what: str) -> str:
    try:
        findings = examine_step(model, start)
    except Exception as error:  # the step is saved; why it failed is a bonus
        return f'{what} ({type(error).__name__} when it was run again: {error})'
    return what if findings.finite else str(findings)


def _model(runner: Runner) -> Any:
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    return model


def _wrappers(runner: Runner) -> Iterator[Any]:
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        yield from wrapper.values()
    else:
        yield wrapper


def _autocast_type(runner: Runner) -> str:
    """Return the type of the training's autocast; '' for none."""
    wrapper = next(iter(_wrappers(runner)))
    if not hasattr(wrapper, 'cast_dtype'):
        return ''
    device = next(_model(runner).parameters()).device.type
    dtype = wrapper.cast_dtype or torch.get_autocast_dtype(device)
    return str(dtype).removeprefix('torch.')


def _last_checkpoint(runner: Runner) -> str:
    path = runner.message_hub.runtime_info.get('last_ckpt')
    return f'the last checkpoint, {path}, is finite' if path else 'no checkpoint yet'


def _is_finite(value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return True
    return bool(torch.isfinite(value).all())
