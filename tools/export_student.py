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

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _environment  # noqa: F401
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from rich.table import Table

from mkd_det.atomic import write_atomically
from mkd_det.checkpoint import load_strict, read_checkpoint
from mkd_det.cli import (
    config_parser,
    console,
    main_guard,
    quiet_libraries,
)
from mkd_det.configs import load_config
from mkd_det.errors import ConfigError
from mkd_det.places import check_output
from mkd_det.row_conv import to_square
from mkd_det.runtime import student_config

META = ('epoch', 'iter', 'seed', 'dataset_meta', 'mmengine_version')


def export(
    cfg: Config, checkpoint: str, weights: Path, config: Path, square: bool = False
) -> None:
    """Write the plain student's weights and config, and check them.

    Args:
        cfg: The distill config (or any other: its model is taken as it is).
        checkpoint: A checkpoint that was trained with it.
        weights: The .pth file to write.
        config: The .py file to write.
        square: Whether 1xK filters of a `RowModel` become KxK ones.

    Raises:
        MkdError: The checkpoint does not fit the student completely (nothing is
            written then), or a file could not be written.
    """
    sources = (checkpoint, *([cfg.filename] if cfg.filename else []))
    for path in (weights, config):
        check_output(path, 'OUT', *sources)
    plain = student_config(cfg)
    model = MODELS.build(plain.model)
    content = load_strict(model, checkpoint, 'the student of the config')
    state = model.state_dict()
    if square:
        plain = unconverted(plain)
        state = to_square(state, MODELS.build(plain.model))
    meta = content.get('meta') or {}
    kept: dict[str, Any] = {key: meta[key] for key in META if key in meta}
    # init_detector reads the classes from `dataset_meta`.
    kept['cfg'] = plain.pretty_text
    buffer = io.BytesIO()
    torch.save(dict(meta=kept, state_dict=state), buffer)
    # The large one first: a config without weights would be of no use.
    write_atomically(weights, buffer.getbuffer())
    write_atomically(config, plain.pretty_text.encode())
    verify(config, weights)


def unconverted(cfg: Config) -> Config:
    """The config of the model that a `RowModel` is made from.

    Raises:
        ConfigError: The model is none.
    """
    if cfg.model.type != 'RowModel':
        raise ConfigError(
            '--square is for models of 1xK filters',
            expected="model=dict(type='RowModel', model=...)",
            actual=cfg.model.type,
        )
    cfg = Config(cfg.to_dict())
    preprocessor = cfg.model.get('data_preprocessor')
    cfg.model = cfg.model.model
    if preprocessor is not None:
        cfg.model.setdefault('data_preprocessor', preprocessor)
    return student_config(cfg)  # its import of mkd_det may be of no use any more


def verify(config: Path, weights: Path) -> None:
    """Load the written weights strictly with the written config alone.

    Raises:
        MkdError: They do not fit together.
    """
    model = MODELS.build(Config.fromfile(config).model)
    content = read_checkpoint(str(weights))
    model.load_state_dict(content['state_dict'], strict=True)


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
