"""Write the plain student of a distill run, for stock mmdet to load.

OUT is a folder (for student.pth and student_config.py), or the .pth file to write
(student_config.py lies beside it). Optimizer and distillation state are left out. The
written weights are loaded strictly into the model that the written config describes. A
student of 1xK filters (RowModel) keeps them; with --square they are written into KxK
kernels of zeros, for stock mmdet.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .common import add_config, command, command_parser, console, quiet_libraries

if TYPE_CHECKING:
    from rich.table import Table

POSITION = 50


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'export', __doc__, 'mkd-det export CONFIG work_dirs/run/epoch_12.pth student'
    )
    add_config(parser)
    parser.add_argument('checkpoint', help='of a run with CONFIG')
    parser.add_argument('out', type=Path, help='folder, or .pth file')
    parser.add_argument(
        '--square', action='store_true', help='write 1xK filters as KxK, with zeros'
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Export, check, print."""
    from ..config_files.reading import load_config
    from ..training.export import export

    quiet_libraries()
    to_file = args.out.suffix == '.pth'
    weights = args.out if to_file else args.out / 'student.pth'
    config = weights.with_name('student_config.py')

    cfg = load_config(args.config, args.cfg_options)
    export(cfg, args.checkpoint, weights, config, args.square)
    console().print(table(args.checkpoint, weights, config))
    if 'mkd_det' in config.read_text():
        # It names something that stock mmdet lacks: a classifier or a loss of ours.
        print('Loads strictly where mkd_det is installed:')
        print(f'    mkd-det test {config} {weights}')
    else:
        print('Loads strictly into stock mmdet:')
        print(f"    mmdet.apis.init_detector('{config}', '{weights}')")


def table(checkpoint: str, weights: Path, config: Path) -> Table:
    """Return the table of the written files and their sizes."""
    from rich.table import Table

    from ..checkpoints.checkpoint import read_checkpoint

    state = read_checkpoint(str(weights))['state_dict']
    out = Table(title='Plain student', title_justify='left')
    for name in ('file', 'content', 'MB'):
        out.add_column(
            name, overflow='fold', justify='right' if name == 'MB' else 'left'
        )
    size = sum(value.numel() for value in state.values())
    rows = (
        (checkpoint, 'checkpoint of the distill run', ''),
        (str(weights), f'{len(state)} tensors, {size / 1e6:.2f} M numbers', 'green'),
        (str(config), 'config of the plain student', 'green'),
    )
    for path, content, style in rows:
        megabytes = Path(path).stat().st_size / 1e6 if Path(path).is_file() else 0
        out.add_row(path, content, f'{megabytes:.2f}', style=style)
    return out


main = command(make_parser, run)
