"""Compare ways to train one student: which help, and what they cost.

Each row is a config, or a recipe (mkd_det::_base_/recipes/...) that is applied to the
base; `name=path` names it. All rows train with the same seeds and from the same initial
weights, which is checked; rows that differ from the base in more than how the student
is taught are marked. Writes one report, WORK_DIR/report/index.html. Interrupted and
started again, the command resumes; rows and seeds can be added.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from ..experiments.comparison.results import Comparison

POSITION = 34


class _IntermixedParser(argparse.ArgumentParser):
    """A parser that accepts rows before and after options."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse intermixed arguments."""
        return self.parse_intermixed_args(*args, **kwargs)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser: what is compared, how often and how long."""
    parser = command_parser(
        'compare',
        __doc__,
        'mkd-det compare soft=mkd_det::_base_/recipes/soft_dense.py \\',
        '      --base mkd_det::bccd/gfl_r18-w16_bccd.py --seeds 0 1 2 \\',
        '      --teacher gfl_r18-w64.pth \\',
        '      --teacher-cfg mkd_det::bccd/gfl_r18-w64_bccd.py',
    )
    parser.__class__ = _IntermixedParser
    add_config(parser, 'rows', nargs='+', help='configs and recipes, `name=path`')
    add = parser.add_argument
    add('--base', help='config of the student alone')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    add('--epochs', type=int, help='budget of every row; default: as configs say')
    add('--iters', type=int, help='the same, for configs that count iterations')
    add(
        '--teacher',
        action='append',
        default=[],
        metavar='NAME=PATH',
        help='checkpoint of a teacher, for all rows that have it; the name may be'
        ' omitted if it is t; once for each teacher',
    )
    add(
        '--teacher-cfg',
        action='append',
        default=[],
        metavar='NAME=PATH',
        help='config of a teacher, for recipes',
    )
    add('--metric', default='', help='what counts, such as coco/bbox_mAP_50')
    add(
        '--least',
        type=float,
        help='smallest gain that counts; default: half a point (0.005 mAP, 0.5 %%)',
    )
    add(
        '--test',
        action='store_true',
        help='once all trainings are done, evaluate each student on the test data; the'
        ' verdicts are of test',
    )
    add(
        '--resamples',
        type=int,
        default=200,
        help='samples of images, for the error that comes from them; 0: none;'
        ' default: 200',
    )
    add_executor(parser, 'trainings')
    add('--work-dir', type=Path, default=Path('work_dirs/compare'))
    add('--out', type=Path, help='folder of the report; default: WORK_DIR/report')
    return parser


def named_paths(option: str, given: Sequence[str]) -> dict[str, str]:
    """Return paths by name; the name is `t` where none is given.

    Args:
        option: The option, for messages.
        given: `name=path` or `path`.

    Raises:
        ConfigError: Two have the same name.
    """
    from ..errors import ConfigError

    found: dict[str, str] = {}
    for text in given:
        name, sign, path = text.partition('=')
        if not sign or not name.isidentifier():
            name, path = 't', text
        if name in found:
            raise ConfigError(
                f'{option}: two teachers are called {name!r}',
                actual=[found[name], path],
                fix=f'{option} t={found[name]} {option} t2={path}',
            )
        found[name] = path
    return found


def run(args: argparse.Namespace) -> int | None:
    """Check all rows, run what is missing, and report."""
    from ..errors import ConfigError
    from ..experiments.comparison.options import ComparisonOptions
    from ..experiments.comparison.report.page import PAGE
    from ..experiments.comparison.report.text import (
        command_with_more_seeds,
        power_texts,
    )
    from ..experiments.comparison.rows import split_name
    from ..experiments.comparison.run import compare
    from ..experiments.comparison.suggestions import plain_configs

    if not args.base:
        rows = [split_name(row)[1] for row in args.rows]
        found = plain_configs(rows, without=rows)
        raise ConfigError(
            'there is nothing to compare with',
            expected='the config of the student alone',
            available=found[:8],
            fix=f'--base {next(iter(found), "STUDENT_CONFIG.py")}',
        )
    launcher = use_executor(args)
    options = ComparisonOptions(
        seeds=args.seeds,
        teachers=named_paths('--teacher', args.teacher),
        teacher_cfgs=named_paths('--teacher-cfg', args.teacher_cfg),
        options=args.cfg_options or {},
        epochs=args.epochs,
        iters=args.iters,
        metric=args.metric,
        least_gain=args.least,
        devices=args.devices,
        test=args.test,
        resamples=args.resamples,
        launcher=launcher,
    )
    quiet_libraries()
    line = shlex.join(['mkd-det', 'compare', *args.given])
    outcome = compare(args.base, args.rows, args.work_dir, options, args.out, line)
    if outcome.comparison is not None:
        print_table(outcome.comparison)
        print(f'The report: {(outcome.report / PAGE).resolve()}')
        print(*power_texts(outcome.comparison), sep='\n')
        more = command_with_more_seeds(outcome.comparison)
        if more and not outcome.stopped:
            print(
                'For a verdict on all rows, more seeds (decide on their number now;'
                f' adding until it pleases is optional stopping):\n  {more}'
            )
    if outcome.stopped:
        print('\nStopped. Run the same command again to resume.')
        return INTERRUPTED
    if outcome.failed:
        raise next(iter(outcome.failed.values()))
    return None


def print_table(comparison: Comparison) -> None:
    """Print the main table of the report."""
    from rich.table import Table
    from rich.text import Text

    from ..experiments.comparison.report.tables import overview_table

    header, *rows = overview_table(comparison)
    table = Table(*header)
    for column in table.columns[1:]:
        column.justify = 'right'
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)


main = command(make_parser, run)
