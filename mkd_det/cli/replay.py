"""Run the training step again in which a training has diverged.

Prints its losses, and the first layer or gradient that is not finite. Exit code 1 if
the step is finite here.
"""

from __future__ import annotations

import argparse

from .common import add_config, command, command_parser, console, quiet_libraries

POSITION = 90


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'replay',
        __doc__,
        'mkd-det replay my_pair.py work_dirs/my_pair/diverged_iter_120.pth',
    )
    add_config(parser, help='config of the training that has diverged')
    parser.add_argument('step', help='file of the step, in the work dir')
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the step; print what it was made of."""
    from ..config_files.reading import load_config
    from ..training.divergence import replay

    quiet_libraries()
    findings = replay(load_config(args.config, args.cfg_options), args.step)
    for name, value in findings.losses.items():
        console().print(f'{name}: {value:.6g}')
    console().print(str(findings))
    return int(findings.finite)


main = command(make_parser, run)
