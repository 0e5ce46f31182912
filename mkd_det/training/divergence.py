"""Find out where a training step stops being finite, now or from a file of it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import weights_to_cpu
from torch import Tensor, nn

from ..checkpoints.checkpoint import read_checkpoint
from ..distiller.losses import STATISTIC
from ..distiller.model import Distiller
from ..distiller.state import STATE
from ..errors import (
    CheckpointFileError,
    CheckpointKeysError,
    ConfigError,
    describe_exception,
    is_integer,
)
from ..io.atomic import write_own
from ..io.random_state import is_random_state, random_state, set_random_state
from ..structures import tensors_in
from .carried_state import Attributes, read_attributes, write_attributes
from .plain_batch import pack, unpack
from .runtime import build_model

# What a file of a step says it is.
KIND = 'mkd_det: a training step'
# What the message hub tells a step about its place in the training.
PROGRESS = ('iter', 'max_iters', 'epoch')
_CONFIG = 'the config that the training was started with: its work dir has it'


@dataclass(frozen=True)
class StepStart:
    """What a training step begins with, beside the weights.

    Args:
        batch: What the dataloader yielded.
        random: Random states.
        balance: State of the balance of terms, which a step changes.
        preprocessor: Attributes of the data preprocessor, which a step may change.
    """

    batch: Any
    random: Mapping[str, Any]
    balance: Mapping[str, Tensor] = field(default_factory=dict)
    preprocessor: Attributes = field(default_factory=dict)

    @classmethod
    def take(cls, model: BaseModel, batch: Any) -> StepStart:
        """Note what the next step of a model begins with.

        Args:
            model: The model, without a wrapper.
            batch: What the dataloader yielded.
        """
        balance = model.balance if isinstance(model, Distiller) else None
        kept = {} if balance is None else balance.state_dict()
        return cls(
            batch,
            random_state(),
            {key: value.clone() for key, value in kept.items()},
            read_attributes(dict(model.data_preprocessor.named_modules())),
        )

    def put_back(self, model: BaseModel) -> None:
        """Let a model begin the same step again; random states included.

        Args:
            model: The model, without a wrapper, with the weights of the step.
        """
        set_random_state(dict(self.random))
        write_attributes(
            dict(model.data_preprocessor.named_modules()), self.preprocessor
        )
        if isinstance(model, Distiller) and model.balance is not None and self.balance:
            model.balance.load_state_dict(dict(self.balance))


@dataclass(frozen=True)
class StepFindings:
    """What a training step was made of, and where it is not finite.

    Args:
        losses: Every loss by name, without statistics.
        layer: The first module whose output is not finite; '' for none.
        gradients: The first parameter without a finite gradient, by the loss whose
            gradient it is. Empty if a loss is not finite.
    """

    losses: dict[str, float] = field(default_factory=dict)
    layer: str = ''
    gradients: dict[str, str] = field(default_factory=dict)

    @property
    def bad_losses(self) -> list[str]:
        """Names of the losses that are not finite."""
        return [name for name, value in self.losses.items() if not math.isfinite(value)]

    @property
    def finite(self) -> bool:
        """Whether the step is finite."""
        return not (self.bad_losses or self.layer or self.gradients)

    def __str__(self) -> str:
        """Say what is not finite, and where it begins."""
        words = []
        if self.bad_losses:
            values = (f'{name} is {self.losses[name]}' for name in self.bad_losses[:4])
            more = len(self.bad_losses) - 4
            words.append(', '.join(values) + (f' and {more} more' if more > 0 else ''))
        if self.layer:
            words.append(f'the first output that is not finite is that of {self.layer}')
        words += [
            f'the gradient of {loss} is not finite at {parameter}'
            for loss, parameter in self.gradients.items()
        ]
        return '; '.join(words) or 'all losses and gradients are finite'


# -- one step --------------------------------------------------------------------------


def examine_step(
    model: BaseModel, start: StepStart, autocast: AbstractContextManager | None = None
) -> StepFindings:
    """Run the forward of a training step, and find where it is not finite.

    Neither weights nor their gradients are changed; batch statistics and random states
    are, as by any step.

    Args:
        model: The model, in training mode, without a wrapper.
        start: What the step begins with.
        autocast: The autocast of the training.
    """
    layers: list[str] = []
    start.put_back(model)
    with _watch(model, layers), autocast or nullcontext():
        data = model.data_preprocessor(start.batch, True)
        found = model._run_forward(data, mode='loss')
    losses = {
        name: sum(part.mean() for part in (v if isinstance(v, list) else [v]))
        for name, v in found.items()
        if 'loss' in name and not name.startswith(STATISTIC)
    }
    values = {name: float(value.detach()) for name, value in losses.items()}
    findings = StepFindings(values, ''.join(layers[:1]))
    if findings.bad_losses:
        return findings
    return StepFindings(values, findings.layer, _bad_gradients(model, losses))


def _bad_gradients(model: nn.Module, losses: Mapping[str, Any]) -> dict[str, str]:
    """Return the last parameter without a finite gradient, by loss.

    It is the first that the backward pass comes to.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    bad: dict[str, str] = {}
    for loss, value in losses.items():
        if not value.requires_grad:
            continue
        gradients = torch.autograd.grad(
            value, [p for _, p in named], retain_graph=True, allow_unused=True
        )
        for (name, _), gradient in zip(named, gradients, strict=True):
            if gradient is not None and not _is_finite(gradient):
                bad[loss] = name
    return bad


