"""A training that cannot run is refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

import tiny
from mkd_det.errors import (
    CheckpointFileError,
    CheckpointKeysError,
    ConfigError,
    TeacherClassesError,
)
from mkd_det.preflight.checks import (
    check_amp,
    check_before_start,
    check_pretrained,
    check_start,
)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_coco(tmp_path_factory.mktemp('preflight'), images=2)


@pytest.fixture
def cfg(data: Path, tmp_path: Path) -> Config:
    return tiny.runner_cfg(tiny.gfl(), data, tmp_path / 'run')


BAD: dict[str, tuple[Callable[[Config], Any], str]] = {
    'no iteration': (
        lambda c: c.train_dataloader.update(batch_size=99, drop_last=True),
        'train_dataloader',
    ),
    'transform': (
        lambda c: c.train_dataloader.dataset.update(pipeline=[dict(type='LoadImg')]),
        'LoadImg',
    ),
    'metric': (lambda c: c.val_evaluator.update(type='CocoMetrc'), 'CocoMetrc'),
    'learning rate': (
        lambda c: c.optim_wrapper.optimizer.update(lr='a'),
        'optim_wrapper',
    ),
    'optimizer': (lambda c: c.optim_wrapper.optimizer.update(type='SDG'), 'SDG'),
    'classes': (lambda c: c.model.bbox_head.update(num_classes=4), 'num_classes=3'),
}


@pytest.mark.parametrize('case', BAD)
def test_it_is_refused_before_anything_is_written(
    case: str, cfg: Config, tmp_path: Path
) -> None:
    change, named = BAD[case]
    change(cfg)
    with pytest.raises(ConfigError) as info:
        check_before_start(cfg)
    assert named in str(info.value)
    assert not (tmp_path / 'run').exists()


def test_the_classes_of_the_validation_data_are_compared_with_the_teachers(
    data: Path, tmp_path: Path
) -> None:
    file = tiny.write_checkpoint(tiny.gfl(), tmp_path / 'teacher.pth')
    model = tiny.distiller(tiny.gfl(), tiny.gfl(), file)
    cfg = tiny.runner_cfg(model, data, tmp_path / 'run')
    content = torch.load(file)
    content['meta'] = dict(dataset_meta=dict(classes=('red', 'green', 'brown')))
    torch.save(content, file)
    with pytest.raises(TeacherClassesError):
        check_before_start(cfg)
    assert not (tmp_path / 'run').exists()


def test_the_check_of_pretrained_parts_changes_nothing(tmp_path: Path) -> None:
    """Branches stay attached; the plain student's keys are compared."""
    student = tiny.gfl()
    plain = tiny.build(student)
    neck = {'neck.' + key: value for key, value in plain.neck.state_dict().items()}
    torch.save(dict(state_dict=neck), tmp_path / 'neck.pth')
    student['neck']['init_cfg'] = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'neck.pth'), prefix='neck.'
    )
    model = tiny.build(tiny.distiller(student, tiny.gfl()))
    before = {name: id(module) for name, module in model.named_modules()}
    check_pretrained(model)
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert any(name.endswith('.explore') for name in before)
    (tmp_path / 'neck.pth').unlink()
    with pytest.raises(CheckpointFileError):
        check_pretrained(model)


def test_a_start_must_fit_half_of_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 5))
    file = str(tmp_path / 'start.pth')
    torch.save(other.state_dict(), file)
    check_start(model.state_dict(), file)
    assert '1.weight, 1.bias' in capsys.readouterr().out
    torch.save({'0.weight': torch.zeros(4, 4)}, file)
    with pytest.raises(CheckpointKeysError) as info:
        check_start(model.state_dict(), file)
    assert info.value.expected == '0.bias, 1.weight, 1.bias'


def test_mixed_precision_needs_a_gpu(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mkd_det.preflight.checks.get_device', lambda: 'cpu')
    check_amp(cfg)
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    with pytest.raises(ConfigError):
        check_amp(cfg)
    cfg.pop('optim_wrapper')
    with pytest.raises(ConfigError):
        check_amp(cfg)
