"""Decides whether `import mkd_det` imports torch and mmdet at once.

`mkd-det --help` answers before torch is imported: the command line parses its
arguments first and imports the library afterwards. Every other process that imports
mkd_det gets everything at once, as `custom_imports` expects.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

COMMAND = 'mkd-det'


def is_command_line(argv: Sequence[str], orig_argv: Sequence[str]) -> bool:
    """Whether this process was started as `mkd-det` or `python -m mkd_det`.

    Args:
        argv: `sys.argv`. Its first item is '-m' while Python locates the module.
        orig_argv: `sys.orig_argv`, which still names that module.
    """
    if argv[:1] == ['-m']:
        _, _, module = ' '.join(orig_argv).partition(' -m ')
        return module.split(' ')[0] == 'mkd_det'
    return bool(argv) and Path(argv[0]).stem == COMMAND


# Whether this process is a command and nothing else.
IS_COMMAND = is_command_line(sys.argv, sys.orig_argv)
_postponed = IS_COMMAND


def is_postponed() -> bool:
    """Whether `mkd_det/__init__.py` shall leave the library out for now."""
    return _postponed


def import_library() -> None:
    """Import what `mkd_det/__init__.py` left out; do nothing if it left nothing out."""
    global _postponed
    if _postponed:
        _postponed = False
        importlib.reload(sys.modules[__package__])
