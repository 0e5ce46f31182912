"""The plan in words: for people, and for comparing two runs."""

from __future__ import annotations

import copy
from typing import Any

import tiny
from plans import BIG, SMALL, guide

# -- what people read ------------------------------------------------------------


def test_the_table_prints_every_part() -> None:
    cfg = tiny.distiller(SMALL, BIG)
    cfg['terms']['loss_attention']['weight'] = 0
    model = tiny.build(cfg)
    table = model.plan.table()
    for part in (
        'tap stages',
        'tap t.head',
        'adapter guide',
        'branch explore',
        'term loss_soft',
        'SoftOutputKD: head <- t.head',
        'term loss_attention',
        'off',
    ):
        assert part in table, part
    count = sum(p.numel() for p in model.adapters['guide'].parameters())
    assert f'{count:,}' in table
    assert '4/4 8/8 16/16 32/32' in table
    assert max(map(len, table.splitlines())) <= 110


def test_equal_configs_give_equal_plans_and_others_do_not() -> None:
    def plan(**changes: Any) -> dict[str, str]:
        return tiny.build(tiny.distiller(SMALL, BIG, **changes)).plan.describe()

    first = plan()
    assert plan() == first
    assert all(isinstance(v, str) for v in first.values())
    # Weights and schedules may change when a run is resumed.
    terms = copy.deepcopy(tiny.distiller(SMALL, BIG)['terms'])
    terms['loss_soft'] |= dict(weight=0.3, schedule=dict(stop_epoch=2))
    assert plan(terms=terms) == first
    # Taps, shapes, types and terms may not.
    del terms['loss_attention']
    assert plan(terms=terms) != first
    assert plan(branches={}) != first
    adapters = dict(guide=dict(**guide()['guide'], width=24))
    taps = dict(stages=[f'backbone.layer{i}' for i in (1, 2, 3, 4)], head='bbox_head')
    assert plan(taps=taps) != first
    assert tiny.build(tiny.distiller(SMALL, tiny.gfl(8, 24))).plan.describe() == first
    assert tiny.build(tiny.distiller(SMALL, tiny.gfl(12, 16))).plan.describe() != first
    assert plan(adapters=adapters) != first
