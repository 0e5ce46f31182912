"""The command that trains what the doctor has examined."""

from __future__ import annotations

import shlex
from typing import Any


def training_command(args: Any) -> str:
    """Return the command that trains as another one would have, for a shell.

    Args:
        args: Arguments of that command, as `train` has them.
    """
    words = ['mkd-det', 'train', args.config, '--work-dir', args.work_dir]
    words += ['--amp'] if args.amp else []
    words += ['--auto-scale-lr'] if args.auto_scale_lr else []
    options = args.cfg_options or {}
    words += ['--cfg-options'] if options else []
    words += [f'{key}={_option_value(value)}' for key, value in options.items()]
    return shlex.join(map(str, words))


def _option_value(value: Any) -> str:
    """Return a value in the words of `--cfg-options`."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    inside = ','.join(map(_option_value, value))
    return f'({inside})' if isinstance(value, tuple) else f'[{inside}]'
