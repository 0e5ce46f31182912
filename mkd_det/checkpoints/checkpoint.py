"""Reading checkpoint files without running pickled code, and loading them strictly."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import nn

from ..errors import (
    CheckpointFileError,
    CheckpointKeysError,
    ConfigError,
    MkdError,
)
from .addresses import (
    is_web_address,
    open_remote,
    resolve_name,
    without_backbone_prefix,
)
from .archive import check_archive, load_plain
from .checkpoint_errors import is_folder, looks_saved, missing_file, refused, unreadable
from .download import download
from .pickled_tensors import RefusedObjectError, UnsupportedTensorError
from .shape_mismatch import describe_difference


def read_checkpoint(
    path: str | os.PathLike, trust: bool | None = None
) -> dict[str, Any]:
    """Read a checkpoint to the CPU: tensors and plain types, and nothing else.

    Every file that becomes a model is read here. mmengine's loader silently falls back
    to full unpickling, which runs any code that the file holds. Checksums are compared,
    and no more memory is taken than the file can fill.

    Args:
        path: A file, an http(s) address (downloaded once, see `download`), or a name
            that mmengine knows, such as `torchvision://resnet50`.
        trust: Unpickle any object. Only for files whose source you trust. None where
            the user has no such option.

    Returns:
        The content of the checkpoint.

    Raises:
        CheckpointFileError: The file is missing, damaged or no checkpoint.
        UntrustedCheckpointError: It holds objects other than plain types.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(
            'a checkpoint must be a path or an address',
            expected='a string',
            actual=repr(path),
        )
    path = os.fspath(path)
    address = resolve_name(path)
    file = open_remote(address)
    local = address
    if file is None:
        if is_web_address(address):
            local = str(download(address, lambda file: _check_download(file, path)))
        file = _open(local)
    with file:
        content = _read(file, path, bool(trust), trust is not None, local)
    if path.startswith('mmcls://'):
        content = without_backbone_prefix(content)
    return content


def _read(
    file: BinaryIO, path: str, trust: bool, may_trust: bool, local: str
) -> dict[str, Any]:
    try:
        content = _load_anything(file) if trust else load_plain(file)
    except RefusedObjectError as error:
        raise refused(path, local, error, may_trust) from None
    except UnsupportedTensorError as error:
        raise CheckpointFileError(
            f'checkpoint {path} holds {error}, which no detector has',
            expected='tensors with their own values',
            fix='save it with tensor.to_dense(), or on a real device',
        ) from None
    except Exception as error:  # damaged pickles raise nearly anything
        if trust and isinstance(error, (ImportError, AttributeError)):
            raise CheckpointFileError(
                f'checkpoint {path} holds objects of a package that is not installed',
                actual=str(error),
                fix='install that package',
            ) from None
        raise unreadable(file, path, local, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointFileError(
            f'checkpoint {path} holds no state dict',
            expected='a dict',
            actual=type(content).__name__,
        )
    return dict(content)


def _load_anything(file: BinaryIO) -> Any:
    """Unpickle any object, of a file that the user trusts."""
    check_archive(file)
    return torch.load(file, map_location='cpu', weights_only=False)


def _check_download(downloaded: Path, path: str) -> None:
    """Raise for a download that is no checkpoint: it must not be kept."""
    with open(downloaded, 'rb') as file:
        try:
            check_archive(file)
        except Exception as error:
            raise unreadable(file, path, path, error) from error
        if not looks_saved(file):
            raise unreadable(file, path, path, ValueError())


def _open(path: str) -> BinaryIO:
    """Open a regular file; a named pipe would wait for ever.

    Raises:
        CheckpointFileError: There is no such file, or it cannot be read.
    """
    path = os.path.expanduser(path)
    flags = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0)
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(path) from None
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            raise is_folder(path) from None
        raise CheckpointFileError(
            f'checkpoint {path} cannot be opened',
            actual=getattr(error, 'strerror', None) or str(error),
        ) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, 'rb')
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise is_folder(path)
    raise CheckpointFileError(
        f'checkpoint {path} is no regular file', actual='a pipe or a device'
    )


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


def read_meta(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says about itself; nothing if that is no dict.

    Args:
        content: The checkpoint.
    """
    meta = content.get('meta')
    return dict(meta) if isinstance(meta, Mapping) else {}


def read_class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes a checkpoint was trained on, if it has them.

    Args:
        meta: What the checkpoint says about itself, of mmdet 3 or 2.
    """
    data = meta.get('dataset_meta')
    known = data if isinstance(data, Mapping) and data else meta
    names = known.get('classes', known.get('CLASSES'))
    if isinstance(names, str):
        return (names,)
    if isinstance(names, np.ndarray):
        names = names.tolist()
    listed = isinstance(names, (list, tuple))
    return (
        tuple(names)
        if listed and all(isinstance(name, str) for name in names)
        else None
    )


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
        difference = describe_difference(own, weights)
        raise CheckpointKeysError(
            f'checkpoint {path} does not fit {what}: {len(missing)} keys missing,'
            f' {len(unexpected)} unexpected, {len(shapes)} of another shape'
            + (f'; {difference}' if difference else ''),
            expected=', '.join(missing[:4]) or None,
            actual=', '.join(unexpected[:4] or shapes[:4]) or None,
            fix='use the config that this checkpoint was trained with',
        )
    check_weight_values(weights, own, f'checkpoint {path}')
    model.load_state_dict(weights, strict=False)
