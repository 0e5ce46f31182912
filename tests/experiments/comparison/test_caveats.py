"""Differences from the base beyond how the student is taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from comparisons import changed, configs_of
from mkd_det.config_files.reading import read_config
from mkd_det.experiments.comparison.caveats import (
    InitialStudent,
    find_caveats,
    initial_student,
)
from mkd_det.experiments.comparison.options import ComparisonOptions
from mkd_det.experiments.comparison.rows import read_rows


def caveats(cfg: Config, base: Config) -> list[str]:
    students = {0: (initial_student(cfg, 0), initial_student(base, 0))}
    return find_caveats(cfg, base, students)


def test_the_student_has_the_same_initial_weights_with_a_teacher(files: Path) -> None:
    made = configs_of(files)
    assert initial_student(made['soft'], 3) == initial_student(made['alone'], 3)
    assert initial_student(made['alone'], 3) != initial_student(made['alone'], 4)
    assert caveats(made['soft'], made['alone']) == []


def test_branches_do_not_make_another_student(
    teacher_file: Path, teacher_cfg: dict, student_cfg: dict
) -> None:
    recipe = read_config('mkd_det::_base_/recipes/mkd_dense.py').recipe
    taught = dict(
        type='Distiller',
        student=student_cfg,
        teachers=dict(t=dict(cfg=teacher_cfg, checkpoint=str(teacher_file))),
        probe_size=64,
        **recipe,
    )
    alone = initial_student(Config(dict(model=student_cfg)), 1)
    assert initial_student(Config(dict(model=taught)), 1) == alone


def test_scopes_and_observing_hooks_make_no_difference(tmp_path: Path) -> None:
    base, other = 'mkd_det::bccd/gfl_r18-w16_bccd.py', tmp_path / 'other.py'
    other.write_text(
        f"_base_ = ['{base}']\ncustom_hooks = [dict(type='GradientShareHook')]\n"
    )
    alone, row = read_rows(base, [str(other)], ComparisonOptions())
    assert '_scope_' in row.cfg.pretty_text
    students = {0: (InitialStudent('a', 'x', 1),) * 2}
    assert find_caveats(row.cfg, alone.cfg, students) == []


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(optim_wrapper__optimizer__lr=0.2), 'lr 0.2, the base has 0.05'),
        (dict(train_dataloader__batch_size=3), 'another batch size'),
        (dict(train_cfg__max_epochs=3), 'another schedule: train_cfg.max_epochs 3'),
        (dict(model__backbone__base_channels=8), 'another student: '),
        (dict(train_dataloader__dataset__label_noise=0.5), 'other training data'),
        (dict(load_from='x.pth'), 'other initial weights: load_from'),
        (dict(param_scheduler=[dict(type='LinearLR')]), 'param_scheduler.0'),
        (dict(val_evaluator__topk=[1]), 'another validation'),
        (dict(default_hooks__ema=dict(type='EMAHook')), 'other hooks'),
        (dict(randomness__deterministic=True), 'other randomness'),
        (dict(model__data_preprocessor__mean=[0, 0, 0]), 'settings of the student'),
    ],
)
def test_other_differences_are_found(
    files: Path, settings: dict[str, Any], words: str
) -> None:
    other = changed(files, 'other', **settings)
    base, row = read_rows(str(files / 'alone.py'), [other], ComparisonOptions())
    (caveat,) = caveats(row.cfg, base.cfg)
    assert words in caveat


def test_inherited_and_other_weights() -> None:
    plain = Config(dict(model=dict(type='X')))
    inherit = dict(teacher='t', modules=['neck', 'bbox_head'])
    model = dict(type='Distiller', student=dict(type='X'), inherit=inherit)
    unequal = {0: (InitialStudent('a', 'x', 1), InitialStudent('a', 'y', 1))}
    assert find_caveats(Config(dict(model=model)), plain, unequal) == [
        'inherited weights: neck, bbox_head from teacher t'
    ]
    assert find_caveats(plain, plain, unequal) == [
        'the student has other initial weights (seeds 0)'
    ]
