"""`mkd-det export`: writes a plain student, completely or not at all."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

import tiny
from tooling import fails, run_command


def test_stock_mmdet_loads_the_exported_student(trained: Path, tmp_path: Path) -> None:
    from mmdet.apis import inference_detector, init_detector

    out = tmp_path / 'out'
    source = trained / 'run/epoch_1.pth'
    assert run_command('export', [trained / 'config.py', source, out]) == 0
    text = (out / 'student_config.py').read_text()
    assert 'mkd_det' not in text and 'Distiller' not in text
    content = torch.load(out / 'student.pth', weights_only=True)
    before = torch.load(source, weights_only=False)['state_dict']
    assert content['state_dict'].keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in content['state_dict'].items())
    assert 'distill' not in str(content['state_dict']._metadata)
    assert (out / 'student.pth').stat().st_size < source.stat().st_size
    model = init_detector(
        str(out / 'student_config.py'), str(out / 'student.pth'), device='cpu'
    )
    assert model.dataset_meta['classes'] == tiny.CLASSES
    picture = next((trained / 'coco/images').glob('*.png'))
    assert inference_detector(model, str(picture)).pred_instances is not None


def test_a_wrong_checkpoint_writes_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tiny.write_checkpoint(tiny.fcos(), tmp_path / 'other.pth')
    argv = [trained / 'config.py', other, tmp_path / 'out']
    fails(capsys, 'export', argv, 'CheckpointKeysError')
    assert not (tmp_path / 'out').exists()


def test_a_full_disk_leaves_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [trained / 'config.py', trained / 'run/epoch_1.pth', tmp_path / 'out']
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        assert run_command('export', argv) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'Traceback' not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
