"""Reading checkpoint files without running pickled code, and loading them strictly."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from ..errors import (
    CheckpointFileError,
    CheckpointKeysError,
    MkdError,
    UntrustedCheckpointError,
    nearest_names,
)


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for `getattr` while unpickling.

    mmengine's log buffers pickle the names of their statistics with `getattr`. Every
    other use is refused.
    """
    of_buffer = owner is HistoryBuffer or isinstance(owner, HistoryBuffer)
    if of_buffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(owner, name)
    raise UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')


# torch has one list of safe types for all threads, and the first thread that finishes
# clears it.
_READING = threading.Lock()


def _plain_types() -> list[Any]:
    """Return the types, besides tensors, that mmengine's checkpoints hold."""
    core = np._core if hasattr(np, '_core') else np.core
    types: list[Any] = [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        (_statistic, 'builtins.getattr'),
    ]
    types += [
        type(np.dtype(kind)) for kind in ('f2', 'f4', 'f8', 'i4', 'i8', 'u4', 'bool')
    ]
    for function in (core.multiarray._reconstruct, core.multiarray.scalar):
        # numpy 2 renamed numpy.core; checkpoints use either name.
        for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
            types.append((function, f'{module}.{function.__name__}'))
    return types


def read_checkpoint(path: str, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU, unpickling only tensors and plain types.

    mmengine's loader silently falls back to full unpickling, which runs any code that
    the file holds. This one unpickles other objects only with `trust`.

    Args:
        path: A file, or an http(s) address, which is downloaded once to torch's hub
            folder.
        trust: Unpickle any object. Only for files whose source you trust.

    Returns:
        The content of the checkpoint.

    Raises:
        CheckpointFileError: The file is missing, truncated or no checkpoint.
        UntrustedCheckpointError: It holds objects other than plain types.
    """
    file = _local_file(path)
    try:
        with _READING, torch.serialization.safe_globals(_plain_types()):
            content = torch.load(file, map_location='cpu', weights_only=not trust)
    except UnpicklingError as error:
        # A file that is no pickle (a web page, a pointer of git LFS) is unreadable, not
        # dangerous.
        pickled = not trust and _head(file)[:1] in (b'P', b'\x80')
        raise (_refused if pickled else _unreadable)(path, error) from None
    except (ImportError, AttributeError) as error:
        raise CheckpointFileError(
            f'checkpoint {path} holds objects of a package that is not installed',
            actual=str(error),
            fix='install that package',
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, Mapping):
        raise CheckpointFileError(
            f'checkpoint {path} holds no state dict',
            expected='a dict',
            actual=type(content).__name__,
        )
    return dict(content)


def _head(file: str) -> bytes:
    with open(file, 'rb') as opened:
        return opened.read(24)


def _unreadable(path: str, error: Exception) -> CheckpointFileError:
    file = _local_file(path)
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    # For other files torch advises to trust them, or its message is a bare number.
    if 'weights_only' in reason or _head(file)[:1] not in (b'P', b'\x80'):
        reason = f'begins with {_head(file)!r}'
    return CheckpointFileError(
        f'checkpoint {path} cannot be read: it is truncated or no checkpoint',
        expected='a file written by torch.save',
        actual=f'{Path(file).stat().st_size} bytes; {reason}',
    )


def _refused(path: str, error: Exception) -> UntrustedCheckpointError:
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if 'GLOBAL' in line or 'getattr' in line]
    telling += [line for line in lines if line.startswith('Unsupported')]
    return UntrustedCheckpointError(
        f'checkpoint {path} holds objects that could run code; it was not loaded',
        expected='tensors, numbers, strings and containers of them',
        actual=(telling or lines)[0].partition(' Please use')[0],
        fix='trust_checkpoint=True beside `checkpoint`, only if you trust its source',
    )


def _local_file(path: str) -> str:
    parsed = urlparse(str(path))
    if parsed.scheme in ('http', 'https'):
        folder = Path(torch.hub.get_dir()) / 'checkpoints'
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / os.path.basename(parsed.path)
        if not file.exists():
            try:
                torch.hub.download_url_to_file(path, str(file))
            except OSError as error:
                raise CheckpointFileError(
                    f'checkpoint {path} cannot be downloaded', actual=str(error)
                ) from None
        return str(file)
    if Path(path).is_dir():
        raise CheckpointFileError(
            f'checkpoint {path} is a folder',
            expected='a file',
            available=sorted(map(str, Path(path).glob('*.pth'))),
        )
    if not Path(path).is_file():
        parent = Path(path).parent
        beside = [p.name for p in parent.glob('*.pth')] if parent.is_dir() else []
        raise CheckpointFileError(
            f'checkpoint {path} does not exist',
            expected='a file',
            actual=f'nothing there (looked from {Path.cwd()})',
            available=[str(parent / n) for n in nearest_names(Path(path).name, beside)],
        )
    return str(path)


def extract_state_dict(
    content: Mapping[str, Any], path: str
) -> dict[str, torch.Tensor]:
    """Return the state dict of a checkpoint.

    Args:
        content: The checkpoint: a dict with a state dict under `state_dict` or `model`,
            or a state dict.
        path: Its path, for the message.

    Raises:
        CheckpointFileError: It holds no tensors.
    """
    for key in ('state_dict', 'model'):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    weights = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not weights:
        raise CheckpointFileError(
            f'checkpoint {path} holds no weights',
            expected="tensors, or a 'state_dict' of them",
            actual=f'keys {list(content)[:5]}',
        )
    return weights


def check_weight_values(
    weights: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    where: str,
    kind: type[MkdError] = CheckpointKeysError,
) -> None:
    """Raise unless all weights are finite numbers of a floating point type.

    Args:
        weights: State dict of the checkpoint.
        own: State dict of the model that they are for.
        where: Name of the checkpoint, for the message.
        kind: Type of the error.

    Raises:
        MkdError: A weight is not finite, a variance is negative, or the type is not
            floating point where the model's is.
    """
    for key, mine in own.items():
        value = weights.get(key)
        if value is None or not mine.is_floating_point():
            continue
        wrong = ''
        if not value.is_floating_point():
            wrong = f'of type {value.dtype}'.replace('torch.', '')
        # torch has no isfinite for eight-bit types.
        elif not torch.isfinite(value.float() if value.itemsize < 2 else value).all():
            wrong = 'not finite'
        elif key.endswith('running_var') and (value < 0).any():
            wrong = 'a variance below 0'
        if wrong:
            raise kind(
                f'{where}: {key} is {wrong}',
                expected='finite floating point numbers',
                fix='use an earlier checkpoint of that training',
            )


def drop_batch_counters(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights without BatchNorm's batch counters.

    Old checkpoints lack the counters, and inference does not use them.
    """
    return {k: v for k, v in weights.items() if not k.endswith('num_batches_tracked')}


def compare_state_dicts(
    own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """Compare the state dicts of a model and a checkpoint, ignoring batch counters.

    Args:
        own: State dict of the model.
        weights: State dict of the checkpoint.

    Returns:
        Missing keys, unexpected keys, and descriptions of differing shapes.
    """
    own, weights = drop_batch_counters(own), drop_batch_counters(weights)
    missing = [k for k in own if k not in weights]
    unexpected = [k for k in weights if k not in own]
    shapes = [
        f'{k}: {tuple(weights[k].shape)} instead of {tuple(v.shape)}'
        for k, v in own.items()
        if k in weights and weights[k].shape != v.shape
    ]
    return missing, unexpected, shapes


def load_checkpoint_strict(model: nn.Module, path: str, what: str) -> dict[str, Any]:
    """Load a checkpoint completely, or raise without changing the model.

    Args:
        model: The model to load into.
        path: The checkpoint. The prefix `module.` of its keys is removed, as mmengine
            does.
        what: Name of the model, for the message.

    Returns:
        The content of the checkpoint.

    Raises:
        CheckpointKeysError: Keys are missing or unexpected, or shapes differ.
    """
    content = read_checkpoint(path)
    load_state_dict_strict(model, extract_state_dict(content, path), path, what)
    return content


def load_state_dict_strict(
    model: nn.Module, weights: Mapping[str, torch.Tensor], path: str, what: str
) -> None:
    """Load a state dict completely, or raise without changing the model.

    Args:
        model: The model to load into.
        weights: The state dict; see `load_checkpoint_strict` for its prefix.
        path: The checkpoint that it is from, for the message.
        what: Name of the model, for the message.

    Raises:
        CheckpointKeysError: Keys are missing or unexpected, or shapes differ.
    """
    weights = {k.removeprefix('module.'): v for k, v in weights.items()}
    own = model.state_dict()
    missing, unexpected, shapes = compare_state_dicts(own, weights)
    if missing or unexpected or shapes:
        raise CheckpointKeysError(
            f'checkpoint {path} does not fit {what}: {len(missing)} keys missing,'
            f' {len(unexpected)} unexpected, {len(shapes)} of another shape',
            expected=', '.join(missing[:4]) or None,
            actual=', '.join(unexpected[:4] or shapes[:4]) or None,
            fix='use the config that this checkpoint was trained with',
        )
    check_weight_values(weights, own, f'checkpoint {path}')
    model.load_state_dict(weights, strict=False)
