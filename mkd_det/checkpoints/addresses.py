"""Where a checkpoint is: a path, an address, or a model's name in one of the zoos."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mmengine.fileio import get_file_backend
from mmengine.runner import checkpoint as zoo

from ..errors import CheckpointFileError, nearest_names

# Storages that mmengine reads through a package of their own, as mmengine has them.
REMOTE_SCHEMES = (r'(\S+\:)?s3://', r'(\S+\:)?petrel://')
_REMOTE = re.compile('|'.join(REMOTE_SCHEMES))


def _torchvision() -> Mapping[str, str]:
    return zoo.get_torchvision_models()


def _openmmlab() -> Mapping[str, str]:
    addresses = dict(zoo.get_external_models())
    for old, new in zoo.get_deprecated_model_names().items():
        addresses.setdefault(old, addresses.get(new, ''))
    return addresses


def _mmcls() -> Mapping[str, str]:
    return zoo.get_mmcls_models()


ZOOS: dict[str, Callable[[], Mapping[str, str]]] = {
    'torchvision://': _torchvision,
    'modelzoo://': _torchvision,
    'open-mmlab://': _openmmlab,
    'openmmlab://': _openmmlab,
    'mmcls://': _mmcls,
}
SCHEMES = ('http://', 'https://', 's3://', 'petrel://', *ZOOS)


def is_web_address(path: str) -> bool:
    """Return whether a path is an http or https address."""
    return path.startswith(('http://', 'https://'))


def resolve_name(path: str) -> str:
    """Return the address or path that a model's name in a zoo stands for.

    Args:
        path: A name such as `torchvision://resnet50`. Others come back as given.

    Raises:
        CheckpointFileError: The zoo has no such model, or there is no such zoo.
    """
    scheme, mark, name = path.partition('://')
    scheme += mark
    if not mark or is_web_address(path) or _REMOTE.match(path):
        return path
    if scheme not in ZOOS:
        raise CheckpointFileError(
            f'checkpoint {path}: addresses of this kind are not known',
            expected='a path, or an address that begins with one of these',
            actual=scheme,
            available=SCHEMES,
        )
    addresses = ZOOS[scheme]()
    address = addresses.get(name)
    if not address:
        raise CheckpointFileError(
            f'checkpoint {path}: there is no model of this name',
            actual=name,
            available=[f'{scheme}{near}' for near in nearest_names(name, addresses)],
        )
    # Names that a user has put into MMENGINE_HOME may stand for files there.
    home = Path(zoo._get_mmengine_home())
    return address if '://' in address else str(home / address)


def open_remote(path: str) -> BinaryIO | None:
    """Return the content of a file in a remote storage; None for other paths.

    Raises:
        CheckpointFileError: It cannot be read.
    """
    if not _REMOTE.match(path):
        return None
    try:
        backend = get_file_backend(path, backend_args=dict(backend='petrel'))
        return io.BytesIO(backend.get(path))
    except Exception as error:  # of a package that we do not know
        raise CheckpointFileError(
            f'checkpoint {path} cannot be read from its storage',
            actual=f'{type(error).__name__}: {error}',
            fix='download the file and give its path',
        ) from error


def without_backbone_prefix(content: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a backbone from the checkpoint of a classifier."""
    weights = content.get('state_dict', content)
    if not isinstance(weights, Mapping):
        return content
    prefix = 'backbone.'
    kept = {k: v for k, v in weights.items() if str(k).startswith(prefix)}
    return dict(state_dict={k.removeprefix(prefix): v for k, v in kept.items()})
