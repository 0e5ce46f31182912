"""Measure what distillation costs: time and memory of a training step.

Three phases take turns on the same batches: S, the training step of the plain student;
T, the forward of the needed part of the teachers as they are (speed 'off'); K, the
training step of the distiller. K / (S + T) is the overhead: at speed 'off', 1.0 would
mean that adapters and terms cost nothing.

Peak memory is what a step needs above what stays between steps. On a CPU it is exact
for tensors: torch records every allocation and release of one more step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import add_config, command, command_parser, console, quiet_libraries

POSITION = 80


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'benchmark',
        __doc__,
        'mkd-det benchmark mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py'
        ' --speeds off exact fast --json out.json',
    )
    add_config(parser)
    add = parser.add_argument
    add('--iters', type=int, default=20, help='rounds that count')
    add(
        '--warmup',
        type=int,
        default=4,
        help='rounds before them (with a cache, one for every batch)',
    )
    add('--batch-size', type=int, help="default: the config's")
    add('--image-size', type=int, nargs='+', help="H W; default: the config's")
    add(
        '--speeds',
        nargs='+',
        metavar='SPEED',
        default=(),
        help='measure K with each of these speeds of the teachers: off, exact, fast,'
        ' auto; cached reads their outputs from a disk',
    )
    add(
        '--sources',
        action='store_true',
        help='measure K with 1, 2, ... teachers taking part, as stochastic teaching'
        ' picks them',
    )
    add('--boxes', type=int, default=12, help='boxes on a random image')
    add('--batches', type=int, default=4, help='number of batches that take turns')
    add('--data', action='store_true', help="the config's training data, not random")
    add('--device', help='default: cuda if there is one')
    add('--threads', type=int, help="CPU threads; default: torch's")
    add('--json', type=Path, help='write everything there too')
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure, print, write."""
    from ..config_files.reading import load_config
    from ..experiments.benchmark import (
        Settings,
        results_table,
        run_benchmark,
        summary_lines,
    )
    from ..io.json_files import write_json
    from ..io.paths import check_output_file

    quiet_libraries()
    settings = Settings(
        iters=args.iters,
        warmup=args.warmup,
        batches=args.batches,
        batch_size=args.batch_size,
        image_size=args.image_size,
        boxes=args.boxes,
        data=args.data,
        device=args.device,
        threads=args.threads,
        speeds=args.speeds,
        each_count=args.sources,
    )
    cfg = load_config(args.config, args.cfg_options)
    if args.json:
        check_output_file(args.json, '--json', args.config)
    result = run_benchmark(cfg, settings, args.config)
    result['cfg_options'] = args.cfg_options
    out = console()
    out.print(results_table(result))
    for line in summary_lines(result):
        out.print(line, markup=False, highlight=False)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, result)


main = command(make_parser, run)
