"""Silencing messages of libraries."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet_import() -> Iterator[None]:
    """Silence mmdet's messages about optional packages while it is imported."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


@contextmanager
def suppress_info_logs() -> Iterator[None]:
    """Silence INFO logs during a dry run, so that messages do not appear twice."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def ignore_library_warnings() -> None:
    """Ignore warnings about code of mmdet, mmengine and mmcv."""
    # Of their anchors, raised by torch.
    warnings.filterwarnings('ignore', message='torch.meshgrid')
    warnings.filterwarnings('ignore', module=r'(mmdet|mmengine|mmcv)\b')
