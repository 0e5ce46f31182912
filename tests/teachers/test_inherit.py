"""A student that starts with modules of its teacher says so, or does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mkd_det.errors import ConfigError, PlanError
from mkd_det.teachers.inherit import MMLogger

MODULES = ['neck', 'bbox_head']


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tiny.gfl(8, 16), tmp_path / 't.pth')


def cfg(file: Path, student: dict | None = None, **inherit: Any) -> dict[str, Any]:
    given = {'teacher': 't', 'modules': MODULES, **inherit}
    student = student or tiny.gfl(8, 16)
    return tiny.distiller(student, tiny.gfl(8, 16), file, inherit=given)


def test_the_weights_arrive_and_all_others_are_the_students_own(file: Path) -> None:
    model, teacher = tiny.build(cfg(file)), torch.load(file)['state_dict']
    alone = tiny.build(tiny.gfl(8, 16)).state_dict()
    for key, value in model.state_dict().items():
        source = teacher if key.startswith(tuple(MODULES)) else alone
        assert torch.equal(value, source[key]), key
    # A copy: the teacher stays as it is.
    next(model.student.neck.parameters()).data.zero_()
    kept = model.teachers['t'].model.neck.state_dict()
    assert all(torch.equal(v, teacher[f'neck.{k}']) for k, v in kept.items())


def test_the_log_tells_exactly_what_was_copied(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'info', lambda text: said.append(text))
    tiny.build(cfg(file))
    plain = tiny.build(tiny.gfl(8, 16))
    count = sum(p.numel() for p in plain.neck.parameters())
    wanted = f"The student inherits neck of teacher 't': 16 tensors, {count} parameters"
    assert wanted in said
    assert sum('inherits' in line for line in said) == 2


def test_a_partial_fit_is_refused_and_told(file: Path) -> None:
    with pytest.raises(PlanError, match='neck of the student does not fit') as caught:
        tiny.build(cfg(file, tiny.gfl(4, 8)))
    first = 'fpn_convs.0.conv.bias: (8,), teacher (16,)'
    assert first in str(caught.value) and '16 of 16' in str(caught.value)
    with pytest.raises(PlanError, match='bbox_head of the student'):
        tiny.build(cfg(file, tiny.gfl(8, 16, convs=2), modules=['bbox_head']))


@pytest.mark.parametrize(
    'given, words',
    [
        (dict(teacher='x'), 'no such teacher'),
        (dict(modules='neck'), 'a list of paths'),
        (dict(modules=['nekc']), 'neck'),
        (dict(module=['neck']), 'modules'),
        (dict(modules=[]), 'nothing to inherit'),
        (dict(modules=['bbox_head.prior_generator']), 'no module'),
        (dict(modules=['backbone.relu']), 'has no weights'),
    ],
)
def test_bad_settings_are_told(file: Path, given: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny.build(cfg(file, **given))
    assert words in str(caught.value)
