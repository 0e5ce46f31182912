"""A checkpoint fits a model wholly, or nothing of it is loaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mkd_det.errors import CheckpointKeysError
from mkd_det.io.checkpoint import compare_state_dicts, load_state_dict_strict


def norm() -> nn.Module:
    return nn.BatchNorm2d(2)


@pytest.mark.parametrize('change', ['lost', 'added'])
def test_counters_that_nothing_reads_do_not_matter(change: str) -> None:
    model, weights = norm(), norm().state_dict()
    if change == 'lost':
        del weights['num_batches_tracked']
    else:
        weights['more.num_batches_tracked'] = torch.tensor(1)
    weights['weight'] += 1
    load_state_dict_strict(model, weights, 'x.pth', 'the model')
    assert model.weight.tolist() == [2, 2]


def test_what_does_not_fit_is_told_and_nothing_is_loaded() -> None:
    model, weights = norm(), norm().state_dict()
    weights['wait'] = weights.pop('weight')
    weights['bias'] = torch.ones(3)
    assert compare_state_dicts(model.state_dict(), weights) == (
        ['weight'],
        ['wait'],
        ['bias: (3,) instead of (2,)'],
    )
    with pytest.raises(CheckpointKeysError, match='1 keys missing, 1 unexpected'):
        load_state_dict_strict(model, weights, 'x.pth', 'the model')
    assert model.bias.tolist() == [0, 0]
