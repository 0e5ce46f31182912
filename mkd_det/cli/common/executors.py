"""Arguments of commands that run several trainings: where they run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .arguments import Options, add_devices

if TYPE_CHECKING:
    from ...experiments.runs import Launcher

# Jobs that may wait or run in a queue at once.
_JOBS = 64


def add_executor(parser: argparse.ArgumentParser, which: str) -> None:
    """Add `--devices`, and `--executor` with its options.

    Args:
        parser: Of a command.
        which: What runs side by side, for the help.
    """
    add_devices(parser, which)
    parser.add_argument(
        '--executor',
        choices=['local', 'slurm'],
        help='run each training as a job of submitit: on this machine, or in the queue'
        ' of a Slurm cluster; by default, as a process of this one',
    )
    parser.add_argument(
        '--executor-options',
        nargs='+',
        action=Options,
        default={},
        help="parameters of submitit's executor: timeout_min=600 gpus_per_node=1"
        ' slurm_partition=NAME ...; the time limit is a day by default, and a job that'
        ' reaches it goes on in a new one',
    )
    parser.add_argument(
        '--jobs', type=int, help=f'most jobs in the queue at once; default: {_JOBS}'
    )


def use_executor(args: argparse.Namespace) -> Launcher | None:
    """Return who starts the trainings; sets `devices` for a queue.

    Args:
        args: The arguments, see `add_executor`.

    Raises:
        ConfigError: The arguments do not go together, or do not work here.
    """
    from ...errors import ConfigError
    from ...experiments.runs import JobLauncher

    if args.executor is None:
        for name, given in (
            ('--executor-options', args.executor_options),
            ('--jobs', args.jobs),
        ):
            if given:
                raise ConfigError(
                    f'{name} goes with --executor', fix='--executor slurm'
                )
        return None
    if args.executor == 'slurm':
        if args.devices != ['']:
            raise ConfigError(
                '--devices names GPUs of this machine; in a queue, Slurm gives them',
                actual=args.devices,
                fix='--executor-options gpus_per_node=1',
            )
        if args.jobs is not None and args.jobs < 1:
            raise ConfigError('--jobs must be at least 1', actual=args.jobs)
        args.devices = [''] * (args.jobs or _JOBS)
    elif args.jobs is not None:
        raise ConfigError(
            '--jobs is the length of a queue; local jobs run on --devices',
            fix=f'--devices {" ".join(["cpu"] * max(args.jobs, 1))}',
        )
    return JobLauncher(args.executor, args.executor_options)
