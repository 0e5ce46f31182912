#!/usr/bin/env python
"""Writes the plain student of a distill run, for stock mmdet to load.

    python tools/export_student.py CONFIG CHECKPOINT OUT

OUT is a folder (for student.pth and student_config.py), or the .pth file to
write (student_config.py comes beside it). Optimizer and distillation state are
left out. What was written is read once more and loaded strictly into the model
that the written config describes. A student of 1xK filters (RowModel) keeps them;
with --square they are written into KxK kernels of zeros, for stock mmdet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import _environment  # noqa: F401
from rich.table import Table

from mkd_det.io.checkpoint import read_checkpoint
from mkd_det.cli.common import (
    config_parser,
    console,
    main_guard,
    quiet_libraries,
)
from mkd_det.configs import load_config
from mkd_det.training.export import export


def table(checkpoint: str, weights: Path, config: Path) -> Table:
    """What was written, and what it weighs."""
    state = read_checkpoint(str(weights))['state_dict']
    out = Table(title='Plain student', title_justify='left')
    for name in ('file', 'holds', 'MB'):
        out.add_column(
            name, overflow='fold', justify='right' if name == 'MB' else 'left'
        )
    size = sum(value.numel() for value in state.values())
    rows = (
        (checkpoint, 'what was trained', ''),
        (str(weights), f'{len(state)} tensors, {size / 1e6:.2f} M numbers', 'green'),
        (str(config), 'config of the plain student', 'green'),
    )
    for path, holds, style in rows:
        megabytes = Path(path).stat().st_size / 1e6 if Path(path).is_file() else 0
        out.add_row(path, holds, f'{megabytes:.2f}', style=style)
    return out


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Export, check, print."""
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint', help='of a run with CONFIG')
    parser.add_argument('out', type=Path, help='folder, or .pth file')
    parser.add_argument(
        '--square', action='store_true', help='write 1xK filters as KxK, with zeros'
    )
    args = parser.parse_args(argv)
    quiet_libraries()
    to_file = args.out.suffix == '.pth'
    weights = args.out if to_file else args.out / 'student.pth'
    config = weights.with_name('student_config.py')

    cfg = load_config(args.config, args.cfg_options)
    export(cfg, args.checkpoint, weights, config, args.square)
    console().print(table(args.checkpoint, weights, config))
    if 'mkd_det' in config.read_text():
        # Made of what stock mmdet does not have: a classifier, a loss of ours.
        print('Loads strictly where mkd_det is installed:')
        print(f'    python tools/test.py {config} {weights}')
    else:
        print('Loads strictly into stock mmdet:')
        print(f"    mmdet.apis.init_detector('{config}', '{weights}')")


if __name__ == '__main__':
    raise SystemExit(main())
