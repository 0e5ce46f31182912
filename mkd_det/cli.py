"""What the tools share: arguments, config files, and how errors are shown."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import MMLogger
from rich.console import Console
from rich.text import Text
from torch import distributed

from .atomic import NO_ROOM
from .errors import (
    CheckpointSaveError,
    MkdError,
)
from .quiet import quiet_warnings

# Exit code of a typed error, as argparse has it for bad arguments.
BAD_INPUT = 2


Main = Callable[[Sequence[str] | None], None]


def main_guard(main: Main) -> Callable[..., int]:
    """Show a typed error as a message in red instead of a traceback.

    The wrapped function takes `argv` (default: the command line) and returns
    the exit code: 0, or 2 for a typed error. `--debug` or MKD_DEBUG=1 lets the
    error through with its traceback. A full disk is a typed error, whoever noticed
    it. Other exceptions pass untouched: they are nobody's bad input, but bugs.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        given = sys.argv[1:] if argv is None else list(argv)
        debug = '--debug' in given or os.environ.get('MKD_DEBUG', '0') != '0'
        try:
            main(given)
        except (MkdError, OSError) as error:
            if debug or isinstance(error, OSError) and error.errno not in NO_ROOM:
                raise
            print_error(error if isinstance(error, MkdError) else _no_room(error))
            return BAD_INPUT
        return 0

    return guarded


def _no_room(error: OSError) -> CheckpointSaveError:
    return CheckpointSaveError(
        f'{error.filename or "a file"} could not be written: {error.strerror}',
        hint='make room, then start again (a training: with --resume)',
    )


def print_error(error: MkdError) -> None:
    """Print `error` in red on stderr; other ranks than 0 print one line."""
    lines = str(error).splitlines()
    rank = int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0)))
    if rank:
        lines = [f'rank {rank}: {type(error).__name__}: {lines[0]}']
    else:
        lines[0] = f'{type(error).__name__}: {lines[0]}'
    # `soft_wrap`: a path or a config line must survive copying.
    Console(stderr=True).print(Text('\n'.join(lines), style='red'), soft_wrap=True)


def console() -> Console:
    """A console for tables: wide enough where the output is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def quiet_libraries() -> None:
    """For tools that print tables: no log lines and warnings of mmdet between."""
    quiet_warnings()
    MMLogger.get_current_instance().setLevel(logging.WARNING)


class Options(DictAction):
    """mmengine's, which loses its way in dicts and unbalanced brackets."""

    def __call__(self, parser: Any, space: Any, values: Any, *rest: Any) -> None:
        try:
            super().__call__(parser, space, values, *rest)
        except (RecursionError, AssertionError, ValueError, IndexError):
            parser.error(
                f'--cfg-options cannot be read: {" ".join(values)}; it takes'
                ' key=value with numbers, words, and lists of them; dicts go'
                " into a config file that has _base_ = ['your_config.py']"
            )


def config_parser(
    description: str | None, name: str = 'config', **more: Any
) -> argparse.ArgumentParser:
    """A parser with `config`, `--cfg-options` and `--debug`.

    Args:
        description: Of the tool.
        name: For another name than `config`, which then means something else.
        **more: What is said of it then, as `add_argument` has it.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    about = {'help': 'config file, or a name like mkd_det::...', **more}
    parser.add_argument(name, **about)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='override settings of the config: key=value, also nested'
        ' (model.terms.loss_soft.weight=2) and lists (key="[a,b]", no spaces)',
    )
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of typed errors'
    )
    return parser


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


def add_devices(parser: argparse.ArgumentParser, which: str) -> None:
    """Add `--devices`.

    Args:
        parser: A tool's.
        which: What runs side by side on them, for the help.
    """

    def device(text: str) -> str:
        if text not in ('', 'cpu', *(gpus := _gpus())):
            raise argparse.ArgumentTypeError(
                f'takes numbers of GPUs, or cpu, not {text!r};'
                f' GPUs here: {", ".join(gpus) or "none"}'
            )
        return text

    parser.add_argument(
        '--devices',
        nargs='+',
        type=device,
        default=[''],
        help=f'GPUs, by number: {which} run side by side on them. On a CPU, cpu cpu'
        ' runs two at a time',
    )


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be set to here."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    if given:
        named = [part.strip() for part in given.split(',')]
        return [part for part in named if part and not part.startswith('-')]
    return list(map(str, range(torch.cuda.device_count())))


def join_processes(cfg: Config) -> None:
    """Let several processes of one launcher find each other without a GPU.

    mmengine's own way there selects a GPU first. Where there is one, this does
    nothing and mmengine does it all.
    """
    if cfg.launcher != 'pytorch' or get_device() != 'cpu':
        return
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    # As mmengine would wrap it, but for the GPU that it would name.
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    cfg.setdefault('model_wrapper_cfg', dict(**wrapper, device_ids=None))


def set_work_dir(cfg: Config, config: str, work_dir: str | None) -> None:
    """Where a run writes: the argument, else the config's, else its name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = config.rpartition('::')[2]
        cfg.work_dir = str(Path('work_dirs', Path(name).stem))
