"""Train a chain of assistants: each by those before it, the student by all.

Every stage is an ordinary training with a config of its own (WORK_DIR/configs) and ends
with a plain student (WORK_DIR/students). All stages are checked before the first one is
trained. Interrupted and started again, the command resumes; after a change of the chain
file it trains only what the change affects.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import (
    INTERRUPTED,
    add_config,
    add_executor,
    command,
    command_parser,
    console,
    quiet_libraries,
    use_executor,
)

POSITION = 70


def make_parser() -> argparse.ArgumentParser:
    """Return the parser: the chain, where it goes, and on which devices."""
    parser = command_parser(
        'chain',
        __doc__,
        'mkd-det chain mkd_det::chain/gfl_r18-w64-32_dgkd_r18-w16_bccd.py',
    )
    add_config(parser, help='chain file, or a packaged one: mkd_det::chain/...')
    parser.add_argument(
        '--work-dir', type=Path, help='default: work_dirs/<name of the chain file>'
    )
    add_executor(parser, 'stages of a parallel group')
    parser.add_argument(
        '--beside',
        nargs='+',
        type=Path,
        default=[],
        help='work dirs of other chains, to show in the figure',
    )
    return parser


def run(args: argparse.Namespace) -> int | None:
    """Train what is missing, and print the results."""
    from ..experiments.chain.report import results_table
    from ..experiments.chain.run import run_chain

    name = Path(args.config.rpartition('::')[2]).stem
    work_dir = args.work_dir or Path('work_dirs', name)
    quiet_libraries()
    launcher = use_executor(args)
    try:
        chain = run_chain(
            args.config, work_dir, args.cfg_options, args.devices, args.beside, launcher
        )
    except KeyboardInterrupt:
        print('\nStopped. Run the same command again to resume.')
        return INTERRUPTED
    console().print(results_table(chain.results))
    print(f'The student: {chain.student}; the figure: {chain.figure}')
    return None


main = command(make_parser, run)
