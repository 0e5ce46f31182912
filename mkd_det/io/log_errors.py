"""What happens when a line of the log cannot be written."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def log_errors_in_one_line() -> Iterator[None]:
    """Print one line for a log that cannot be written, instead of many tracebacks.

    Logging prints a traceback for every line that a full disk refuses, before
    something that counts, such as a checkpoint, raises an error.
    """
    told: set[int] = set()
    original = logging.Handler.handleError

    def handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            original(handler, record)
        elif id(handler) not in told:
            told.add(id(handler))
            name = getattr(handler, 'baseFilename', 'the terminal')
            sys.stderr.write(f'The log cannot be written to {name}: {error.strerror}\n')

    logging.Handler.handleError = handle_error  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        logging.Handler.handleError = original  # type: ignore[method-assign]
