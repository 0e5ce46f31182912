"""Write the plain student of a distill run: for stock mmdet, and as ONNX.

OUT is a folder (for student.pth, student_config.py and, with --onnx, student.onnx), or
the .pth or .onnx file to write (the others lie beside it). Optimizer and distillation
state are left out. The written weights are loaded strictly into the model that the
written config describes. A student of 1xK filters (RowModel) keeps them; with --square
they are written into KxK kernels of zeros, for stock mmdet.

--onnx takes normalised images and yields the outputs of the head, without pre- and
post-processing. They are compared with torch's by onnxruntime, at other batches and
sizes too, before anything is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .common import add_config, command, command_parser, console, quiet_libraries

if TYPE_CHECKING:
    from mmengine.config import Config
    from rich.table import Table

    from ..deploy.onnx_file import OnnxStudent

POSITION = 32


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = command_parser(
        'export',
        __doc__,
        'mkd-det export CONFIG work_dirs/run/epoch_12.pth student',
        'mkd-det export CONFIG work_dirs/run/epoch_12.pth student --onnx',
    )
    add_config(parser)
    add = parser.add_argument
    add('checkpoint', help='of a run with CONFIG')
    add('out', type=Path, help='folder, or .pth or .onnx file')
    add('--square', action='store_true', help='write 1xK filters as KxK, with zeros')
    add('--onnx', action='store_true', help='write the student as ONNX, too')
    add('--features', action='store_true', help='ONNX of backbone and neck alone')
    add(
        '--fixed',
        action='store_true',
        help='ONNX for one image of one size; by default batch and size are dynamic'
        ' where the head allows it',
    )
    add(
        '--image-size',
        type=int,
        nargs='+',
        help='H W of the images for ONNX; default: of the test pipeline',
    )
    add('--opset', type=int, help="version of ONNX's operators; default: 20")
    return parser


def run(args: argparse.Namespace) -> None:
    """Export, check, print."""
    from ..config_files.reading import load_config
    from ..io.atomic import drop_link
    from ..training.export import export

    quiet_libraries()
    check_arguments(args)
    to_file = args.out.suffix in ('.pth', '.onnx')
    weights = args.out.with_suffix('.pth') if to_file else args.out / 'student.pth'
    config = weights.with_name('student_config.py')

    cfg = load_config(args.config, args.cfg_options)
    # First: a student that cannot be written as ONNX leaves no files.
    student = make_onnx(cfg, args) if args.onnx else None
    if not to_file:
        # Names that the user has not chosen: no link of somebody else is followed.
        for path in (weights, weights.with_suffix('.onnx')):
            drop_link(path)
    export(cfg, args.checkpoint, weights, config, args.square)
    graph = weights.with_suffix('.onnx')
    if student is not None:
        from ..io.atomic import write_atomically

        write_atomically(graph, student.content)
    console().print(table(args.checkpoint, weights, config, graph if student else None))
    if 'mkd_det' in config.read_text():
        # It names something that stock mmdet lacks: a classifier or a loss of ours.
        print('Loads strictly where mkd_det is installed:')
        print(f'    mkd-det test {config} {weights}')
    else:
        print('Loads strictly into stock mmdet:')
        print(f"    mmdet.apis.init_detector('{config}', '{weights}')")
    if student is not None:
        print_onnx(student, graph)


def check_arguments(args: argparse.Namespace) -> None:
    """Let an .onnx file mean --onnx; refuse its options without it.

    Raises:
        ConfigError: Options of ONNX without ONNX, or impossible values.
    """
    from ..deploy.onnx_file import OLDEST_OPSET, OPSET
    from ..errors import ConfigError

    args.onnx = args.onnx or args.out.suffix == '.onnx'
    options = ('features', 'fixed', 'image_size', 'opset')
    given = [f'--{n.replace("_", "-")}' for n in options if getattr(args, n)]
    if given and not args.onnx:
        raise ConfigError(
            f'{given[0]} is an option of --onnx', fix=f'--onnx {" ".join(given)}'
        )
    size = args.image_size
    if size and (len(size) > 2 or min(size) < 1):
        raise ConfigError(
            '--image-size takes H W in pixels, or one side for both',
            actual=size,
            fix='--image-size 640 640',
        )
    if args.opset is not None and args.opset not in range(OLDEST_OPSET, OPSET + 1):
        raise ConfigError(
            '--opset: torch does not write this version',
            expected=f'{OLDEST_OPSET} to {OPSET}',
            actual=args.opset,
            fix=f'--opset {OPSET}',
        )


def make_onnx(cfg: Config, args: argparse.Namespace) -> OnnxStudent:
    """Return the student as ONNX, compared with torch."""
    from ..checkpoints.checkpoint import read_meta
    from ..deploy.onnx_file import OPSET, OnnxSettings, check_packages
    from ..deploy.onnx_file import make_onnx as make
    from ..io.paths import check_output_file
    from ..training.export import load_student

    check_packages()
    if args.out.suffix == '.onnx':
        check_output_file(args.out, 'OUT', args.config, args.checkpoint)
    settings = OnnxSettings(
        args.image_size, args.features, args.fixed, args.opset or OPSET
    )
    plain, model, content = load_student(cfg, args.checkpoint, args.square)
    return make(model, plain, settings, read_meta(content))


def table(
    checkpoint: str, weights: Path, config: Path, graph: Path | None = None
) -> Table:
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
    rows = [
        (checkpoint, 'checkpoint of the distill run', ''),
        (str(weights), f'{len(state)} tensors, {size / 1e6:.2f} M numbers', 'green'),
        (str(config), 'config of the plain student', 'green'),
    ]
    if graph is not None:
        rows.append((str(graph), 'ONNX, without post-processing', 'green'))
    for path, content, style in rows:
        megabytes = Path(path).stat().st_size / 1e6 if Path(path).is_file() else 0
        out.add_row(path, content, f'{megabytes:.2f}', style=style)
    return out


def print_onnx(student: OnnxStudent, path: Path) -> None:
    """Print inputs, outputs, and how far they are from torch's."""
    from rich.table import Table

    out = Table(title=f'{path.name}: compared with torch', title_justify='left')
    for name in ('output', 'shape', 'stride', 'relative difference'):
        out.add_column(name, justify='left' if name == 'output' else 'right')
    for output in student.outputs:
        shape = ' x '.join(map(str, output.shape))
        difference = f'{student.differences[output.name]:.1e}'
        out.add_row(output.name, shape, str(output.stride or ''), difference)
    console().print(out)
    shape = ' x '.join(map(str, student.shape))
    dynamic = ', '.join(student.dynamic) or 'nothing'
    checked = ', '.join('x'.join(map(str, shape)) for shape in student.checked)
    print(f'Input: images, {shape}; dynamic: {dynamic}; compared at: {checked}')
    given = student.metadata['input']
    print(
        f'Images must be {given["channel_order"]}, minus {given["mean"]}, over'
        f' {given["std"]}, padded to multiples of {given["pad_size_divisor"]}; this,'
        ' the classes and the outputs stand in the metadata of the file.'
    )


main = command(make_parser, run)
