"""What commands print."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from mmengine.config import Config
    from rich.table import Table

    from ...class_maps.class_map import ClassMap


def console() -> Console:
    """Return a console for tables: wide where the output is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def quiet_libraries() -> None:
    """Keep log lines and warnings of mmdet out of what a command prints."""
    from mmengine.logging import MMLogger

    from ...io.quiet import ignore_library_warnings

    ignore_library_warnings()
    MMLogger.get_current_instance().setLevel(logging.WARNING)


def shown_output(cfg: Config, args: argparse.Namespace) -> AbstractContextManager:
    """Return a context in which a run shows what a person needs.

    Args:
        cfg: Config of the run.
        args: The arguments, see `add_verbose`.
    """
    from ...io.terminal import short_terminal

    return short_terminal(args.verbose or cfg.get('log_level') == 'DEBUG')


def class_map_table(classes: ClassMap) -> Table:
    """Return the table of a class map: a row for each class of the student."""
    from rich.markup import escape
    from rich.table import Table

    out = Table(title=f'Class map of teacher {classes.teacher}', title_justify='left')
    for name in ('student', classes.teacher, 'how'):
        out.add_column(name, overflow='fold')
    for row in classes.rows():
        out.add_row(*map(escape, row))
    return out
