"""Names that class maps need come from data, checkpoints and configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import hook_runs
import tiny
from mkd_det.class_maps.class_map import Classes
from mkd_det.class_maps.resolving import resolve_class_map
from mkd_det.errors import TeacherClassesError
from mkd_det.preflight.checks import check_before_start
from mkd_det.training.class_names import teacher_names, with_class_names

FIVE = ('cat', 'blue', 'Red', 'dog', 'green')
STOCK = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'


def cfg_of(root: Path, **teacher: Any) -> Config:
    """A training whose teacher has five classes, and a map."""
    cfg = hook_runs.distill_cfg(root, images=2)
    wide = tiny.gfl(base_channels=8, neck=16, num_classes=5)
    tiny.write_checkpoint(wide, root / 'teacher.pth', classes=FIVE)
    cfg.model.teachers.t.update(cfg=wide, class_map='auto', **teacher)
    cfg.model.taps.head = 'bbox_head'
    cfg.model.terms.loss_soft = dict(
        type='SoftOutputKD', student='head', teacher='t.head'
    )
    return cfg


def test_names_are_those_that_the_data_and_the_checkpoint_have(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path)
    file = tmp_path / 'coco' / 'annotations.json'
    content = json.loads(file.read_text())
    content['categories'].reverse()  # the labels go by the file, not by metainfo
    file.write_text(json.dumps(content))
    named = with_class_names(cfg)
    assert tuple(named.model.classes) == tiny.CLASSES[::-1]
    assert tuple(named.model.teachers.t.classes) == FIVE
    assert 'classes' not in cfg.model and 'classes' not in cfg.model.teachers.t
    # What is given stays.
    cfg.model.classes, cfg.model.teachers.t.classes = ('a', 'b', 'c'), list('defgh')
    assert with_class_names(cfg).model == cfg.model
    cfg.model.teachers.t.class_map = None
    assert with_class_names(cfg) is cfg


def test_what_a_checkpoint_notes_of_its_labels_comes_first(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path)
    content = torch.load(tmp_path / 'teacher.pth')
    content['meta']['run'] = dict(label_names=list(FIVE[::-1]))
    torch.save(content, tmp_path / 'teacher.pth')
    assert teacher_names(cfg.model.teachers.t) == FIVE[::-1]
    (tmp_path / 'teacher.pth').unlink()
    assert teacher_names(cfg.model.teachers.t) == ()


def test_a_stock_config_names_the_classes_without_its_files() -> None:
    names = teacher_names(dict(cfg=STOCK, checkpoint='missing.pth'))
    assert len(names) == 80 and (names[0], names[-1]) == ('person', 'toothbrush')
    classes = resolve_class_map(
        't', 'auto', Classes(2, ('Traffic_Light', 'dog')), Classes(80, names)
    )
    assert classes.sources == ((9,), (16,))


def test_a_mapped_teacher_passes_all_checks_before_the_start(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path)
    model: Any = check_before_start(cfg)
    assert model.plan.class_maps['t'].sources == ((2,), (4,), (1,))


@pytest.mark.parametrize('of_features', [True, False])
def test_other_classes_name_the_map_and_the_map_works(
    of_features: bool, tmp_path: Path
) -> None:
    cfg = cfg_of(tmp_path)
    cfg.model.teachers.t.class_map = None
    if of_features:
        del cfg.model.terms['loss_soft']
    with pytest.raises(TeacherClassesError) as caught:
        check_before_start(cfg)
    assert "teachers=dict(t=dict(class_map='auto'))" in caught.value.fix
    cfg.model.teachers.t.class_map = 'auto'
    model: Any = check_before_start(cfg)
    assert model.plan.class_maps['t'].shared == (0, 1, 2)


def test_names_that_are_not_those_of_data_or_checkpoint_are_refused(
    tmp_path: Path,
) -> None:
    cfg = cfg_of(tmp_path, classes=FIVE[::-1])
    with pytest.raises(TeacherClassesError, match='are not the classes') as caught:
        check_before_start(cfg)
    assert 'without model.teachers.t.classes' in caught.value.fix
    cfg = cfg_of(tmp_path / 'data')
    cfg.model.classes = tiny.CLASSES[::-1]
    with pytest.raises(TeacherClassesError, match='other classes than the map'):
        check_before_start(cfg)
