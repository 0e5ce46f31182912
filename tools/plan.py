#!/usr/bin/env python
"""Prints the checked plan of a distill config and stops.

    python tools/plan.py configs/bccd/gfl_mkd_r18-w64_r18-w16_bccd.py

No data is read and nothing is trained. The teachers' files need not be there
yet; those that are there are verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _environment  # noqa: F401
from rich.table import Table
from torch import nn

from mkd_det.cli.common import (
    config_parser,
    console,
    main_guard,
    quiet_libraries,
)
from mkd_det.configs import load_config
from mkd_det.distiller.model import Distiller
from mkd_det.errors import ConfigError
from mkd_det.training.runtime import build_model, is_distill
from mkd_det.teachers.bank import Teacher


def millions(model: nn.Module) -> str:
    """Number of parameters, for people; of a distiller, of its plain student."""
    buffers = {name.removeprefix('student.') for name, _ in model.named_buffers()}
    state = model.state_dict()
    count = sum(value.numel() for key, value in state.items() if key not in buffers)
    return f'{count / 1e6:.2f} M'


def verify(teacher: Teacher) -> str:
    """Load the teacher's file if it is there, and say what came of it.

    Raises:
        TeacherError: The file is there and does not fit.
    """
    path = teacher.checkpoint
    if path is None:
        return '[yellow]no checkpoint: random weights[/]'
    if '://' in path:
        return f'{path}: is fetched and verified when training starts'
    if not Path(path).is_file():
        return f'[yellow]{path} is not there yet[/]'
    teacher.load()
    classes = f', {len(teacher.classes)} classes' if teacher.classes else ''
    return f'[green]{path} fits completely{classes}[/]'


def models_table(distiller: Distiller) -> Table:
    """The student and the teachers."""
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


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Build, print, stop."""
    args = config_parser(__doc__).parse_args(argv)
    quiet_libraries()
    cfg = load_config(args.config, args.cfg_options)
    if not is_distill(cfg):
        raise ConfigError(
            'this is no distill config',
            expected="model=dict(type='Distiller', ...)",
            actual=f'model=dict(type={cfg.model.get("type")!r}, ...)',
        )
    distiller: Any = build_model(cfg)
    out = console()
    out.print(distiller.plan.table(out.width), end='')
    out.print(models_table(distiller))
    for part in (distiller.inherit, distiller.balance):
        if part is not None:
            out.print(str(part), markup=False)


if __name__ == '__main__':
    raise SystemExit(main())
