"""Turns what ends a command into a message and an exit code."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from ...errors import CheckpointSaveError, MkdError, PathError
from ...io.launched import launched_rank
from ...startup import import_library
from .interrupts import INTERRUPTED, MESSAGE, note_interrupts

BAD_INPUT = 2  # as argparse has it for wrong arguments
# What makes a path unusable, whoever notices it.
_BAD_PATHS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENOTDIR,
)


class Main(Protocol):
    """A command as a function: takes arguments, returns the exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run with `argv`, by default the arguments of the process."""


def command(
    make_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], Any],
) -> Main:
    """Make the `main(argv)` of a command.

    `main` parses the arguments, then imports the library, then calls `run`. Errors
    become exit codes, see `guard`. mmengine reads checkpoints with our reader.

    Args:
        make_parser: Returns the parser. Must not need torch.
        run: Does the work. Gets the parsed arguments and, as `given`, the list they
            were parsed from; may return an exit code.
    """

    @guard
    def main(argv: Sequence[str] | None = None) -> int:
        given = list(argv or ())
        args = make_parser().parse_args(given)
        args.given = given
        import_library()
        from ...checkpoints.mmengine_loader import use_our_reader

        use_our_reader()
        return run(args) or 0

    return main


def guard(main: Callable[[Sequence[str] | None], int | None]) -> Main:
    """Wrap `main(argv)`: show a typed error as a message instead of a traceback.

    The wrapped function returns the exit code: that of `main`, 2 for an MkdError, 130
    for Ctrl-C, whatever a library made of it. `--debug` or MKD_DEBUG=1 lets errors
    through with their traceback. A full disk and a path that cannot be used count as
    an MkdError, whoever noticed it. Every other exception is a bug and passes untouched
    (exit code 1).
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        given = sys.argv[1:] if argv is None else list(argv)
        debug = '--debug' in given or os.environ.get('MKD_DEBUG', '0') != '0'
        with note_interrupts() as interrupts:
            try:
                code = main(given)
                sys.stdout.flush()
            except BrokenPipeError:
                # The reader of a pipe has left (`mkd-det inspect ... | head`). Python
                # would complain once more when it closes stdout.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            except (KeyboardInterrupt, Exception) as error:
                if debug:
                    raise
                if interrupts or isinstance(error, KeyboardInterrupt):
                    sys.stderr.write(MESSAGE)
                    return INTERRUPTED
                shown = _typed(error)
                if shown is None:
                    raise
                print_error(shown)
                return BAD_INPUT
        return code or 0

    return guarded


def _typed(error: BaseException) -> MkdError | None:
    """Return the error to show; None for a bug."""
    from ...io.atomic import NO_ROOM

    if isinstance(error, MkdError) or not isinstance(error, OSError):
        return error if isinstance(error, MkdError) else None
    if error.errno in NO_ROOM:
        return CheckpointSaveError(
            f'{error.filename or "a file"} could not be written: {error.strerror}',
            fix='make room, then start again (a training: with --resume)',
        )
    if error.errno in _BAD_PATHS and error.filename:
        return PathError(
            f'a path cannot be used: {error.strerror}',
            actual=_shortened(os.fsdecode(error.filename)),
            fix='correct the path, or its permissions (chmod u+r)',
        )
    return None


def _shortened(path: str, limit: int = 200) -> str:
    return path if len(path) <= limit else f'{path[:limit]}... ({len(path)} characters)'


def print_error(error: MkdError) -> None:
    """Print `error` in red on stderr; ranks other than 0 print one line."""
    lines = str(error).splitlines()
    if rank := launched_rank():
        lines = [f'rank {rank}: {type(error).__name__}: {lines[0]}']
    else:
        lines[0] = f'{type(error).__name__}: {lines[0]}'
    # `soft_wrap`: a path or a config line must survive copying.
    Console(stderr=True).print(Text('\n'.join(lines), style='red'), soft_wrap=True)
