"""Tables and figures of chains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mkd_det.errors import ConfigError
from mkd_det.experiments.chain.report import (
    chain_labels,
    draw_sizes,
    read_other_chains,
    results_table,
)


def result(name: str, params: int, **more: Any) -> dict[str, Any]:
    row = dict(name=name, params=params, metric='top1', top1=50.0, guides=[])
    return {**row, 'seconds': 9.0, 'command': 'python x', **more}


RESULTS = [result('t', 10**6, command='given'), result('s', 10**5, guides=['t'])]


def test_labels_of_folders_are_unique(tmp_path: Path) -> None:
    found = chain_labels([tmp_path / 'x' / 'c', tmp_path / 'y' / 'c', tmp_path / 'b'])
    assert len(set(found)) == 3 and found[2] == 'b'


def test_the_table_has_a_line_for_each_member() -> None:
    columns = [list(column.cells) for column in results_table(RESULTS).columns]
    assert columns[0] == ['t', 's'] and columns[1] == ['1.00 M', '0.10 M']
    assert columns[3] == ['given', '9'] and columns[4] == ['-', 't']


def test_the_figure_shows_several_chains(tmp_path: Path) -> None:
    draw_sizes(dict(one=RESULTS, two=RESULTS), tmp_path / 'chain.png', 'top1')
    assert (tmp_path / 'chain.png').stat().st_size > 1000


def test_other_chains_must_be_finished_and_have_the_same_metric(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='no finished chain'):
        read_other_chains([tmp_path], 'top1')
    (tmp_path / 'chain.json').write_text(json.dumps(RESULTS))
    assert read_other_chains([tmp_path], 'top1') == {tmp_path.resolve(): RESULTS}
    with pytest.raises(ConfigError, match='another metric') as caught:
        read_other_chains([tmp_path], 'top2')
    assert (caught.value.expected, caught.value.actual) == ('top2', 'top1')
