"""A checkpoint of another model is refused with the reason and a config that fits."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from mkd_det.errors import TeacherKeysError
from mkd_det.teachers.loading import Teacher


def refused(checkpoint: Path) -> TeacherKeysError:
    """The error of a checkpoint for a GFL of 8 channels in backbone and neck."""
    teacher = Teacher.build('t', dict(cfg=tiny.gfl(8, 8), checkpoint=str(checkpoint)))
    with pytest.raises(TeacherKeysError) as caught:
        teacher.load()
    return caught.value


def test_another_width_is_told_with_its_factor(tmp_path: Path) -> None:
    error = refused(tiny.write_checkpoint(tiny.gfl(16, 16), tmp_path / 't.pth'))
    assert 'are 2 times as wide as those of the model' in error.message
    assert error.fix == 'the `cfg` that this checkpoint was trained with'


def test_the_config_beside_the_checkpoint_is_the_fix(tmp_path: Path) -> None:
    file = tiny.write_checkpoint(tiny.gfl(8, 8, convs=3), tmp_path / 't.pth')
    (tmp_path / 'big.py').touch()
    error = refused(file)
    assert 'bbox_head.cls_convs has 3 layers in the checkpoint, 1' in error.message
    assert error.fix.startswith(f'cfg={str(tmp_path / "big.py")!r}')
