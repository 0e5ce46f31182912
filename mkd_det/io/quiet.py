"""Keeps what libraries say about themselves out of what a run says."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet_import() -> Iterator[None]:
    """For the first import of mmdet, which tells of optional packages that are not
    there, as if that were an error."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


@contextmanager
def suppress_info_logs() -> Iterator[None]:
    """For what is tried only: the log would say all of it once more, when it is done.
    Of an optimizer that is a line for each parameter."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def ignore_library_warnings() -> None:
    """No more warnings of mmdet about its own inside, on each run the same ones."""
    warnings.filterwarnings('ignore', module=r'(mmdet|mmengine|mmcv)\b')
