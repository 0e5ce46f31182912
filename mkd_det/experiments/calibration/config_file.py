"""Writes a calibrated config, and the table of a calibration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.table import Table

from ...errors import PathError
from ...io.atomic import write_atomically
from ...io.paths import check_output_file
from .run import Calibration

# A file that begins with it was written here, and may be written again.
_HEADER = '"""Calibrated by mkd-det calibrate: '
_LINE = 88


def apply_weights(cfg: Config, found: Calibration) -> Config:
    """Return a config with calibrated weights; a `balance` is no longer needed.

    Args:
        cfg: The config that was calibrated. It is not changed.
        found: The calibration.
    """
    cfg = deepcopy(cfg)
    for name, weight in found.weights.items():
        cfg.model.terms[name].weight = weight
        cfg.model.terms[name].share = found.terms[name].share
    if cfg.model.get('balance') is not None:
        cfg.model.balance = None
    return cfg


def check_out(out: Path, config: str) -> None:
    """Raise unless a calibrated config can be written to a file.

    Args:
        out: The file.
        config: The config that is calibrated.

    Raises:
        PathError: The file holds something else, or cannot be written.
    """
    check_output_file(out, '--out', config)
    if out.is_file() and not out.read_text(errors='replace').startswith(_HEADER):
        raise PathError(
            '--out: the file exists, and was not written by calibrate',
            actual=str(out),
            fix=f'--out {out.with_name(out.stem + "_calibrated.py")}',
        )


def write_calibrated(
    out: Path,
    config: str,
    cfg: Config,
    found: Calibration,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a config with the calibrated weights, which can be trained as it is.

    It inherits from the config that was calibrated. With `options`, or for a
    pure-Python config, which text cannot inherit from, it stands alone.

    Args:
        out: The file.
        config: Name of the config that was calibrated: a file, or a packaged one.
        cfg: Its content, with `options`.
        found: The calibration.
        options: Overrides of the config by dotted key.

    Raises:
        PathError: The file cannot be written.
    """
    check_out(out, config)
    if options or _is_pure_python(config):
        text = f'{_comment(config, found)}\n{apply_weights(cfg, found).pretty_text}'
    else:
        base = config if '::' in config else os.path.relpath(config, out.parent)
        text = f'{_comment(config, found)}\n_base_ = [{base!r}]\n{_terms(cfg, found)}'
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text.encode())


def _is_pure_python(config: str) -> bool:
    return '::' not in config and Config._is_lazy_import(config)


def _comment(config: str, found: Calibration) -> str:
    """Return the docstring of the file."""
    name = config.rpartition('::')[2] if '::' in config else Path(config).name
    return (
        f'{_HEADER}{name} with weights for its shares.\n\n'
        "A share is how hard a term pulls on the student, as a fraction of the task's\n"
        f'gradient. It was measured on {found.on} {found.measurements} times in the'
        f' first {found.iters}\niterations, with seed {found.seed}. The weights are'
        ' for this pair and these data: calibrate\nagain for others.\n"""\n'
    )


def _terms(cfg: Config, found: Calibration) -> str:
    """Return the lines that set the weights."""
    lines = ['model = dict(']
    if cfg.model.get('balance') is not None:
        lines.append('    balance=None,  # fixed weights need no measurements')
    lines.append('    terms=dict(')
    for name, term in found.terms.items():
        lines += [
            f'        # Weight 1 has the share {term.measured:.3g}'
            f' ({term.low:.3g} to {term.high:.3g}); the weight was {term.before:g}.',
            f'        {name}=dict(share={term.share!r}, weight={term.weight!r}),',
        ]
    return '\n'.join([*lines, '    ))', ''])


def calibration_table(found: Calibration) -> Table:
    """Return the table of a calibration.

    Args:
        found: The calibration.
    """
    title = (
        f'Shares of the gradient on {found.on}: {found.measurements} measurements in'
        f' the first {found.iters} iterations, seed {found.seed}'
    )
    table = Table(title=title, title_justify='left')
    for name in ('term', 'share asked', 'share had', 'from .. to', 'weight', 'was'):
        table.add_column(name, justify='left' if name == 'term' else 'right')
    for name, term in found.terms.items():
        had, low, high = (
            term.before * one for one in (term.measured, term.low, term.high)
        )
        table.add_row(
            name,
            f'{term.share:g}',
            f'{had:.3g}',
            f'{low:.3g} .. {high:.3g}',
            f'{term.weight:g}',
            f'{term.before:g}',
        )
    for name, weight in found.kept.items():
        table.add_row(name, 'none given', '', '', f'{weight:g}', f'{weight:g}')
    return table
