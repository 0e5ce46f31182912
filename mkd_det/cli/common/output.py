"""What commands print."""

from __future__ import annotations

import logging
import sys

from rich.console import Console


def console() -> Console:
    """Return a console for tables: wide where the output is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def quiet_libraries() -> None:
    """Keep log lines and warnings of mmdet out of what a command prints."""
    from mmengine.logging import MMLogger

    from ...io.quiet import ignore_library_warnings

    ignore_library_warnings()
    MMLogger.get_current_instance().setLevel(logging.WARNING)
