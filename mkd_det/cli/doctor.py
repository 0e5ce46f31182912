"""Find out what is wrong with a distillation before it trains.

Measures the teachers on real images, compares classes, normalisation and channel
order, runs a few training steps, and looks at the data, the learning rate, speed, time
and memory. Prints a table in which each line says what to do, and draws a batch as
student and teacher see it. Trains nothing. Ends with code 2 if something is wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import (
    BAD_INPUT,
    add_config,
    command,
    command_parser,
    console,
    quiet_libraries,
    set_work_dir,
)

POSITION = 33


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'doctor',
        __doc__,
        'mkd-det doctor my_pair.py',
        'mkd-det doctor mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py --ranks 2'
        ' --json doctor.json',
    )
    add_config(parser)
    add = parser.add_argument
    add('--work-dir', help='work dir of the training')
    add(
        '--images',
        type=int,
        default=32,
        help='validation images that teachers are measured on',
    )
    add(
        '--ranks',
        type=int,
        default=1,
        help='processes of the training, of which two are tried; default: 1',
    )
    add('--quick', action='store_true', help='leave out speed, time and memory')
    add('--json', type=Path, help='write the findings there too')
    add('--picture', type=Path, help='default: doctor.png in the work dir')
    add('--no-picture', action='store_true', help='draw nothing')
    return parser


def examine(args: argparse.Namespace) -> bool:
    """Run the first part of the doctor, before another command trains.

    Args:
        args: Arguments of that command, as `train` has them.

    Returns:
        Whether something is wrong. What is not ok has been printed.
    """
    from ..config_files.reading import load_config
    from ..experiments.doctor import OK, Settings, diagnose
    from ..experiments.doctor.finding import is_wrong
    from ..experiments.doctor.report import findings_table, summary
    from ..experiments.doctor.training_command import training_command
    from .train import apply_args

    cfg = load_config(args.config, args.cfg_options)
    apply_args(cfg, args)
    findings = diagnose(cfg, Settings(quick=True))
    shown: Any = console()
    found = [one for one in findings if one.level != OK]
    if found:
        shown.print(findings_table(found))
    shown.print(f'Doctor: {summary(findings)}', markup=False, highlight=False)
    if is_wrong(findings):
        shown.print(
            f'Not trained. Mend {args.config}, then:\n    {training_command(args)}\n'
            '--no-doctor trains it as it is',
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return is_wrong(findings)


def run(args: argparse.Namespace) -> int:
    """Examine, print, write."""
    from ..config_files.reading import load_config
    from ..experiments.doctor import Settings, diagnose
    from ..experiments.doctor.finding import is_wrong
    from ..experiments.doctor.report import findings_table, summary, to_json
    from ..io.json_files import write_json
    from ..io.paths import check_output_file

    quiet_libraries()
    settings = Settings(images=args.images, ranks=args.ranks, quick=args.quick)
    cfg = load_config(args.config, args.cfg_options)
    set_work_dir(cfg, args.config, args.work_dir)
    picture = args.picture or Path(cfg.work_dir, 'doctor.png')
    for path, name in ((args.json, '--json'), (picture, '--picture')):
        if path:
            check_output_file(path, name, args.config)
    findings = diagnose(cfg, settings, None if args.no_picture else picture)
    shown: Any = console()
    shown.print(findings_table(findings))
    shown.print(summary(findings), markup=False, highlight=False)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, to_json(findings))
    return BAD_INPUT if is_wrong(findings) else 0


main = command(make_parser, run)
