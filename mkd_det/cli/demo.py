"""Watch a small detector learn from a big one, with nothing to download.

Makes a data set of handwritten digits in photographs, then trains three detectors on
it: a big one (the teacher), a small one alone (the student), and the same small one
taught by the big one (M-KD). Ends with a table, learning curves and detections on a
page, work_dirs/demo/index.html. Takes 7 to 13 minutes on two cores. Interrupted and
started again, the command resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import INTERRUPTED, command, command_parser, console, quiet_libraries

POSITION = 100


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser('demo', __doc__, 'mkd-det demo')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='folder for everything (default: work_dirs/demo, work_dirs/demo-quick)',
    )
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    parser.add_argument(
        '--quick',
        action='store_true',
        help='a few images and epochs: shows that everything runs, learns nothing',
    )
    return parser


def run(args: argparse.Namespace) -> int | None:
    """Run the demo, and print its table."""
    from rich.table import Table

    from ..experiments.demo.report import HEADER, PAGE, summary
    from ..experiments.demo.run import run_demo
    from ..experiments.demo.trainings import FULL, QUICK

    default = Path('work_dirs', 'demo-quick' if args.quick else 'demo')
    work_dir = args.work_dir or default
    quiet_libraries()
    try:
        results = run_demo(work_dir, QUICK if args.quick else FULL, args.seed)
    except KeyboardInterrupt:
        print('\nStopped. Run the same command again to resume.')
        return INTERRUPTED
    table = Table(*HEADER)
    for column in table.columns[1:]:
        column.justify = 'right'
    for result in results:
        table.add_row(*result.cells())
    console().print(table)
    print(summary(results))
    print(f'The page: {(work_dir / PAGE).resolve()}')
    return None


main = command(make_parser, run)
