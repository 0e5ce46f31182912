"""Ctrl-C: noted when it comes, since libraries turn it into other errors."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
MESSAGE = '\nStopped by Ctrl-C.\n'

# Holds an item once Ctrl-C has come, while a command runs.
_noted: list[bool] | None = None


@contextmanager
def note_interrupts() -> Iterator[list[bool]]:
    """Yield a list that gets an item when Ctrl-C comes.

    KeyboardInterrupt is raised as always. Processes that were forked meanwhile, such as
    workers of dataloaders, do nothing: they end with this one.
    """
    global _noted
    if _noted is not None:
        yield _noted  # one command calls another
        return
    before = signal.getsignal(signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or before is not signal.default_int_handler:
        yield []
        return
    noted: list[bool] = []
    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            noted.append(True)
            raise KeyboardInterrupt

    _noted = noted
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        _noted = None
        signal.signal(signal.SIGINT, before)


def leave_process() -> None:
    """End this process with the code of Ctrl-C.

    Python may end by the signal instead, and a second Ctrl-C may print a traceback
    while it cleans up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(INTERRUPTED)
