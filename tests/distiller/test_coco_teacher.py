"""A detector of COCO's 80 classes teaches ten classes of other data, by a map.

Needs files that are no part of the repository.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny
from mkd_det.checkpoints.checkpoint import load_state_dict_strict
from mkd_det.run import train
from mkd_det.training.class_names import with_class_names
from tooling import run_command

SHARED = Path(__file__).resolve().parents[3] / 'shared'
WEIGHTS, DATA = SHARED / 'weights/yolox-nano-coco.pth', SHARED / 'data/coco256'
STOCK = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
pytestmark = pytest.mark.skipif(
    not (WEIGHTS.is_file() and DATA.is_dir()),
    reason='needs ../shared/weights/yolox-nano-coco.pth and ../shared/data/coco256',
)
# Ten classes in an order of their own; some are called otherwise than in COCO.
NAMES = {
    'wine_glass': 'wine glass',
    'dining table': 'dining table',
    'Cup': 'cup',
    'person': 'person',
    'bottle': 'bottle',
    'chair': 'chair',
    'car': 'car',
    'bowl': 'bowl',
    'television': 'tv',
    'books': 'book',
}


def write_data(folder: Path, split: str, images: int) -> str:
    """Write the annotations of the ten classes on the first images that have some."""
    content = json.loads((DATA / f'annotations/instances_{split}2017.json').read_text())
    theirs = {c['name']: c['id'] for c in content['categories']}
    ids = {theirs[name]: index + 1 for index, name in enumerate(NAMES.values())}
    boxes = [
        {**box, 'category_id': ids[box['category_id']]}
        for box in content['annotations']
        if box['category_id'] in ids
    ]
    found = {box['image_id'] for box in boxes}
    shown = [image for image in content['images'] if image['id'] in found]
    content['images'] = shown[:images]
    kept = {image['id'] for image in content['images']}
    content['annotations'] = [box for box in boxes if box['image_id'] in kept]
    content['categories'] = [
        dict(id=index + 1, name=name) for index, name in enumerate(NAMES)
    ]
    file = folder / f'{split}.json'
    file.write_text(json.dumps(content))
    return str(file)


def cfg_of(folder: Path) -> Config:
    """A training of a YOLOX of a half of the width, one epoch of 12 images."""
    stock = Config.fromfile(folder / 'stock.py')
    student = stock.model.to_dict()
    student['data_preprocessor'].pop('batch_augments')
    student['backbone']['widen_factor'] /= 2
    student['neck'].update(in_channels=[32, 64, 128], out_channels=32)
    student['bbox_head'].update(in_channels=32, feat_channels=32, num_classes=10)
    model = dict(
        type='Distiller',
        student=student,
        teachers=dict(t=dict(cfg=STOCK, checkpoint=str(WEIGHTS), class_map='auto')),
        taps=dict(head='bbox_head'),
        terms=dict(
            loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head')
        ),
        probe_size=64,
    )
    cfg = tiny.runner_cfg(model, folder, folder / 'run', batch_size=4)
    for split in ('train', 'val'):
        file = write_data(folder, split, 12)
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.update(data_root=str(DATA), ann_file=file)
        dataset.data_prefix = dict(img=f'{split}2017/')
        dataset.metainfo = dict(classes=tuple(NAMES))
        dataset.pipeline[2].scale = (256, 256)
        if split == 'val':
            cfg.val_evaluator.ann_file = file
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=1e-3)
    cfg.launcher, cfg.log_level = 'none', 'INFO'
    return cfg


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('coco')
    (folder / 'stock.py').write_text(f'_base_ = [{STOCK!r}]\n')
    cfg_of(folder).dump(folder / 'config.py')
    return folder


def test_the_plan_prints_the_map(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_command('plan', [str(folder / 'config.py')]) == 0
    out = capsys.readouterr().out
    assert '8 of 10 classes are taught; television, books: nothing' in ' '.join(
        out.replace('│', ' ').split()
    )
    for words in (
        'same name, written otherwise',
        "gets nothing from the teacher; perhaps 'book'?",
        'fits completely',
    ):
        assert words in out


def test_a_teacher_that_is_cut_down_has_nothing_to_teach_itself(folder: Path) -> None:
    """The student is the teacher with its ten classes: the term is 0 on real data."""
    cfg = with_class_names(Config.fromfile(folder / 'config.py'))
    by_hand: dict[str, Any] = {'*': 'auto', 'television': 'tv', 'books': 'book'}
    cfg.model.teachers.t.class_map = by_hand
    student = Config.fromfile(folder / 'stock.py').model
    student.data_preprocessor.pop('batch_augments')
    student.bbox_head.num_classes = 10
    cfg.model.student = student
    model: Any = tiny.build(cfg.model)
    rows = [group[0] for group in model.plan.class_maps['t'].sources]
    assert len(set(rows)) == 10
    weights = torch.load(WEIGHTS)
    weights = weights.get('state_dict', weights)
    for key in list(weights):
        if 'multi_level_conv_cls' in key:
            weights[key] = weights[key][rows]
    load_state_dict_strict(model.student, weights, 'nano', 'the student')
    model.student.eval()
    data = model.data_preprocessor(tiny.batch(size=(96, 96), num_classes=10), True)
    losses = model(**data, mode='loss')
    for part in ('loss_soft_cls', 'loss_soft_box'):
        assert float(losses[part].detach()) == pytest.approx(0, abs=1e-4)


def test_a_training_runs_and_measures_the_teacher_on_what_both_know(
    folder: Path,
) -> None:
    runner = train(Config.fromfile(folder / 'config.py'))
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'class map of t: 8 of 10 classes are taught' in log
    measured = runner.message_hub.get_scalar('teacher/t/coco/bbox_mAP_50').current()
    assert measured > 0.2
    scalars = runner.message_hub.log_scalars
    assert 0 < scalars['train/loss_soft_cls'].current() < 20
    weights = torch.load(folder / 'run/student_last.pth')['state_dict']
    plain = tiny.build(Config.fromfile(folder / 'config.py').model.student)
    plain.load_state_dict(weights)
    assert all(value.isfinite().all() for value in weights.values())
