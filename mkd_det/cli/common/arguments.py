"""Parsers and arguments that several commands have."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ...startup import COMMAND


def command_parser(
    name: str, description: str | None, *examples: str
) -> argparse.ArgumentParser:
    """Return a parser with `--debug`, whose help ends with examples.

    Args:
        name: Of the command.
        description: The docstring of its module.
        *examples: Commands to copy.
    """
    parser = argparse.ArgumentParser(
        prog=f'{COMMAND} {name}',
        description=(description or '').strip(),
        epilog='\n  '.join([f'example{"s" * (len(examples) > 1)}:', *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of an error'
    )
    return parser


def add_config(
    parser: argparse.ArgumentParser, name: str = 'config', **settings: Any
) -> None:
    """Add the positional argument for a config, and `--cfg-options`.

    Args:
        parser: Of a command.
        name: Name of the positional argument.
        **settings: Settings of the positional argument, as `add_argument` has them.
    """
    parser.add_argument(
        name, **{'help': 'config file, or a packaged one: mkd_det::...', **settings}
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='override settings of the config: key=value, also nested'
        ' (model.terms.loss_soft.weight=2) and lists (key="[a,b]", no spaces)',
    )


class Options(argparse.Action):
    """mmengine's `DictAction`, with a message for values that it cannot read."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        """Put the values into the namespace, as argparse calls it."""
        from mmengine.config import DictAction

        parse = DictAction(self.option_strings, self.dest, nargs='+')
        try:
            parse(parser, namespace, values, option_string)
        # It fails in these ways at dicts, unbalanced brackets and a missing `=`.
        except (RecursionError, AssertionError, ValueError, IndexError):
            parser.error(
                f'--cfg-options cannot be read: {" ".join(values)}; it takes'
                ' key=value with numbers, words, and lists of them; dicts go'
                " into a config file that has _base_ = ['your_config.py']"
            )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add `--launcher` and `--local_rank`, as mmdet's tools have them."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch of torch >= 2.0 passes `--local-rank`.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add `--verbose`, for those who want all that mmengine logs."""
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='show everything that is logged, also environment, config, hooks and'
        ' initial weights, which otherwise go to the log file only; as does'
        ' log_level="DEBUG" in the config',
    )


def add_devices(parser: argparse.ArgumentParser, which: str) -> None:
    """Add `--devices`.

    Args:
        parser: Of a command.
        which: What runs side by side on them, for the help.
    """
    parser.add_argument(
        '--devices',
        nargs='+',
        type=_device,
        default=[''],
        help=f'GPUs, by number: {which} run side by side on them. On a CPU, cpu cpu'
        ' runs two at a time',
    )


def _device(text: str) -> str:
    if text not in ('', 'cpu', *(gpus := _gpus())):
        raise argparse.ArgumentTypeError(
            f'takes numbers of GPUs, or cpu, not {text!r};'
            f' GPUs here: {", ".join(gpus) or "none"}'
        )
    return text


def _gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES may be set to here."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    if given:
        named = [part.strip() for part in given.split(',')]
        return [part for part in named if part and not part.startswith('-')]
    import torch

    return list(map(str, range(torch.cuda.device_count())))


def add_class_map(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--class-map`, a list of pairs for a dict.

    Args:
        parser: Of a command.
        text: The help of the argument.
    """
    parser.add_argument(
        '--class-map',
        nargs='+',
        type=_class_pair,
        default=[],
        metavar='OURS=THEIRS',
        help=text,
    )


def as_dict(pairs: list[tuple[str, Any]], option: str) -> dict[str, Any]:
    """Return the pairs of an option as a dict.

    Args:
        pairs: Names and values.
        option: Its name, for the message.

    Raises:
        ConfigError: A name is given twice.
    """
    from ...errors import ConfigError

    names = [name for name, _ in pairs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigError(
            f'{option}: {twice[0]!r} is given twice',
            actual=' '.join(f'{name}={value}' for name, value in pairs),
            fix=f'{option} with each name once',
        )
    return dict(pairs)


def _class_pair(text: str) -> tuple[str, Any]:
    """Return a class, and what another model calls it, by name or index."""
    ours, equals, theirs = text.partition('=')
    if not ours or not equals:
        raise argparse.ArgumentTypeError(
            f"takes OURS=THEIRS, such as 'television=tv', not {text!r}"
        )
    names = [name.strip() for name in theirs.split(',') if name.strip()]
    found = [int(name) if name.isdecimal() else name for name in names]
    return ours, found if len(found) > 1 else next(iter(found), None)


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `--cfg-options`, `--amp` and `--auto-scale-lr` override in a config.

    Args:
        args: The arguments.

    Returns:
        Overrides by dotted key.
    """
    given = dict(args.cfg_options or {})
    if args.amp:
        given['optim_wrapper.type'] = 'AmpOptimWrapper'
    if args.auto_scale_lr:
        given['auto_scale_lr.enable'] = True
    return given
