"""Exported files load in an environment without mkd_det."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import hook_runs
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.hooks.export_student_hook import ExportStudentHook
from tiny import CLASSES

# As `import mkd_det` fails where it is not installed.
STOCK = """
import sys
sys.modules['mkd_det'] = None
import torch
from mmengine.config import Config
from mmdet.apis import inference_detector, init_detector
config, image, *files = sys.argv[1:]
for file in files:
    model = init_detector(config, file, device='cpu')
    content = torch.load(file, weights_only=True)
    model.load_state_dict(content['state_dict'], strict=True)
    found = inference_detector(model, image).pred_instances
    assert len(found.bboxes) == len(found.scores)
    assert type(model).__name__ == 'GFL'
    assert model.dataset_meta['classes'] == ('red', 'green', 'blue')
"""


def _train(root: Path, name: str, *hooks: dict, epochs: int = 2) -> tuple[Any, Any]:
    cfg = hook_runs.distill_cfg(
        root,
        epochs=epochs,
        images=2,
        branches=dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs')),
    )
    cfg.custom_imports = dict(imports=['mkd_det'])
    cfg.default_hooks.checkpoint.type = 'SafeCheckpointHook'
    cfg.default_hooks.export_student = dict(type='ExportStudentHook')
    cfg.custom_hooks = [dict(type='DiceHook'), *hooks]
    cfg.default_hooks.checkpoint.save_best = 'toy/mAP'
    cfg.val_evaluator = cfg.test_evaluator = dict(type='EpochMetric', sign=-1)
    runner = hook_runs.build(cfg, name)
    runner.train()
    return cfg, runner


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return _train(tmp_path_factory.mktemp('export'), 'export')


def test_the_exported_students_load_in_stock_mmdet(trained: Any) -> None:
    cfg, _ = trained
    folder = Path(cfg.work_dir)
    image = next((folder.parent / 'coco' / 'images').glob('*.png'))
    files = ['student_config.py', image, 'student_last.pth', 'student_best.pth']
    child = subprocess.run(
        [sys.executable, '-c', STOCK, *files],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert child.returncode == 0, child.stderr[-3000:]


def test_the_students_config_does_not_name_this_package(trained: Any) -> None:
    cfg, _ = trained
    text = Path(cfg.work_dir, 'student_config.py').read_text()
    for word in ('mkd_det', 'Distiller', 'Student', 'Safe', 'DiceHook', 'teacher'):
        assert word not in text
    plain = Config.fromstring(text, '.py')
    assert plain.model == Config(dict(model=cfg.model.student)).model
    assert plain.default_hooks.checkpoint.type == 'CheckpointHook'


def test_the_exported_weights_are_the_students_and_nothing_else(trained: Any) -> None:
    cfg, runner = trained
    content = torch.load(Path(cfg.work_dir, 'student_last.pth'), weights_only=True)
    assert set(content) == {'meta', 'state_dict'}
    assert content['meta']['dataset_meta']['classes'] == CLASSES
    assert content['meta']['epoch'] == 2
    weights = runner.model.state_dict()
    assert list(content['state_dict']) == list(weights)
    for key, value in content['state_dict'].items():
        assert torch.equal(value, weights[key]), key
    assert 'distill' not in content['state_dict']._metadata['']


def test_the_best_student_is_the_best_checkpoints(trained: Any) -> None:
    cfg, runner = trained
    best = read_checkpoint(runner.message_hub.get_info('best_ckpt'))
    exported = read_checkpoint(str(Path(cfg.work_dir, 'student_best.pth')))
    assert exported['meta']['epoch'] == best['meta']['epoch'] == 1
    for key, value in exported['state_dict'].items():
        assert torch.equal(value, best['state_dict'][key]), key
    last = read_checkpoint(str(Path(cfg.work_dir, 'student_last.pth')))['state_dict']
    assert any(not torch.equal(v, last[k]) for k, v in exported['state_dict'].items())


def test_with_ema_the_averaged_student_is_exported(tmp_path: Path) -> None:
    ema = dict(type='EMAHook', momentum=0.5)
    cfg, runner = _train(tmp_path, 'ema', ema)
    averaged = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook')
    weights = averaged.ema_model.module.state_dict()
    exported = read_checkpoint(str(Path(cfg.work_dir, 'student_last.pth')))
    saved = read_checkpoint(str(Path(cfg.work_dir, 'epoch_2.pth')))
    own = runner.model.state_dict()
    assert any(not torch.equal(own[key], weights[key]) for key in own)
    for key, value in exported['state_dict'].items():
        assert torch.equal(value, weights[key]), key
        assert torch.equal(value, saved['state_dict'][key]), key


def test_a_new_best_is_exported_once(trained: Any, monkeypatch: Any) -> None:
    _, runner = trained
    hook = next(h for h in runner.hooks if isinstance(h, ExportStudentHook))
    monkeypatch.setattr(hook, '_export_best', lambda *_: pytest.fail('again'))
    hook.after_val_epoch(runner)
