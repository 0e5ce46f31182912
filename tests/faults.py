"""Faults for tests: kills, full disks, damaged and hostile files, bad servers.

Each takes three lines at most:

    died = faults.kill_at('mkd_det.io.atomic:os.replace', write, path)   # a kill
    with faults.full_disk(2**20):                                       # a full disk
        train()
    faults.cut(path, 0.5)                                               # a cut file
    with faults.server(file, silent=True) as address:                   # a bad server
        download(address)
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import stat
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

# -- kills -----------------------------------------------------------------------------


def kill_at(moment: str, call: Callable[..., Any], *args: Any, count: int = 1) -> bool:
    """Run `call(*args)` in a child that is killed (SIGKILL) at a named moment.

    Args:
        moment: A function that the child calls: 'module:name.of.function'.
        call: What runs. No autograd: it does not survive a fork.
        *args: Its arguments.
        count: The kill comes before the so manieth call.

    Returns:
        Whether the child was killed; False if it ended before.
    """
    child = os.fork()
    if child == 0:
        try:
            arm(moment, count)
            call(*args)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def kill_while_writing(size: int, call: Callable[..., Any], *args: Any) -> bool:
    """Run `call(*args)` in a child, killed when a file that it writes has `size` bytes.

    Returns:
        Whether the child was killed; False if it ended before.
    """
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            call(*args)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGXFSZ


def arm(moment: str, count: int = 1) -> None:
    """Let this process be killed at the so manieth call of a function.

    For processes that start with environment variables: see `hook_runs.start`, whose
    KILL_AT='module:function' and KILL_COUNT='2' come here.
    """
    module, _, name = moment.partition(':')
    *path, last = name.split('.')
    owner: Any = import_module(module)
    for part in path:
        owner = getattr(owner, part)
    function, calls = getattr(owner, last), [0]

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, last, killed)


# -- disks -----------------------------------------------------------------------------


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: a write beyond that stops half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def deletions() -> Iterator[list[Path]]:
    """Yields a list of all files that are deleted, renamed or opened for writing."""
    global _watched
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _watched = found = []
    try:
        yield found
    finally:
        _watched = None


_watched: list[Path] | None = None
_hooked: list[bool] = []


def _audit(event: str, args: tuple) -> None:
    if _watched is None:
        return
    if event in ('os.remove', 'os.rmdir', 'os.rename', 'shutil.rmtree', 'os.truncate'):
        paths = args[:2] if event == 'os.rename' else args[:1]
        _watched.extend(Path(os.fsdecode(p)).absolute() for p in paths)
    elif event == 'open' and isinstance(args[0], (str, bytes)):
        mode, flags = args[1], args[2]
        if (mode and set(mode) & set('wax+')) or flags & (os.O_WRONLY | os.O_RDWR):
            _watched.append(Path(os.fsdecode(args[0])).absolute())


# -- damaged files ---------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    """Keep only the first part of a file."""
    os.truncate(path, int(path.stat().st_size * share))


def flip_signs(path: Path, record: int | None = None) -> None:
    """Flip the sign of every number of a float32 tensor, in the bytes of its file.

    Args:
        path: A checkpoint.
        record: Number of its storage; None for the largest one.
    """
    with zipfile.ZipFile(path) as archive:
        records = [i for i in archive.infolist() if '/data/' in i.filename]
    if record is None:
        info = max(records, key=lambda info: info.file_size)
    else:
        info = next(i for i in records if i.filename.endswith(f'/data/{record}'))
    content = bytearray(path.read_bytes())
    start = info.header_offset
    names = int.from_bytes(content[start + 26 : start + 28], 'little')
    extra = int.from_bytes(content[start + 28 : start + 30], 'little')
    start += 30 + names + extra
    for i in range(start + 3, start + info.file_size, 4):
        content[i] ^= 0x80
    path.write_bytes(content)


def pipe(path: Path) -> Path:
    """A named pipe, which whoever opens it waits at for ever."""
    os.mkfifo(path)
    assert stat.S_ISFIFO(path.stat().st_mode)
    return path


# -- hostile files ---------------------------------------------------------------------


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (os.system, (f'touch {self.marker}',))


def code(marker: Path) -> str:
    """Text of a config that makes a file when it is executed."""
    return f'import os\nos.system("touch {marker}")\ngpu_ids = range(0, 1)\n'


def hostile(path: Path, marker: Path, **content: Any) -> Path:
    """A checkpoint that makes a file when it is unpickled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(content, evil=Trap(marker)), path)
    return path


# -- servers ---------------------------------------------------------------------------


@contextmanager
def server(
    *files: Path,
    silent: bool = False,
    cut_after: int | None = None,
    cuts: int = 10**6,
    ranges: bool = True,
    stall_after: int | None = None,
) -> Iterator[Any]:
    """A server on this machine; yields its address, with `.requests` asked so far.

    Args:
        *files: What it serves, by name, whatever the folder; one file alone is served
            under every name.
        silent: It takes the connection and says nothing.
        cut_after: It closes the connection after so many bytes.
        cuts: It does so this often.
        ranges: It can continue a download.
        stall_after: It falls silent after so many bytes.
    """
    over = threading.Event()
    known = {file.name: file for file in files}
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get('Range')))
            if silent:
                over.wait()
                return
            file = known.get(self.path.rpartition('/')[2])
            if file is None and len(files) == 1:
                file = files[0]
            if file is None:
                self.send_error(404)
                return
            self.answer(file.read_bytes())

        def answer(self, content: bytes) -> None:
            start = 0
            asked = self.headers.get('Range')
            if asked and ranges:
                start = int(asked.removeprefix('bytes=').rstrip('-'))
                self.send_response(206)
                self.send_header(
                    'Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}'
                )
            else:
                self.send_response(200)
            self.send_header('Content-Length', str(len(content) - start))
            self.send_header('ETag', '"one"')
            self.end_headers()
            self.wfile.write(self.part(content[start:]))
            if stall_after is not None:
                self.wfile.flush()
                over.wait()

        def part(self, content: bytes) -> bytes:
            if cut_after is not None and len(seen) <= cuts:
                return content[:cut_after]
            return content if stall_after is None else content[:stall_after]

        def log_message(self, *_: Any) -> None:
            pass

    class Address(str):
        requests = seen

    running = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Address(f'http://127.0.0.1:{running.server_port}')
    finally:
        over.set()
        running.shutdown()
        running.server_close()


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return f'http://127.0.0.1:{free.getsockname()[1]}'


# -- permissions -----------------------------------------------------------------------

# Of Linux: what lets root read and write what its mode forbids.
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Take the permission to read a file or folder, also from root."""
    mode = path.stat().st_mode
    path.chmod(0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # of two words, this thread
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    for sets in (before, without):
        libc.capget(header, sets)
    without[0] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    libc.capset(header, without)
    try:
        yield
    finally:
        libc.capset(header, before)
        path.chmod(mode)
