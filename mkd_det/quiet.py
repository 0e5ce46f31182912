"""Keeps what libraries say about themselves out of what a run says."""

from __future__ import annotations

import io
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


def quiet_warnings() -> None:
    """No more warnings of mmdet about its own inside, on each run the same ones."""
    warnings.filterwarnings('ignore', module=r'(mmdet|mmengine|mmcv)\b')
