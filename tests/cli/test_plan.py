"""`mkd-det plan`: prints the plan, and names what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import faults
import tiny
from mkd_det.errors import TapNotFoundError
from tooling import distiller_cfg, fails, run_command

Write = Callable[..., str]


def soft(**changes: Any) -> dict[str, Any]:
    """Soft outputs as the only term, with changes of its config."""
    term = dict(type='SoftOutputKD', student='head', teacher='t.head')
    return dict(loss_soft={**term, **changes})


def feature(**changes: Any) -> dict[str, Any]:
    """Features as the only term, with changes of its config."""
    term = dict(type='FeatureKD', student='guide.student', teacher='guide.teacher')
    return dict(loss_feature={**term, **changes})


GUIDE = "dict(type='GuidanceLayer', student='fpn', teacher='t.fpn')"
# Parts of the config, the error, and what the message must say.
BAD_PLANS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    'tap path': (
        dict(taps=dict(fpn='nek', head='bbox_head')),
        'TapNotFoundError',
        ("'nek'", 'available: neck'),
    ),
    'container tap': (
        dict(taps=dict(fpn='neck.fpn_convs', head='bbox_head')),
        'TapSilentError',
        ("fix:       'neck.fpn_convs.*'",),
    ),
    'tap name': (
        dict(terms=soft(student='heat')),
        'ConfigError',
        ("'heat'", 'available: head'),
    ),
    'adapter name': (
        dict(terms=feature(student='guid.student')),
        'ConfigError',
        ("'guid.student'", 'available: guide.student'),
    ),
    'adapter type': (
        dict(adapters=dict(guide=dict(type='GuidanceLayr', student='fpn'))),
        'ConfigError',
        ("'GuidanceLayr'", 'available: GuidanceLayer'),
    ),
    'term type': (
        dict(terms=soft(type='SoftOutputsKD')),
        'ConfigError',
        ("'SoftOutputsKD'", 'available: SoftOutputKD'),
    ),
    'term key': (
        dict(terms=soft(weigth=2)),
        'ConfigError',
        ("'weigth'", 'available: weight'),
    ),
    'channels': (
        dict(terms=feature(student='fpn', teacher='t.fpn')),
        'ShapeMismatchError',
        ('16 channels', '24 channels', f'guide={GUIDE}'),
    ),
    'head kind': (
        dict(terms=soft(classes='softmax')),
        'HeadKindError',
        ('softmax', 'sigmoid'),
    ),
}


@pytest.mark.parametrize('case', BAD_PLANS)
def test_a_plan_that_does_not_fit_is_refused_by_name(
    case: str, write: Write, capsys: pytest.CaptureFixture
) -> None:
    parts, error, words = BAD_PLANS[case]
    fails(capsys, 'plan', [write(distiller_cfg(None, **parts))], error, *words)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('model = dict(type=', 'SyntaxError'),
        ('model = nothing', 'NameError'),
        ("_base_ = ['absent.py']", '_base_'),
        ("custom_imports = dict(imports=['no_module'])", 'PYTHONPATH='),
        ("_base_ = ['a.py', 'b.py']", 'Duplicate key'),
        ("_base_ = ['c.py', 'd.py']", "imports=['mkd_det', 'your.module']"),
        ('optim_wrapper = dict()', 'no `model`'),
        ("model = dict(type='Distiler')", 'Distiler'),
    ],
)
def test_a_broken_config_is_told(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in 'ab':
        (tmp_path / f'{name}.py').write_text('x = 1')
    for name in 'cd':
        (tmp_path / f'{name}.py').write_text("custom_imports = dict(imports=['json'])")
    (tmp_path / 'broken.py').write_text(text)
    fails(capsys, 'plan', [tmp_path / 'broken.py'], 'ConfigError', words)


def test_no_teacher_file_is_needed_but_one_that_exists_is_verified(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'teacher.pth'
    config = write(distiller_cfg(path))
    assert run_command('plan', [config]) == 0
    shown = capsys.readouterr().out
    assert 'loss_soft' in shown and 'GuidanceLayer' in shown
    assert 'is not there yet' in shown.replace('\n', ' ')

    tiny.write_checkpoint(tiny.gfl(16, 24), path)
    assert run_command('plan', [config]) == 0
    # The cell may be wrapped: the path is as long as the test's folder.
    cells = capsys.readouterr().out.replace('│', ' ')
    assert '3 classes' in ' '.join(cells.split())

    tiny.write_checkpoint(tiny.gfl(16, 16), path)
    fails(capsys, 'plan', [config], 'TeacherKeysError')
    fails(capsys, 'plan', [write(tiny.gfl())], 'ConfigError', 'no distill config')
    assert not (tmp_path / 'run').exists()


def test_what_is_there_and_no_file_is_no_teacher(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / 'folder.pth').mkdir()
    for path in (faults.pipe(tmp_path / 'pipe.pth'), tmp_path / 'folder.pth'):
        config = write(distiller_cfg(path))
        fails(capsys, 'plan', [config], 'CheckpointFileError', str(path))


def test_inheritance_and_balance_are_shown(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tiny.write_checkpoint(tiny.gfl(8, 24), tmp_path / 'teacher.pth')
    cfg = tiny.distiller(tiny.gfl(8, 16), tiny.gfl(8, 24), path)
    cfg['inherit'] = dict(teacher='t', modules=['backbone'])
    cfg['balance'] = dict(type='GradientShare', shares=dict(loss_soft=0.5))
    assert run_command('plan', [write(cfg)]) == 0
    shown = capsys.readouterr().out
    assert 'inherit: backbone of teacher t' in shown
    assert 'loss_soft 0.5' in shown


def test_debug_shows_the_traceback(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(distiller_cfg(None, taps=dict(fpn='nek', head='bbox_head')))
    with pytest.raises(TapNotFoundError):
        run_command('plan', [config, '--debug'])
    monkeypatch.setenv('MKD_DEBUG', '1')
    with pytest.raises(TapNotFoundError):
        run_command('plan', [config])


def test_the_class_map_of_a_teacher_is_printed(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    five = tiny.gfl(16, 24, num_classes=5)
    names = ('cat', 'Blue', 'red', 'greens', 'dog')
    file = tiny.write_checkpoint(five, tmp_path / 'five.pth', classes=names)
    model = distiller_cfg(file)
    model['teachers']['t'].update(cfg=five, class_map='auto')
    assert run_command('plan', [write(model)]) == 0
    rows = [line.split('│') for line in capsys.readouterr().out.splitlines()]
    found = [[cell.strip() for cell in row[1:-1]] for row in rows if len(row) == 5]
    assert ['red', 'red', 'same name'] in found
    assert ['blue', 'Blue', 'same name, written otherwise'] in found
    reason = "gets nothing from the teacher; perhaps 'greens'?"
    assert ['green', '-', reason] in found
