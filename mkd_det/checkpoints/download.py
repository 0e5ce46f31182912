"""Downloads of checkpoints: each once, completely, and never without end."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib import request
from urllib.error import HTTPError
from urllib.parse import unquote, urlparse

import torch
from mmengine.logging import print_log

from ..errors import CheckpointFileError
from ..io.atomic import create_temporary, remove_leftovers

try:
    import fcntl
except ImportError:  # not on this system: several processes may download at once
    fcntl = None  # type: ignore[assignment]

# A server that sends nothing for so many seconds is given up.
TIMEOUT = 30.0
# How often a download that is cut off is continued.
ATTEMPTS = 4
_CHUNK = 2**20


def download(address: str, check: Callable[[Path], None] | None = None) -> Path:
    """Return the local file of an address, which is downloaded once.

    The file lies in torch's hub folder (`TORCH_HOME`). Its name holds a hash of the
    address and its size, so files of equal names from two servers are two files, and a
    file that was cut short is not taken. It appears under this name when it is
    complete. A download that is cut off is continued, if the server can, or repeated.

    A file that torch or mmengine has put there before is taken if its name holds a hash
    of its content, as those of torchvision and the model zoos do.

    Args:
        address: An http or https address.
        check: Raises for a file that must not be kept.

    Raises:
        CheckpointFileError: The server does not answer, or not with the whole file.
    """
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    name = os.path.basename(unquote(urlparse(address).path))
    name = re.sub(r'[^\w.-]', '_', name)[-80:] or 'checkpoint.pth'
    known = _find(folder, digest, name) or _find_by_content(folder / name)
    if known is not None:
        return known
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f'.{digest}.lock'):
            # Another process may have downloaded it meanwhile.
            known = _find(folder, digest, name)
            return known or _download(address, folder, digest, name, check)
    except OSError as error:
        raise CheckpointFileError(
            f'checkpoint {address} cannot be stored in {folder}',
            expected='a writable folder with free disk space',
            actual=error.strerror or str(error),
            fix='free some disk space there, or TORCH_HOME=another/folder in the'
            ' environment',
        ) from error


def _find(folder: Path, digest: str, name: str) -> Path | None:
    """Return the file that was downloaded before, if it has its full size."""
    prefix = f'{digest}-'
    with suppress(OSError):
        for path in folder.iterdir():
            size, _, rest = path.name.removeprefix(prefix).partition('-')
            ours = path.name.startswith(prefix) and rest == name and path.is_file()
            if ours and size == str(path.stat().st_size):
                return path
    return None


def _find_by_content(path: Path) -> Path | None:
    """Return a file such as resnet50-0676ba61.pth, if that is a hash of its content."""
    hashed = re.search(r'-([0-9a-f]{8,64})\.\w+$', path.name)
    if hashed is None or not path.is_file():
        return None
    digest = hashlib.sha256()
    with suppress(OSError), open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        if digest.hexdigest().startswith(hashed[1]):
            return path
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process after the other in, where the file system knows locks."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0)
    file = None
    with suppress(OSError):
        file = os.fdopen(os.open(path, flags, 0o666), 'w')
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if file is not None:
            file.close()


def _download(
    address: str,
    folder: Path,
    digest: str,
    name: str,
    check: Callable[[Path], None] | None,
) -> Path:
    print_log(f'Downloading {address} to {folder}', logger='current')
    remove_leftovers(folder / name)
    file, temporary = create_temporary(folder / name)
    try:
        with file:
            size = _Download(address, file).run()
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        target = folder / f'{digest}-{size}-{name}'
        os.replace(temporary, target)
        return target
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@dataclass
class _Download:
    """One download.

    Args:
        address: The address.
        file: Where the content goes.
        total: Size of the file in bytes, if the server says so.
        version: What names the version of the file on the server.
    """

    address: str
    file: BinaryIO
    total: int | None = None
    version: str | None = None

    def run(self) -> int:
        """Download the file and return its size.

        Raises:
            CheckpointFileError: It cannot be downloaded completely.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                response = self._open()
            except HTTPError as error:
                raise self._failed(f'HTTP {error.code} {error.reason}') from None
            except (OSError, HTTPException) as error:
                problem = _in_words(error)
            else:
                with response:
                    problem = self._receive(response)
                if not problem:
                    break
            if not left or not self.file.tell():
                raise self._failed(problem)
        return self.file.tell()

    def _open(self) -> HTTPResponse:
        """Ask for the file, or for the rest of it."""
        headers = {'User-Agent': 'mkd_det', 'Accept-Encoding': 'identity'}
        received = self.file.tell()
        if received and self.version:
            # Another version of the file is sent from its beginning.
            headers |= {'Range': f'bytes={received}-', 'If-Range': self.version}
        asked = request.Request(self.address, headers=headers)
        return _opener().open(asked, timeout=TIMEOUT)

    def _receive(self, response: HTTPResponse) -> str:
        """Write what the server sends; return why it ended too early, or ''."""
        received = self.file.tell()
        part = response.headers.get('Content-Range', '')
        if response.status != 206 or not part.startswith(f'bytes {received}-'):
            self.file.seek(0)
            self.file.truncate()
            length = response.headers.get('Content-Length')
            self.total = int(length) if length and length.isdecimal() else None
            tag = response.headers.get('ETag')
            weak = tag is None or tag.startswith('W/')
            self.version = response.headers.get('Last-Modified') if weak else tag
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, HTTPException) as error:
                return _in_words(error)
            if not chunk:
                break
            self.file.write(chunk)
        cut_off = self.total is not None and self.file.tell() != self.total
        return 'the connection was cut off' if cut_off else ''

    def _failed(self, reason: str) -> CheckpointFileError:
        received = self.file.tell()
        of = '' if self.total is None else f' of {self.total}'
        return CheckpointFileError(
            f'checkpoint {self.address} cannot be downloaded',
            expected=None if self.total is None else f'{self.total} bytes',
            actual=reason + (f', after {received}{of} bytes' if received else ''),
            fix='try again (nothing incomplete is kept), or download the file yourself'
            ' and give its path',
        )


def _opener() -> request.OpenerDirector:
    """Return what opens http and https addresses; a redirect leads to nothing else."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPRedirectHandler(),
        request.HTTPErrorProcessor(),
        request.HTTPSHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _in_words(error: Exception) -> str:
    reason = getattr(error, 'reason', error)
    if isinstance(reason, TimeoutError):
        return f'the server sent nothing for {TIMEOUT:g} seconds'
    return getattr(reason, 'strerror', None) or str(reason) or type(reason).__name__
