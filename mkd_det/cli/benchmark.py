"""Measure what distillation costs, and how fast the student is.

Of a training step, three phases take turns on the same batches: S, the step of the
plain student; T, the forward of the needed part of the teachers as they are (speed
'off'); K, the step of the distiller. K / (S + T) is the overhead: at speed 'off', 1.0
would mean that adapters and terms cost nothing.

Peak memory is what a step needs above what stays between steps. On a CPU it is exact
for tensors: torch records every allocation and release of one more step.

With --inference: parameters, operations, and the latency of student and teachers in
torch and onnxruntime, in one run in which all of them take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import add_config, command, command_parser, console, quiet_libraries

if TYPE_CHECKING:
    from mmengine.config import Config
    from rich.table import Table

POSITION = 80


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'benchmark',
        __doc__,
        'mkd-det benchmark mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py'
        ' --speeds off exact fast --json out.json',
        'mkd-det benchmark mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py --inference',
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
    add(
        '--inference',
        action='store_true',
        help='measure how fast student and teachers are when they are used',
    )
    add(
        '--batch-size',
        type=int,
        nargs='+',
        help="default: the config's; with --inference, 1 and 8",
    )
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
    from ..io.json_files import write_json
    from ..io.paths import check_output_file

    quiet_libraries()
    measure = measure_inference if args.inference else measure_training
    check_arguments(args)
    cfg = load_config(args.config, args.cfg_options)
    if args.json:
        check_output_file(args.json, '--json', args.config)
    result = measure(cfg, args)
    result['cfg_options'] = args.cfg_options
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, result)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments of one measurement in the other.

    Raises:
        ConfigError: They do not go together.
    """
    from ..errors import ConfigError

    if args.inference:
        options = [n for n in ('speeds', 'sources', 'data') if getattr(args, n)]
        if options:
            raise ConfigError(
                f'--{options[0]} is about a training step',
                fix=f'without --inference, or without --{options[0]}',
            )
    elif len(args.batch_size or ()) > 1:
        raise ConfigError(
            '--batch-size: a training step has one',
            actual=args.batch_size,
            fix=f'--batch-size {args.batch_size[0]}, or --inference',
        )


def measure_training(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a training step, and print the table."""
    from ..experiments.benchmark import (
        Settings,
        results_table,
        run_benchmark,
        summary_lines,
    )

    settings = Settings(
        iters=args.iters,
        warmup=args.warmup,
        batches=args.batches,
        batch_size=args.batch_size[0] if args.batch_size else None,
        image_size=args.image_size,
        boxes=args.boxes,
        data=args.data,
        device=args.device,
        threads=args.threads,
        speeds=args.speeds,
        each_count=args.sources,
    )
    result = run_benchmark(cfg, settings, args.config)
    show(results_table(result), summary_lines(result))
    return result


def measure_inference(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the use of student and teachers, and print the table."""
    from ..experiments.benchmark.inference import (
        InferenceSettings,
        run_inference_benchmark,
    )
    from ..experiments.benchmark.inference_report import (
        inference_notes,
        inference_table,
    )

    settings = InferenceSettings(
        iters=args.iters,
        warmup=args.warmup,
        batch_sizes=args.batch_size or (1, 8),
        image_size=args.image_size,
        device=args.device,
        threads=args.threads,
    )
    result = run_inference_benchmark(cfg, settings, args.config)
    show(inference_table(result), inference_notes(result))
    return result


def show(table: Table, lines: Sequence[str]) -> None:
    """Print a table, and lines below it."""
    out = console()
    out.print(table)
    for line in lines:
        out.print(line, markup=False, highlight=False)


main = command(make_parser, run)
