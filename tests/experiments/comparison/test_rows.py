"""Rows of a comparison: complete configs of configs and recipes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import tiny
from comparisons import RECIPE, configs_of, options_of
from mkd_det.errors import ConfigError
from mkd_det.experiments.comparison.options import ComparisonOptions
from mkd_det.experiments.comparison.rows import read_rows, split_name


def test_names_of_rows() -> None:
    assert split_name('a/b.py') == ('b', 'a/b.py')
    assert split_name('my row=a/b.py') == ('my row', 'a/b.py')
    assert split_name('mkd_det::bccd/x.py') == ('x', 'mkd_det::bccd/x.py')
    with pytest.raises(ConfigError, match='a name and a file'):
        split_name('=a.py')


def test_a_recipe_becomes_a_complete_config_of_the_bases_student(files: Path) -> None:
    made = configs_of(files)
    base, soft = made['alone'], made['soft']
    assert soft.model.type == 'Distiller' and soft.model.student == base.model
    assert soft.model.teachers.t.checkpoint == str(files / 'big.pth')
    assert soft.model.terms == RECIPE['terms']
    assert 'mkd_det' in soft.custom_imports['imports']
    assert soft.optim_wrapper == base.optim_wrapper
    soft.dump(files / 'written.py')
    assert Config.fromfile(files / 'written.py').model == soft.model


def test_coco_measures_every_class(coco_root: Path, tmp_path: Path) -> None:
    cfg = tiny.runner_cfg(tiny.gfl(), coco_root, tmp_path)
    cfg.dump(tmp_path / 'alone.py')
    (row,) = read_rows(str(tmp_path / 'alone.py'), [], ComparisonOptions())
    assert row.cfg.val_evaluator.classwise is True
    assert 'work_dir' not in row.cfg


@pytest.mark.parametrize(
    ('others', 'settings', 'message'),
    [
        (['gone.py'], {}, 'there is no such config file'),
        (['soft.py', 'soft.py'], {}, "two rows are called 'soft'"),
        (['a b=soft.py', 'a_b=big.py'], {}, "two rows are called 'a_b'"),
        (['soft.py'], dict(teacher_cfgs={}), 'soft: a recipe needs a teacher'),
        (['soft.py'], dict(teachers={}), 'the checkpoint of the teacher is missing'),
        (['soft.py'], dict(teachers={'t': 'x', 'u': 'x'}), "a teacher called 'u'"),
        (['soft.py'], dict(iters=5), '--iters: this training is counted in epochs'),
        (['empty.py'], {}, 'neither a config nor a recipe'),
    ],
)
def test_rows_that_are_refused(
    files: Path, others: list[str], settings: dict[str, Any], message: str
) -> None:
    (files / 'empty.py').write_text('a = 1\n')
    paths = [re.sub(r'([\w.]+)$', lambda m: str(files / m[1]), o) for o in others]
    with pytest.raises(ConfigError) as caught:
        read_rows(str(files / 'alone.py'), paths, options_of(files, **settings))
    assert message in caught.value.message


def test_the_base_is_the_student_alone(files: Path) -> None:
    configs_of(files)['soft'].dump(files / 'taught.py')
    for name in ('taught.py', 'soft.py'):
        with pytest.raises(ConfigError, match='not the student alone'):
            read_rows(str(files / name), [], options_of(files))