@contextmanager
def _watch(model: nn.Module, layers: list[str]) -> Iterator[None]:
    """Note the modules whose output is not finite, in the order of their calls."""

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if not layers and not _all_finite(tensors_in(output)):
                layers.append(f'{name} ({type(module).__name__})')

        return note

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(_is_finite(tensor) for tensor in tensors)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor.detach()).all())


# -- the file of a step ----------------------------------------------------------------


def save_step(
    path: Path, model: BaseModel, start: StepStart, autocast: str = ''
) -> None:
    """Write all that it takes to run a step again: data only.

    Args:
        path: The file.
        model: The model, without a wrapper, with the weights that the step began with.
        start: What else it began with.
        autocast: Type of the training's autocast; '' for none.

    Raises:
        CheckpointSaveError: The file could not be written.
    """
    lost: list[str] = []
    hub = MessageHub.get_current_instance()
    content = dict(
        kind=KIND,
        progress={key: int(hub.get_info(key, 0)) for key in PROGRESS},
        random=dict(start.random),
        batch=pack(start.batch, lost),
        lost=lost,
        autocast=autocast,
        balance=dict(start.balance),
        preprocessor=start.preprocessor,
        state_dict=weights_to_cpu(model.state_dict()),
    )
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_own(path, buffer.getbuffer())


def replay(cfg: Config, path: str | Path) -> StepFindings:
    """Run the step of a file again, and find where it is not finite.

    Args:
        cfg: Config of the training that has written the file.
        path: The file, `diverged_iter_*.pth` in its work dir.

    Raises:
        CheckpointFileError: It is no such file.
        ConfigError: It is of another plan than the config describes.
        CheckpointKeysError: It is of another model.
    """
    content = read_checkpoint(path)
    if content.get('kind') != KIND:
        raise CheckpointFileError(
            f'{path} holds no training step',
            expected='a file that a diverged training has written:'
            ' WORK_DIR/diverged_iter_*.pth',
            available=sorted(map(str, Path(path).parent.glob('diverged_*.pth'))),
        )
    start, autocast = _read_start(content, path)
    model = build_model(cfg)
    weights = content['state_dict']
    if isinstance(model, Distiller):
        _check_plan(model, weights)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointKeysError(
            f'{path} is of another model than the config describes',
            actual=str(error).splitlines()[1].strip(),
            fix=_CONFIG,
        ) from error
    if isinstance(model, Distiller):
        model.teachers.load()
        model.teachers.keep_speeds(_saved_state(weights).get('speeds', {}))
    model.to(get_device()).train()
    hub = MessageHub.get_current_instance()
    for key, value in content['progress'].items():
        hub.update_info(key, value)
    return examine_step(model, start, autocast)


def _read_start(
    content: Mapping[str, Any], path: str | Path
) -> tuple[StepStart, torch.autocast | None]:
    """Return what a file says that a step began with.

    Raises:
        CheckpointFileError: It is not what `save_step` writes.
    """
    autocast, what = None, ''
    try:
        if content['autocast']:
            dtype = getattr(torch, content['autocast'])
            if not isinstance(dtype, torch.dtype):
                raise TypeError(f'autocast to {content["autocast"]}')
            autocast = torch.autocast(torch.device(get_device()).type, dtype)
        parts = {key: content[key] for key in ('random', 'balance', 'preprocessor')}
        start = StepStart(unpack(content['batch']), **parts)
        if not all(map(is_integer, content['progress'].values())):
            what = 'progress'
        elif not is_random_state(start.random):
            what = 'random'
        elif not isinstance(content['state_dict'], Mapping):
            what = 'state_dict'
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        what = describe_exception(error)
    if what:
        raise CheckpointFileError(
            f'{path} is damaged: its step cannot be run again',
            actual=what,
            fix='train again up to this step: mkd-det train CONFIG --resume',
        )
    return start, autocast


def _check_plan(model: Distiller, weights: Mapping[str, Any]) -> None:
    if _saved_state(weights).get('plan') != model.plan.describe():
        raise ConfigError('the step is of another plan than the config', fix=_CONFIG)


def _saved_state(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = getattr(weights, '_metadata', None) or {}
    return metadata.get('', {}).get(STATE) or {}
