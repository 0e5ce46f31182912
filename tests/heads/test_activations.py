"""What plain class logits are for is read from the loss of their head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from mmdet.models.losses import CrossEntropyLoss, DiceLoss, FocalLoss
from mmdet.registry import MODELS
from mmengine.model import BaseModel
from torch import Tensor, nn

import plans
from mkd_det.errors import HeadKindError
from mkd_det.heads.activations import activation_at


class Head(nn.Module):
    """A classifier's head, with its loss where mmpretrain has it."""

    def __init__(self, loss: nn.Module, name: str = 'loss_module') -> None:
        super().__init__()
        self.fc = nn.Linear(8, 5)
        self.add_module(name, loss)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Labelling(BaseModel):
    """A classifier of independent or of exclusive classes."""

    def __init__(self, sigmoid: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.head = Head(CrossEntropyLoss(use_sigmoid=sigmoid))

    def forward(self, inputs: Tensor, samples: Any = None, mode: str = 'tensor') -> Any:
        out = self.head(self.stem(inputs).mean((2, 3)))
        return {'loss': out.sum()} if mode == 'loss' else out


@pytest.fixture
def _known() -> Iterator[None]:
    MODELS.register_module(module=Labelling, force=True)
    yield
    MODELS.module_dict.pop('Labelling')


@pytest.mark.parametrize(
    'loss, found',
    [
        (CrossEntropyLoss(), 'softmax'),
        (CrossEntropyLoss(use_sigmoid=True), 'sigmoid'),
        (FocalLoss(), 'sigmoid'),
        (nn.BCEWithLogitsLoss(), 'sigmoid'),
        (nn.CrossEntropyLoss(), 'softmax'),
        (nn.ModuleList([DiceLoss(), CrossEntropyLoss()]), 'softmax'),
        (nn.MSELoss(), None),
    ],
)
@pytest.mark.parametrize('name', ['loss_module', 'loss_decode', 'loss_cls'])
def test_the_loss_of_the_nearest_head_says_it(
    loss: nn.Module, found: str | None, name: str
) -> None:
    model = nn.Sequential(Head(loss, name))
    assert activation_at(model, '0') == activation_at(model, '0.fc') == found
    assert activation_at(nn.Sequential(nn.Linear(1, 1)), '0') is None


@pytest.mark.usefixtures('_known')
def test_independent_classes_are_compared_one_by_one() -> None:
    def planned(student: bool, teacher: bool, loss: str) -> Any:
        sides = (dict(type='Labelling', sigmoid=side) for side in (student, teacher))
        parts = dict(taps=dict(logits='head'), adapters={}, branches={}, probe_size=32)
        terms = plans.term(loss, 'logits', 't.logits')
        return plans.build(*sides, terms=terms, **parts).plan.terms['loss_x'].loss

    assert planned(True, True, 'SoftOutputKD').classes == 'sigmoid'
    assert planned(False, False, 'SoftOutputKD').classes != 'sigmoid'
    assert planned(False, False, 'DIST')
    with pytest.raises(HeadKindError, match='different activations'):
        planned(True, False, 'SoftOutputKD')
    with pytest.raises(HeadKindError, match='exclusive classes') as caught:
        planned(True, True, 'DIST')
    assert 'SoftOutputKD' in caught.value.fix
