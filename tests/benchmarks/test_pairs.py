"""The table of families and recipes says what the plans say."""

from __future__ import annotations

from typing import Any

import pairs
import pytest

import tiny


@pytest.fixture(scope='module')
def planned() -> dict[str, Any]:
    return pairs.plan_family(tiny.gfl())


def test_a_gfl_works_with_the_recipes_of_dense_heads_and_is_0_at_itself(
    planned: dict[str, Any],
) -> None:
    assert {'soft_dense', 'mkd_dense', 'ld_dense', 'pkd_dense'} <= set(planned)
    assert not any(name.endswith(('query', 'stage')) for name in planned)
    assert all(result['works'] for result in planned.values())
    assert planned['mgd_dense']['value'] is None, 'all behind a trained adapter'
    values = [r['value'] for r in planned.values() if r['value'] is not None]
    assert len(values) > 5 and max(values) < 1e-4


def test_the_page_has_what_works_and_what_is_refused(planned: dict[str, Any]) -> None:
    refused = dict(works=False, error='HeadKindError', why='term: no boxes', fix='')
    results = {
        'a/a_r50': dict(recipes=planned),
        'b/b_r50': dict(recipes=dict(soft_dense=refused)),
        'c/c_r50': dict(error='ImportError: clip'),
    }
    page = pairs.table(results)
    (row,) = [line for line in page.splitlines() if line.startswith('| `a/a_r50`')]
    assert '`soft_dense`' in row and 'no boxes' not in row
    assert '| `b/b_r50` |  |  | `soft_dense`: term: no boxes |' in page
    assert '2 families, 1 with at least one recipe' in page
    assert 'Not built here: `c/c_r50` (ImportError: clip)' in page


def test_detectors_of_equal_heads_are_one_family() -> None:
    first, wider = tiny.gfl(), tiny.gfl(16, 32)
    assert pairs._kind(first) == pairs._kind(wider) != pairs._kind(tiny.atss())
    assert pairs._kind(tiny.cascade_rcnn()) != pairs._kind(tiny.faster_rcnn())
