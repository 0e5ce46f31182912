"""The command line: one file for each command.

`mkd-det COMMAND` calls `main(argv)` of `mkd_det/cli/COMMAND.py`. Every module in this
folder is a command, so a new command is one new file; what commands share lies in the
package `common`. The first line of a command's docstring is its line in
`mkd-det --help`; `POSITION` orders these lines, the commands that people use first
before the others.

A command imports torch and mmdet in its `run`, not at its top: `--help` and wrong
arguments are answered at once.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from ..errors import nearest_names
from ..startup import COMMAND, IS_COMMAND
from ..version import __version__
from .common import BAD_INPUT, INTERRUPTED, guard, leave_process

# Commands that stand first in the overview: those with the lowest `POSITION`.
FIRST = 5
EPILOG = f"""\
{COMMAND} COMMAND --help shows the arguments of a command and an example.
Exit codes: 0 success, 1 unexpected error, 2 wrong input, 130 stopped by Ctrl-C.
"""


def commands() -> dict[str, ModuleType]:
    """Modules of all commands by name, in the order of the overview."""
    names = [found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg]
    modules = [import_module(f'{__name__}.{name}') for name in names]
    pairs = sorted(
        zip(names, modules, strict=True),
        key=lambda pair: (getattr(pair[1], 'POSITION', 1000), pair[0]),
    )
    return dict(pairs)


def overview() -> str:
    """Return the text of `mkd-det --help`: one line for each command."""
    found = commands()
    width = max(map(len, found))
    lines = [
        f'  {name:{width}}  {(module.__doc__ or "").strip().splitlines()[0]}'
        for name, module in found.items()
    ]
    lines[FIRST:FIRST] = ['', 'other commands:'] if len(lines) > FIRST else []
    return '\n'.join(
        [
            f'usage: {COMMAND} [--help] [--version] COMMAND ...',
            '',
            'Knowledge distillation for MMDetection: big detectors teach small ones.',
            '',
            'commands that people use first:',
            *lines,
            '',
            EPILOG.rstrip(),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        argv: Command and its arguments; `sys.argv[1:]` by default.
    """
    code = _run_command(argv)
    if code == INTERRUPTED and IS_COMMAND:
        leave_process()
    return code


@guard
def _run_command(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ('-h', '--help', 'help'):
        print(overview())
        return 0 if given else BAD_INPUT
    if given[0] == '--version':
        print(f'mkd_det {__version__}')
        return 0
    name = given[0]
    names = [found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg]
    if name not in names:
        similar = ', '.join(nearest_names(name, names)) or ', '.join(names)
        sys.stderr.write(
            f'{COMMAND}: there is no command {name!r} (available: {similar});'
            f' {COMMAND} --help lists all\n'
        )
        return BAD_INPUT
    return import_module(f'{__name__}.{name}').main(given[1:])
