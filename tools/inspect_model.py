#!/usr/bin/env python
"""Lists the modules of a model with shapes and strides, to choose taps from.

    python tools/inspect_model.py CONFIG --filter 'neck*'
    python tools/inspect_model.py CONFIG --teacher CONFIG2

Nothing is trained, and no data is read: one forward of random numbers. A
distill config stands for its student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import _environment  # noqa: F401
import torch
from rich.table import Table
from torch import Tensor, nn

from mkd_det.io.checkpoint import load_checkpoint_strict
from mkd_det.cli.common import (
    config_parser,
    console,
    main_guard,
    quiet_libraries,
)
from mkd_det.configs import load_config
from mkd_det.errors import TapNotFoundError, TapOutputError, nearest_names
from mkd_det.training.runtime import build_model, student_config
from mkd_det.structures import channels_of, first_tensor, tensors_in
from mkd_det.taps import frozen_state, strides_of, to_levels
from mkd_det.heads.running import run_features
from mkd_det.teachers.bank import TeacherBank


@dataclass
class Row:
    """What one module did in one forward.

    Args:
        path: Where it is: what a tap would say.
        kind: Its class.
        parameters: How many it has, children included.
        calls: How often it was called.
        shapes: Of each level it yielded, without the batch; for heads, of each
            level's first tensor (the class scores).
        channels: Of each level.
        strides: Of each level; None for vectors.
        note: Why it is no good as a tap; empty if it is good.
    """

    path: str
    kind: str
    parameters: int
    calls: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    channels: tuple[int, ...] = ()
    strides: tuple[int | None, ...] = ()
    note: str = ''

    @property
    def depth(self) -> int:
        """Number of names in the path."""
        return self.path.count('.') + 1


def survey(model: nn.Module, size: tuple[int, int]) -> list[Row]:
    """One row for each module of `model`, in registration order.

    Args:
        model: The model; it is left as it was.
        size: (H, W) of the images, in pixels.
    """
    outputs: dict[nn.Module, list[Any]] = {m: [] for m in model.modules()}
    versions: list[tuple[nn.Module, Tensor, int]] = []

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        outputs[module].append(output)
        versions.extend((module, t, t._version) for t in tensors_in(output))

    handles = [m.register_forward_hook(hook) for m in model.modules()]
    try:
        # With gradients, to see where none would flow.
        with frozen_state(model), torch.enable_grad():
            run_features(model, torch.randn(1, 3, *size), second_stage=True)
    finally:
        for handle in handles:
            handle.remove()
    overwritten = {module for module, t, version in versions if t._version != version}
    return [
        _row(path, module, outputs[module], module in overwritten, size)
        for path, module in model.named_modules()
        if path
    ]


def _row(
    path: str, module: nn.Module, calls: list[Any], overwritten: bool, size: tuple
) -> Row:
    parameters = sum(p.numel() for p in module.parameters())
    row = Row(path, type(module).__name__, parameters, len(calls))
    if not calls:
        container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
        row.note = f'container, tap {path}.*' if container else 'never called'
        return row
    try:
        levels = tuple(level for call in calls for level in to_levels(path, path, call))
    except TapOutputError:
        row.note = 'yields no levels'
        return row
    tensors = [first_tensor(level) for level in levels]
    row.shapes = [tuple(t.shape[1:]) for t in tensors]
    row.channels = tuple(channels_of(level) for level in levels)
    regions = path.startswith('roi_head.')
    row.strides = (None,) * len(levels) if regions else strides_of(levels, size)
    if overwritten:
        row.note = f'changed in place, tap {path.rpartition(".")[0]}'
    elif not any(t.requires_grad for t in tensors):
        row.note = 'frozen, for a teacher only'
    elif regions:
        row.note = 'of regions, for a student only'
    return row


def select(rows: Sequence[Row], depth: int, pattern: str | None) -> list[Row]:
    """Rows not deeper than `depth` whose path fits `pattern`.

    Args:
        rows: All rows.
        depth: Deepest path to list. A pattern looks at all depths.
        pattern: With `*` or `?` a shell pattern for the whole path, otherwise
            any part of it.

    Raises:
        TapNotFoundError: Nothing fits.
    """
    if pattern is None:
        return [row for row in rows if row.depth <= depth]
    glob = pattern if set(pattern) & set('*?[') else f'*{pattern}*'
    found = [row for row in rows if fnmatch(row.path, glob)]
    if not found:
        raise TapNotFoundError(
            f'no module path fits the filter {pattern!r}',
            actual=pattern,
            available=nearest_names(pattern, [row.path for row in rows]),
        )
    return found


def pair(
    student: Sequence[Row], teacher: Sequence[Row]
) -> list[tuple[Row, Row | None, str]]:
    """For each usable student module the teacher's that a term could compare.

    The one at the same path; failing that, one in the same part of the model
    (backbone, neck, head) whose levels have the same strides.

    Returns:
        (student, teacher or None, why they are a pair).
    """
    usable = {row.path: row for row in teacher if row.shapes and _no_trap(row)}
    pairs: list[tuple[Row, Row | None, str]] = []
    for row in student:
        if not row.shapes or row.note:
            continue
        other = usable.get(row.path)
        if other is not None and other.strides == row.strides:
            pairs.append((row, other, 'path'))
            continue
        same = [
            candidate
            for candidate in usable.values()
            if candidate.strides == row.strides
            and candidate.path.split('.')[0] == row.path.split('.')[0]
        ]
        # The least deep is the last of its stage: it is what the next one sees.
        best = min(same, key=lambda r: r.depth, default=None)
        pairs.append((row, best, 'stride' if best else ''))
    return pairs


def _no_trap(row: Row) -> bool:
    # A frozen layer is a fine tap of a teacher.
    return not row.note or row.note.startswith('frozen')


def table(rows: Sequence[Row], title: str) -> Table:
    """The listing of one model."""
    out = Table(title=title, title_justify='left')
    for name in ('tap', 'type', 'levels (C, H, W)', 'stride', 'note'):
        out.add_column(name, overflow='fold')
    out.add_column('calls', justify='right')
    out.add_column('parameters', justify='right')
    for row in rows:
        out.add_row(
            row.path,
            row.kind,
            _shapes(row),
            _strides(row),
            row.note,
            str(row.calls),
            f'{row.parameters:,}',
            style='dim' if row.note else None,
        )
    return out


def pair_table(pairs: Sequence[tuple[Row, Row | None, str]], title: str) -> Table:
    """The listing of two models side by side."""
    out = Table(title=title, title_justify='left')
    for name in (
        'student',
        'channels/stride',
        'teacher',
        'channels/stride',
        'channels',
    ):
        out.add_column(name, overflow='fold')
    for student, teacher, why in pairs:
        if teacher is None:
            out.add_row(student.path, _specs(student), '-', '', '', style='dim')
            continue
        equal = student.channels == teacher.channels
        out.add_row(
            student.path,
            _specs(student),
            teacher.path if why == 'stride' else '(same)',
            _specs(teacher),
            '[green]match[/]' if equal else '[yellow]differ: adapter[/]',
        )
    return out


def _shapes(row: Row) -> str:
    """Equal levels once, with their number."""
    kinds = dict.fromkeys(row.shapes)
    parts = [
        f'{row.shapes.count(shape)} x {shape}'
        if row.shapes.count(shape) > 1
        else str(shape)
        for shape in kinds
    ]
    return ' '.join(parts)


def _strides(row: Row) -> str:
    return ' '.join('-' if s is None else str(s) for s in row.strides)


def _specs(row: Row) -> str:
    return ' '.join(
        f'{c}/{s}' if s else str(c)
        for c, s in zip(row.channels, row.strides, strict=True)
    )


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = config_parser(__doc__)
    parser.add_argument('--checkpoint', help='load it (strictly) first')
    parser.add_argument(
        '--input-size', type=int, nargs='+', default=[256], help='H W, in pixels'
    )
    parser.add_argument('--depth', type=int, default=3, help='deepest path to list')
    parser.add_argument('--filter', help="shell pattern ('neck*') or part of a path")
    parser.add_argument(
        '--teacher', help='config of a second model, or a teacher named in CONFIG'
    )
    args = parser.parse_args(argv)
    quiet_libraries()
    size = (args.input_size[0], args.input_size[-1])

    cfg = load_config(args.config, args.cfg_options)
    model = build_model(student_config(cfg))
    if args.checkpoint:
        load_checkpoint_strict(model, args.checkpoint, f'the model of {args.config}')
    rows = select(survey(model, size), args.depth, args.filter)
    shown = f'for an image of {size[0]}x{size[1]}'
    if args.teacher is None:
        console().print(table(rows, f'{type(model).__name__} {shown}'))
        return
    teacher = _teacher(cfg, args.teacher)
    title = f'{type(model).__name__} beside {type(teacher).__name__} {shown}'
    console().print(pair_table(pair(rows, survey(teacher, size)), title))


def _teacher(cfg: Any, name: str) -> nn.Module:
    """A teacher that the distill config names, or the model of another config."""
    named = cfg.model.get('teachers') or {}
    if name in named:
        return TeacherBank(named)[name].model.requires_grad_()
    return build_model(student_config(load_config(name)))


if __name__ == '__main__':
    raise SystemExit(main())
