"""Class order is compared by what the data yields, for teacher, train, val and test;
a check that cannot decide says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny
from mkd_det.errors import ClassOrderError, TeacherClassesError
from mkd_det.preflight.checks import check_before_start
from mkd_det.teachers.loading import Teacher
from mkd_det.training import class_order
from mkd_det.training.class_names import RUN_RECORD, recorded_labels
from mkd_det.training.class_order import (
    check_class_order,
    check_teacher_labels,
    check_test_labels,
)

OTHER = ('blue', 'red', 'green')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny.write_coco(tmp_path_factory.mktemp('order'), images=2)
    content = json.loads((root / 'annotations.json').read_text())
    content['categories'].sort(key=lambda category: OTHER.index(category['name']))
    (root / 'other.json').write_text(json.dumps(content))
    return root


def cfg_of(data: Path, **files: str) -> Config:
    """A training whose splits read these annotation files."""
    cfg = tiny.runner_cfg(tiny.gfl(), data, data / 'run')
    for split, file in files.items():
        cfg[f'{split}_dataloader'].dataset.ann_file = file
    return cfg


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(class_order, 'print_log', lambda line, **_: lines.append(line))
    return lines


def teacher(data: Path, cfg: Any, meta: dict[str, Any]) -> Teacher:
    file = data / 'teacher.pth'
    state = tiny.build(tiny.gfl()).state_dict()
    torch.save(dict(state_dict=state, meta=meta), file)
    made = Teacher.build('t', dict(cfg=cfg, checkpoint=str(file)))
    made.load()
    return made


@pytest.mark.parametrize('split', ['val', 'test'])
def test_data_of_another_order_than_the_training_data_is_refused(
    data: Path, split: str
) -> None:
    cfg = cfg_of(data, **{split: 'other.json'})
    cfg[f'{split}_evaluator'].ann_file = str(data / 'other.json')
    with pytest.raises(ClassOrderError) as info:
        check_before_start(cfg)
    assert f'the {split} data' in info.value.message
    assert not (data / 'run').exists()


def test_the_same_order_everywhere_passes_without_a_word(
    data: Path, warned: list[str]
) -> None:
    everywhere = dict.fromkeys(('train', 'val', 'test'), 'other.json')
    check_class_order(cfg_of(data, **everywhere), torch.nn.Identity())
    assert warned == []


def test_a_missing_test_set_is_no_error_and_is_said(
    data: Path, warned: list[str]
) -> None:
    check_class_order(cfg_of(data, test='missing.json'), torch.nn.Identity())
    (line,) = warned
    assert 'the test data (missing.json) are not known' in line


def test_the_record_of_a_teachers_checkpoint_decides(data: Path) -> None:
    meta = dict(
        dataset_meta=dict(classes=tiny.CLASSES), run=dict(label_names=list(OTHER))
    )
    made = teacher(data, tiny.gfl(), meta)
    with pytest.raises(TeacherClassesError) as info:
        check_teacher_labels(made, cfg_of(data), 'train')
    assert (info.value.expected, info.value.actual) == (tiny.CLASSES, OTHER)
    assert check_teacher_labels(made, cfg_of(data, train='other.json'), 'train') == []


def test_the_annotation_files_of_a_teachers_config_decide(data: Path) -> None:
    """Both have the same `metainfo`, so nothing else shows the order."""
    meta = dict(dataset_meta=dict(classes=tiny.CLASSES))
    file = data / 'teacher.py'
    cfg_of(data, train='other.json').dump(file)
    made = teacher(data, str(file), meta)
    with pytest.raises(TeacherClassesError, match='another order') as info:
        check_teacher_labels(made, cfg_of(data), 'train')
    assert info.value.actual == OTHER
    assert check_teacher_labels(made, cfg_of(data, train='other.json'), 'train') == []


def test_a_config_of_other_data_than_the_checkpoints_does_not_decide(
    data: Path,
) -> None:
    file = data / 'foreign.py'
    foreign = cfg_of(data)
    foreign.train_dataloader.dataset.metainfo = dict(classes=('red', 'green'))
    foreign.dump(file)
    made = teacher(data, str(file), dict(dataset_meta=dict(classes=tiny.CLASSES)))
    (line,) = check_teacher_labels(made, cfg_of(data), 'train')
    assert 'other data than its config' in line


def test_class_names_alone_do_not_pass_as_an_order(data: Path) -> None:
    made = teacher(data, tiny.gfl(), dict(dataset_meta=dict(classes=tiny.CLASSES)))
    for file in ('annotations.json', 'other.json'):
        (line,) = check_teacher_labels(made, cfg_of(data, train=file), 'train')
        assert 'is not checked' in line
    made.meta = {}
    (line,) = check_teacher_labels(made, cfg_of(data), 'train')
    assert 'no class names' in line
    made.meta = dict(dataset_meta=dict(classes=('green', 'red', 'blue')))
    with pytest.raises(TeacherClassesError, match='another order'):
        check_teacher_labels(made, cfg_of(data), 'train')
    made.meta = dict(dataset_meta=dict(classes=('cat', 'dog', 'cow')))
    with pytest.raises(TeacherClassesError, match='other classes'):
        check_teacher_labels(made, cfg_of(data), 'train')


def test_a_student_is_tested_on_the_order_it_was_trained_on(data: Path) -> None:
    swapped, meta = cfg_of(data, test='other.json'), dict(run=dict(label_names=OTHER))
    check_test_labels(swapped, meta)
    for cfg, record in ((swapped, {}), (cfg_of(data), meta)):
        with pytest.raises(ClassOrderError):
            check_test_labels(cfg, record)


@pytest.mark.parametrize('key', ['load_from', 'init_cfg'])
def test_a_start_of_another_order_is_refused(data: Path, key: str) -> None:
    """Of the same classes; a start with others is fine-tuned as ever."""
    state = tiny.build(tiny.gfl()).state_dict()
    for names, refused in ((OTHER, True), (tiny.CLASSES, False), (('a',) * 3, False)):
        file = data / 'start.pth'
        meta = {RUN_RECORD: {'label_names': list(names)}}
        torch.save(dict(state_dict=state, meta=meta), file)
        assert recorded_labels(meta) == tuple(names)
        cfg = cfg_of(data)
        if key == 'load_from':
            cfg.load_from = str(file)
        else:
            cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(file))
        if not refused:
            check_before_start(cfg)
            continue
        with pytest.raises(ClassOrderError) as caught:
            check_before_start(cfg)
        assert key in caught.value.message and str(file) in caught.value.message
