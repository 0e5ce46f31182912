"""The page at the end of a distillation, with whatever of it can be made."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

import tiny
from mkd_det.experiments.benchmark.inference import InferenceSettings
from mkd_det.experiments.distillation.report import costs
from mkd_det.experiments.distillation.report.page import write_report
from mkd_det.experiments.distillation.shipping import shipped_files
from mkd_det.training.runtime import build_model
from mkd_det.training.student_config import student_config

CIFAR10 = 'mkd_det::classification/resnet56_kd_resnet20_cifar10.py'
SCALARS = (
    dict(step=1, epoch=1, loss=3.0, loss_cls=1.0, loss_soft_cls=2.0, lr=1, time=0.1),
    dict(step=2, epoch=1, loss=2.0, loss_cls=0.5, loss_soft_cls=1.5, lr=1, time=0.1),
    {'step': 1, 'data_time': 0.1, 'time': 0.1, 'coco/bbox_mAP': 0.25},
)


@pytest.fixture(autouse=True)
def _short_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    short = InferenceSettings(iters=1, warmup=0, batch_sizes=(1,), device='cpu')
    monkeypatch.setattr(costs, 'SETTINGS', short)


def finished(folder: Path, cfg: Config, config: str = '') -> Path:
    """Write what a training leaves in a work dir: config, log and the plain student."""
    run_dir, configs = folder / 'distill', folder / 'configs'
    for one in (run_dir / '1' / 'vis_data', configs):
        one.mkdir(parents=True)
    (configs / 'distill.py').write_text(config or cfg.pretty_text)
    log = '\n'.join(map(json.dumps, SCALARS))
    (run_dir / '1' / 'vis_data' / 'scalars.json').write_text(log)
    plain = student_config(cfg)
    plain.dump(run_dir / 'student_config.py')
    torch.manual_seed(0)
    model = build_model(plain)
    model.init_weights()
    content = dict(state_dict=model.state_dict(), meta={})
    torch.save(content, run_dir / 'student_last.pth')
    return folder


def report_of(folder: Path) -> tuple[str, list[str], dict[str, Any]]:
    """Write the page, and return its markdown, what is missing, and its figures."""
    page, missing = write_report(
        folder, folder / 'configs/distill.py', folder / 'distill'
    )
    assert page == folder / 'report/index.html'
    figures = json.loads((folder / 'report/report.json').read_text())
    for name in re.findall(
        r'\]\((\w+\.png)\)', (folder / 'report/report.md').read_text()
    ):
        assert cv2.imread(str(folder / 'report' / name)) is not None
    return page.read_text(), missing, figures


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_coco(tmp_path_factory.mktemp('data'), images=4)


def distill_cfg(data: Path, folder: Path, val: bool = True, **teacher: Any) -> Config:
    checkpoint = tiny.write_checkpoint(tiny.gfl(8, 16), folder / 'big.pth')
    model = tiny.distiller(tiny.gfl(4, 8), tiny.gfl(8, 16), checkpoint)
    model['teachers']['t'].update(teacher)
    return tiny.runner_cfg(model, data, folder / 'x', val=val)


def run_lines(page: str) -> dict[str, Any]:
    """Run the lines that load the student, as they stand on the page."""
    blocks = re.findall(r'<pre><code>(.*?)</code></pre>', page, re.DOTALL)
    (lines,) = (html.unescape(one) for one in blocks if 'import' in one)
    assert len(lines.strip().splitlines()) == 4 and 'mkd_det' not in lines
    space: dict[str, Any] = {}
    exec(lines, space)
    return space


def test_the_page_has_everything_and_its_lines_load_the_student(
    data: Path, tmp_path: Path
) -> None:
    folder = finished(tmp_path / 'work', distill_cfg(data, tmp_path))
    page, missing, figures = report_of(folder)
    assert missing == []
    # Nothing is found by random weights, which counts as 0.
    assert '<td style="text-align:left">coco/bbox_mAP</td>' in page
    assert set(figures['metrics']) == {'teacher t', 'student'}
    assert figures['losses']['loss_soft_cls'] == {'1': 2.0, '2': 1.5}
    models = figures['inference']['models']
    assert models['t']['parameters'] > models['student']['parameters'] > 0
    assert models['student']['flops'] > 0
    ratios = [one.get('student_is_faster') for one in figures['inference']['latency']]
    assert any(ratios)
    for name in ('curves', 'detections', 'attention_stages_0', 'attention_fpn_1'):
        assert f'{name}.png' in page
    assert f'mkd-det train {folder}/configs/student.py' in page
    space = run_lines(page)
    assert space['result'].pred_instances.bboxes.shape[1] == 4
    weights = torch.load(folder / 'distill/student_last.pth')['state_dict']
    loaded = space['model'].state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_a_student_that_was_trained_alone_is_on_the_page(
    data: Path, tmp_path: Path
) -> None:
    folder = finished(tmp_path / 'work', distill_cfg(data, tmp_path))
    tiny.write_checkpoint(tiny.gfl(4, 8), folder / 'student/epoch_1.pth', seed=3)
    (folder / 'student/last_checkpoint').write_text('/elsewhere/epoch_1.pth')
    page, missing, figures = report_of(folder)
    assert missing == []
    assert set(figures['metrics']) == {'teacher t', 'student alone', 'student'}
    assert 'epoch_1.pth' in page and 'gains +0.000' in page


def test_without_validation_data_the_rest_is_there(data: Path, tmp_path: Path) -> None:
    folder = finished(tmp_path / 'work', distill_cfg(data, tmp_path, val=False))
    page, missing, figures = report_of(folder)
    assert [one.split(':')[0] for one in missing] == [
        'Results',
        'Detections',
        'Attention',
    ]
    assert all('val_dataloader' in one for one in missing)
    assert 'curves.png' in page and 'parameters' in page
    assert 'metrics' not in figures and 'inference' in figures
    assert "'image.jpg'" in html.unescape(page)


def test_a_teacher_of_other_classes(data: Path, tmp_path: Path) -> None:
    names = ('blue', 'person', 'red')
    checkpoint = tiny.write_checkpoint(
        tiny.gfl(8, 16), tmp_path / 'other.pth', classes=names
    )
    cfg = distill_cfg(data, tmp_path, checkpoint=str(checkpoint), class_map='auto')
    cfg.model.teachers.t.cfg.bbox_head.num_classes = 3
    page, missing, figures = report_of(finished(tmp_path / 'work', cfg))
    assert missing == []
    assert '2 of 3 classes are taught' in page and 'detections.png' in page


def test_a_teacher_that_is_gone_loses_its_parts_alone(
    data: Path, tmp_path: Path
) -> None:
    cfg = distill_cfg(data, tmp_path)
    folder = finished(tmp_path / 'work', cfg)
    (tmp_path / 'big.pth').unlink()
    page, missing, _ = report_of(folder)
    assert 'curves.png' in page and run_lines(page)['model'] is not None
    assert any('big.pth' in one for one in missing)
    assert not any(one.startswith(('Curves', 'What to ship')) for one in missing)


def test_a_classifier_has_no_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for kind in range(10):
        for split in ('train', 'test'):
            (tmp_path / split / str(kind)).mkdir(parents=True)
            image = rng.integers(0, 255, (32, 32, 3), np.uint8)
            cv2.imwrite(str(tmp_path / split / str(kind) / '0.png'), image)
    monkeypatch.setenv('CIFAR10_ROOT', str(tmp_path))
    checkpoint = tmp_path / 'big.pth'
    text = (
        f'_base_ = [{CIFAR10!r}]\n'
        f"model = dict(teachers=dict(t=dict(checkpoint='{checkpoint}')))\n"
        f'classes = {tuple(map(str, range(10)))}\n'
        'val_dataloader = dict(batch_size=4, dataset=dict(classes=classes))\n'
        'train_dataloader = dict(dataset=dict(classes=classes))\n'
    )
    (tmp_path / 'cfg.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'cfg.py')
    big = build_model(Config.fromfile('configs/classification/resnet56_cifar10.py'))
    torch.save(dict(state_dict=big.state_dict(), meta={}), checkpoint)
    page, missing, figures = report_of(finished(tmp_path / 'work', cfg, text))
    assert [one.split(':')[0] for one in missing] == ['Detections', 'Attention']
    assert 'no images with boxes' in missing[0] and 'feature maps' in missing[1]
    assert figures['inference']['image_size'] == [32, 32]
    assert figures['metrics']['student']['accuracy/top1'] >= 0
    assert run_lines(page)['model'].head is not None


def test_the_best_student_is_shipped(tmp_path: Path) -> None:
    assert shipped_files(tmp_path) is None
    for name in ('student_config.py', 'student_last.pth'):
        (tmp_path / name).touch()
    found = shipped_files(tmp_path)
    assert found is not None and found[1].name == 'student_last.pth'
    (tmp_path / 'student_best.pth').touch()
    found = shipped_files(tmp_path)
    assert found is not None and found[1].name == 'student_best.pth'
