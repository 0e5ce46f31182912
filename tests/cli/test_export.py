"""`mkd-det export`: writes a plain student, completely or not at all."""

from __future__ import annotations

import resource
from pathlib import Path

import onnxruntime
import pytest
import torch
from mmengine.config import Config

import tiny
from tooling import fails, run_command


def test_stock_mmdet_loads_the_exported_student(trained: Path, tmp_path: Path) -> None:
    from mmdet.apis import inference_detector, init_detector

    out = tmp_path / 'out'
    source = trained / 'run/epoch_1.pth'
    # Links that somebody has put in the place of the files are replaced.
    out.mkdir()
    (tmp_path / 'victim').touch()
    for name in ('student.pth', 'student_config.py'):
        (out / name).symlink_to(tmp_path / 'victim')
    assert run_command('export', [trained / 'config.py', source, out]) == 0
    assert not (tmp_path / 'victim').stat().st_size
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


def test_onnx_lies_beside_the_student_and_equals_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """From the distill run, and from the plain student that it yields."""
    argv = [trained / 'config.py', trained / 'run/epoch_1.pth', tmp_path, '--onnx']
    assert run_command('export', [*argv, '--image-size', '64']) == 0
    shown = capsys.readouterr().out
    assert 'cls_scores_0' in shown and 'dynamic: batch, height, width' in shown
    plain = [tmp_path / 'student_config.py', tmp_path / 'student.pth']
    again = tmp_path / 'again' / 'small.onnx'
    assert run_command('export', [*plain, again, '--fixed', '--image-size', '64']) == 0
    assert (tmp_path / 'again' / 'small.pth').is_file()
    images = torch.randn(1, 3, 64, 64).numpy()
    first, second = (
        onnxruntime.InferenceSession(path).run(None, {'images': images})
        for path in (tmp_path / 'student.onnx', again)
    )
    assert len(first) == 10
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_student_that_is_refused_as_onnx_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = tiny.faster_rcnn()
    weights = tiny.write_checkpoint(model, tmp_path / 'two_stages.pth')
    config = tmp_path / 'two_stages.py'
    Config(dict(model=model, default_scope='mmdet')).dump(config)
    argv = [config, weights, tmp_path / 'out', '--image-size', '64', '--onnx']
    fails(capsys, 'export', argv, 'ExportError', 'FasterRCNN', '--features')
    assert not (tmp_path / 'out').exists()
    assert run_command('export', [*argv, '--features']) == 0
    assert (tmp_path / 'out/student.onnx').is_file()


def test_options_of_onnx_need_onnx(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [trained / 'config.py', trained / 'run/epoch_1.pth', tmp_path / 'out']
    fails(capsys, 'export', [*argv, '--fixed'], 'ConfigError', '--onnx --fixed')
    size = ['--onnx', '--image-size', '1', '2', '3']
    fails(capsys, 'export', [*argv, *size], 'ConfigError', '--image-size 640 640')
    for opset in ('0', '99'):
        given = [*argv, '--onnx', '--opset', opset]
        fails(capsys, 'export', given, 'ConfigError', '--opset 20')


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
