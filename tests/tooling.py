"""Helpers for tests of commands. Commands run in this process: starting one for each
test costs seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import tiny


def run_command(name: str, argv: Sequence[Any]) -> int:
    """Run `mkd-det NAME ARGV` in this process and return its exit code."""
    return import_module(f'mkd_det.cli.{name}').main(list(map(str, argv)))


def fails(
    capsys: pytest.CaptureFixture,
    name: str,
    argv: Sequence[Any],
    error: str,
    *words: str,
) -> str:
    """Check that a command ends with code 2 and one typed error on stderr.

    Args:
        capsys: The fixture.
        name: Of the command.
        argv: Its arguments.
        error: Class of the error.
        words: What the message must contain.

    Returns:
        The message.
    """
    assert run_command(name, argv) == 2
    message = capsys.readouterr().err
    assert message.startswith(f'{error}: '), message
    assert 'Traceback' not in message
    for word in words:
        assert word in message
    return message


@contextmanager
def plain_dumps() -> Iterator[None]:
    """Let mmengine dump configs without formatting, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, False)
        )
        yield


def student_cfg() -> dict[str, Any]:
    """A student that finds something, however little it has learned."""
    cfg = tiny.gfl()
    cfg['test_cfg']['score_thr'] = 0.0
    return cfg


def distiller_cfg(checkpoint: Path | str | None, **parts: Any) -> dict[str, Any]:
    """A distiller that learns the head and, through a guide, the neck."""
    cfg: dict[str, Any] = dict(
        type='Distiller',
        student=student_cfg(),
        teachers=dict(
            t=dict(
                cfg=tiny.gfl(base_channels=16, neck=24),
                checkpoint=None if checkpoint is None else str(checkpoint),
            )
        ),
        taps=dict(fpn='neck', head='bbox_head'),
        adapters=dict(guide=dict(type='GuidanceLayer', student='fpn', teacher='t.fpn')),
        terms=dict(
            loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'),
            loss_feature=dict(
                type='FeatureKD', student='guide.student', teacher='guide.teacher'
            ),
        ),
        probe_size=64,
    )
    return {**cfg, **parts}


def write_config(
    path: Path, model: dict[str, Any], data: Path, work_dir: Path, **changes: Any
) -> str:
    """Write a whole training as a config file; return its path."""
    cfg = tiny.runner_cfg(deepcopy(model), data, work_dir)
    cfg.custom_imports = dict(imports=['mkd_det'])
    if model['type'] == 'Distiller':
        # A random teacher is as good as chance, and that is right here.
        cfg.default_hooks.teacher_check = None
    cfg.merge_from_dict(changes)
    cfg.dump(path)
    return str(path)
