"""Print the checked plan of a distill config.

Reads no images and trains nothing. The teachers' files need not exist yet; those that
exist are verified.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    add_config,
    class_map_table,
    command,
    command_parser,
    console,
    quiet_libraries,
)

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from ..distiller.model import Distiller
    from ..teachers.loading import Teacher

POSITION = 30


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'plan',
        __doc__,
        'mkd-det plan mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py',
    )
    add_config(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Build the distiller, print its plan and models."""
    from ..config_files.reading import load_config
    from ..training.runtime import build_model, check_is_distill

    quiet_libraries()
    cfg = load_config(args.config, args.cfg_options)
    check_is_distill(cfg)
    distiller: Any = build_model(cfg)
    out = console()
    out.print(distiller.plan.table(out.width), end='')
    for classes in distiller.plan.class_maps.values():
        out.print(class_map_table(classes))
    out.print(models_table(distiller))
    for part in (distiller.inherit, distiller.balance):
        if part is not None:
            out.print(str(part), markup=False)


def models_table(distiller: Distiller) -> Table:
    """Return the table of the student and the teachers."""
    from rich.table import Table

    out = Table(title='Models', title_justify='left')
    for name in ('name', 'type', 'parameters', 'images', 'checkpoint'):
        out.add_column(name, overflow='fold')
    student = distiller.student
    out.add_row('student', type(student).__name__, millions(distiller), '', '')
    for name, teacher in distiller.teachers.items():
        out.add_row(
            name,
            type(teacher.model).__name__,
            millions(teacher.model),
            str(distiller.renormalizers[name]),
            verify(teacher),
        )
    return out


def millions(model: nn.Module) -> str:
    """Return the number of parameters as text; of a distiller, its plain student's."""
    buffers = {name.removeprefix('student.') for name, _ in model.named_buffers()}
    state = model.state_dict()
    count = sum(value.numel() for key, value in state.items() if key not in buffers)
    return f'{count / 1e6:.2f} M'


def verify(teacher: Teacher) -> str:
    """Load the teacher's file if it exists, and return a line about it.

    Raises:
        MkdError: The file exists and does not fit.
    """
    path = teacher.config.checkpoint
    if teacher.config.stored is not None:
        teacher.load()
        return f'[green]outputs of {teacher.weights}, {teacher.config.stored}[/]'
    if path is None:
        return '[yellow]no checkpoint: random weights[/]'
    if '://' in str(path):
        return f'{path}: is fetched and verified when training starts'
    if not Path(path).exists():
        return f'[yellow]{path} is not there yet[/]'
    teacher.load()
    classes = f', {len(teacher.classes)} classes' if teacher.classes else ''
    return f'[green]{path} fits completely{classes}[/]'


main = command(make_parser, run)
