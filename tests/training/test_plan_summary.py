"""The log of a training says in a few lines who teaches whom what."""

from __future__ import annotations

import plans
from mkd_det.config_files.reading import read_config
from mkd_det.training.plan_summary import summarize_plan


def test_the_plan_has_a_line_for_each_teacher_and_term() -> None:
    recipe = read_config('mkd_det::_base_/recipes/mkd_dense.py').recipe.to_dict()
    recipe['terms']['loss_relation']['weight'] = 0
    model = plans.build(**recipe)
    plain = sum(p.numel() for p in plans.tiny.build(plans.SMALL).parameters())
    lines = summarize_plan(model).splitlines()
    assert lines[1] == f'  student GFL, {plain / 1e6:.2f} M parameters'
    assert lines[2].startswith('  teacher t GFL, ') and 'random weights' in lines[2]
    assert lines[5] == '  loss_soft SoftOutputKD: head <- t.head, weight 0.15'
    assert [line.split()[0] for line in lines[3:6]] == [
        'loss_attention', 'loss_feature', 'loss_soft'
    ]  # fmt: skip
    assert lines[6].startswith('  off: ') and 'loss_relation' in lines[6]


def test_a_balance_says_where_it_measures() -> None:
    balance = dict(type='GradientShare', shares=dict(loss_attention=1.0))
    model = plans.build(balance=balance)
    (line,) = (one for one in summarize_plan(model).splitlines() if 'balance' in one)
    assert 'gradients on backbone' in line and 'frozen' not in line
    model.student.backbone.requires_grad_(False)
    (line,) = (one for one in summarize_plan(model).splitlines() if 'balance' in one)
    assert line.endswith('backbone is frozen, so on neck')
