"""Taps: named places in a model whose tensors are read during a forward.

Grammar: `path` reads the output of a module, `path:in` its first argument, `path:in1`
its second one, `path:call` all tensors that it is called with, as one level. `*` stands
for every child in registration order (`neck.fpn_convs.*.conv`), and a list of paths is
one tap with a level for each.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .errors import (
    ConfigError,
    TapNoGradError,
    TapNotFoundError,
    TapOutputError,
    TapOverwrittenError,
    TapSilentError,
    nearest_names,
)
from .structures import Level, Levels, first_tensor, tensors_in


@dataclass(frozen=True)
class Tap:
    """A parsed tap.

    Args:
        paths: Module paths, possibly with `*`.
        inputs: Whether to read an argument of the module instead of its output.
        position: Position of that argument. Arguments after the first say where or
            how to compute; they need no gradient.
        whole: Whether to read all arguments of the call.
        layout: Turns what was read of one call into levels, where that has a form that
            `to_levels` does not know; see `heads.base.HeadReader.layout`. Of a whole
            call it gets a dict, by the names of the arguments.
        when_silent: Makes what is read in a forward in which a module is not called;
            None where that is an error. See `heads.base.HeadReader.
    """

    paths: tuple[str, ...]
    inputs: bool = False
    position: int = 0
    whole: bool = False
    layout: Callable[[Any], list[Level] | None] | None = field(
        default=None, compare=False, repr=False
    )
    when_silent: Callable[[nn.Module], Level] | None = field(
        default=None, compare=False, repr=False
    )

    @classmethod
    def parse(cls, text: str | Sequence[str]) -> Tap:
        """Parse `path`, `path:in`, or a list of them (all inputs or all outputs)."""
        texts: list[Any] = list(text) if isinstance(text, (list, tuple)) else [text]
        parsed = [_parse_one(t) for t in texts]
        if not parsed or len({suffix for _, suffix in parsed}) > 1:
            raise ConfigError(
                'a tap must be a path or a list of paths of one kind',
                actual=text,
                fix="'neck', 'bbox_head:in', ['backbone.layer2', 'backbone.layer3']",
            )
        suffix = parsed[0][1]
        paths = tuple(path for path, _ in parsed)
        if suffix == 'call':
            return cls(paths, inputs=True, whole=True)
        return cls(paths, bool(suffix), int(suffix[2:] or 0))

    def __str__(self) -> str:
        suffix = f':in{self.position or ""}' if self.inputs else ''
        suffix = ':call' if self.whole else suffix
        return '+'.join(self.paths) + suffix

    def resolve(self, model: nn.Module) -> list[tuple[str, nn.Module]]:
        """Return paths and modules that the tap names in `model`, in order.

        Raises:
            TapNotFoundError: A path names no module.
        """
        return [found for path in self.paths for found in _resolve(model, path)]


def _parse_one(text: str) -> tuple[str, str]:
    path, _, suffix = text.partition(':') if isinstance(text, str) else ('', '', '')
    if not path or not re.fullmatch(r'(in\d?|call)?', suffix):
        raise ConfigError(
            f'tap {text!r} cannot be parsed',
            expected="'path', 'path:in', 'path:in1' for the second argument, or"
            " 'path:call' for all of them",
            actual=text,
        )
    return path, suffix


def _resolve(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    found = [('', model)]
    for part in path.split('.'):
        found = [
            (f'{prefix}.{name}'.lstrip('.'), child)
            for prefix, module in found
            for name, child in module.named_children()
            if part in ('*', name)
        ]
        if not found:
            raise _not_found(model, path)
    return found


def _not_found(model: nn.Module, path: str) -> TapNotFoundError:
    names = [name for name, _ in model.named_modules() if name]
    parent = path
    while '.' in parent and parent not in names:
        parent = parent.rpartition('.')[0]
    module = model.get_submodule(parent) if parent in names else model
    prefix = f'{parent}.' if parent in names else ''
    children = [prefix + name for name, _ in module.named_children()]
    return TapNotFoundError(
        f'tap {path!r} names no module of {type(model).__name__}',
        actual=path,
        available=dict.fromkeys(nearest_names(path, names, limit=5) + children),
        fix='one of these; mkd-det inspect lists them all with shapes',
    )


@dataclass(frozen=True)
class TeacherReads:
    """What is read of a teacher in each step, found by one probing forward.

    Args:
        taps: The taps by name.
        calls: How often the modules of each tap are called in one whole forward.
        norm_pairs: Paths of convolutions, each with the path of the batch norm that
            can be folded into it.
    """

    taps: Mapping[str, Tap]
    calls: Mapping[str, int] = field(default_factory=dict)
    norm_pairs: tuple[tuple[str, str], ...] = ()


class StopForward(BaseException):
    """Ends a teacher's forward after its last tap has fired.

    It is no `Exception`, so that no `except Exception` of a model catches it.
    """


class Captured(dict[str, Levels]):
    """Levels by tap name, filled at the end of the forward.

    Attributes:
        calls: How often the modules of each tap were called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}


class _Recorder:
    """Collects the calls of one tap's modules during one forward."""

    def __init__(self, name: str, tap: Tap, need_grad: bool) -> None:
        self.name, self.tap = name, tap
        self.need_grad = need_grad and not tap.position
        self.records: dict[str, list[Any]] = {}
        self.versions: list[tuple[str, Tensor, int]] = []
        self.calls = 0

    def attach(self, model: nn.Module) -> list[Any]:
        handles = []
        for path, module in self.tap.resolve(model):
            self.records[path] = []
            # An argument is read before the module can change it in place.
            handles.append(
                module.register_forward_pre_hook(self._before(path), with_kwargs=True)
                if self.tap.inputs
                else module.register_forward_hook(self._after(path))
            )
        return handles

    def _before(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if self.tap.whole:
                names = inspect.signature(module.forward)
                self._record(path, names.bind(*args, **kwargs).arguments)
                return
            given, position = (*args, *kwargs.values()), self.tap.position
            if position >= len(given):
                raise TapOutputError(
                    f'tap {self.name!r}: {path} is called without an argument at'
                    f' :in{position}',
                    expected=f'at least {position + 1} arguments',
                    actual=', '.join(map(_describe, given)),
                )
            self._record(path, given[position])

        return hook

    def _after(self, path: str) -> Any:
        def hook(_: nn.Module, args: tuple, output: Any) -> None:
            self._record(path, output)

        return hook

    def _record(self, path: str, value: Any) -> None:
        if self.need_grad and not torch.is_grad_enabled():
            raise TapNoGradError(
                f'tap {self.name!r} ({path}) runs without gradient: it lies inside'
                ' a re-entrantly checkpointed module or a no_grad block',
                fix='tap the enclosing module, or set `with_cp=False`',
            )
        self.records[path].append(value)
        self.calls += 1
        tensors = tensors_in(list(value.values()) if self.tap.whole else value)
        self.versions += [(path, t, t._version) for t in tensors]

    def levels(self, model: nn.Module) -> Levels:
        """Return the levels of all calls: modules in order, calls in order."""
        levels: list[Level] = []
        for path, records in self.records.items():
            if not records and self.tap.when_silent is None:
                raise _silent(self.name, path, model.get_submodule(path))
            if not records and self.tap.when_silent is not None:
                levels.append(self.tap.when_silent(model))
            for record in records:
                found = self.tap.layout(record) if self.tap.layout else None
                if found is None and self.tap.whole:
                    found = [tuple(tensors_in(list(record.values())))]
                levels += to_levels(self.name, path, record) if found is None else found
        for path, tensor, version in self.versions:
            if tensor._version != version:
                raise TapOverwrittenError(
                    f'tap {self.name!r}: the output of {path} was changed in place'
                    ' after it was captured (an in-place activation or addition)',
                    actual=path,
                    available=[path.rpartition('.')[0] or path],
                    fix='tap the enclosing module: its output is not changed any more',
                )
        grads = [t.requires_grad for level in levels for t in tensors_in(level)]
        if self.need_grad and not any(grads):
            raise TapNoGradError(
                f'tap {self.name!r} ({self.tap}) yields tensors without gradient: its'
                ' layers are frozen, or their output is detached',
                fix='tap a later layer, or set `frozen_stages=-1`',
            )
        return tuple(levels)


def _silent(name: str, path: str, module: nn.Module) -> TapSilentError:
    children = [f'{path}.{child}' for child, _ in module.named_children()]
    container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
    why = (
        f'{type(module).__name__} is a container that is never called itself'
        if container
        else 'it is not used in this forward, or is called by `.forward` directly'
    )
    return TapSilentError(
        f'tap {name!r}: {path} never fired: {why}',
        actual=path,
        available=children[:8],
        fix=f"'{path}.*'" if container else 'one of its children',
    )


def to_levels(name: str, path: str, value: Any) -> list[Level]:
    """Turn the output of one call into levels.

    A tensor is one level, a tuple of tensors has a level for each. A tuple of equally
    long lists, as heads yield it, becomes a tuple of tensors for each level.

    Args:
        name: Name of the tap, for messages.
        path: Path of the module, for messages.
        value: The output.

    Raises:
        TapOutputError: The output has another form.
    """
    if isinstance(value, Tensor) and value.dim():
        return [value]
    if isinstance(value, (tuple, list)) and value:
        if all(isinstance(v, Tensor) for v in value):
            return list(value)
        lists = [v for v in value if isinstance(v, (tuple, list))]
        flat = [v for v in lists if v and all(isinstance(t, Tensor) for t in v)]
        if len(flat) == len(value) and len({len(v) for v in flat}) == 1:
            return [tuple(parts) for parts in zip(*flat, strict=True)]
    raise TapOutputError(
        f'tap {name!r}: {path} yields {_describe(value)}: this cannot be split into'
        ' levels',
        expected='a tensor, a tuple of tensors, or a tuple of equally long lists',
        fix='tap a module inside it',
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f'a tensor of shape {tuple(value.shape)}'
    if isinstance(value, (tuple, list)):
        return f'{type(value).__name__} of ' + ', '.join(
            type(v).__name__ for v in value[:4]
        )
    return type(value).__name__


@contextmanager
def capture(
    model: nn.Module,
    taps: Mapping[str, Tap],
    need_grad: bool = False,
    stop_after: Mapping[str, int] | None = None,
    silent: bool = False,
) -> Iterator[Captured]:
    """Record what `taps` yield during the forwards inside the `with` block.

    Hooks are put on for this block and removed whatever happens. Paths are resolved
    here, not once at the start: SyncBN conversion and model wrapping replace modules
    after a model was built.

    Args:
        model: The model to read from.
        taps: Taps by name.
        need_grad: Whether to raise TapNoGradError for taps without gradient.
        stop_after: Number of calls of each tap after which the forward is stopped
            (`Captured.calls` of an earlier, whole forward).
        silent: Whether taps that never fired are left out, instead of an error.

    Yields:
        Captured: Empty inside the block; holds the levels by name after it.

    Raises:
        TapError: See the subclasses in `errors.py`.
    """
    seen = Captured()
    recorders = {name: _Recorder(name, tap, need_grad) for name, tap in taps.items()}
    handles: list[Any] = []
    try:
        for recorder in recorders.values():
            handles += recorder.attach(model)
        if stop_after is not None:
            handles += _stop_hooks(model, recorders, stop_after)
        with suppress(StopForward):
            yield seen
        for name, recorder in recorders.items():
            if silent and not recorder.calls:
                continue
            seen[name] = recorder.levels(model)
            seen.calls[name] = recorder.calls
    finally:
        for handle in handles:
            handle.remove()
        recorders.clear()


def _stop_hooks(
    model: nn.Module, recorders: dict[str, _Recorder], calls: Mapping[str, int]
) -> list[Any]:
    def stop(*_: Any) -> None:
        if all(r.calls >= calls[name] for name, r in recorders.items()):
            raise StopForward

    ends = {
        (module, recorder.tap.inputs)
        for recorder in recorders.values()
        for _, module in recorder.tap.resolve(model)
    }
    return [
        module.register_forward_pre_hook(stop)
        if inputs
        else module.register_forward_hook(stop)
        for module, inputs in ends
    ]


@contextmanager
def frozen_state(model: nn.Module) -> Iterator[None]:
    """Run a forward in eval mode, without gradients and without a trace.

    Train flags, buffers and random states are restored afterwards.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    devices = (
        list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    )
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for name, buffer in model.named_buffers():
                if not torch.equal(buffer, buffers[name]):
                    buffer.copy_(buffers[name])


@contextmanager
def norms_as_they_are(model: nn.Module) -> Iterator[None]:
    """Run batch norms in eval mode, so that they learn nothing; the rest as it is."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def strides_of(levels: Levels, size: Sequence[int]) -> tuple[int | None, ...]:
    """Return the input pixels per cell of each level, for inputs of `size` (H, W)."""
    return tuple(
        round(size[-1] / t.shape[-1]) if t.dim() == 4 else None
        for t in map(first_tensor, levels)
    )
