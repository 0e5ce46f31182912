"""What objects change from one iteration to the next is state, and is put back."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from torch import nn

from mkd_det.training.carried_state import (
    changed_attributes,
    container_sizes,
    named_transforms,
    read_attributes,
    write_attributes,
)


class Drawn(nn.Module):
    """Keeps a size, a history, and what is no plain type."""

    def __init__(self) -> None:
        super().__init__()
        self._size: Any = (64, 64)
        self.history: list[float] = []
        self.constant = 3
        self.layer = nn.Linear(1, 1)
        self.other = object()


def test_what_has_changed_is_saved_and_put_back() -> None:
    model = nn.Sequential(Drawn(), nn.ReLU())
    before = read_attributes(dict(model.named_modules()))
    assert (
        changed_attributes(before, read_attributes(dict(model.named_modules()))) == {}
    )
    model[0]._size = (np.int64(32), 96)
    model[0].history.append(0.5)
    model.train(False)
    now = read_attributes(dict(model.named_modules()))
    changed = changed_attributes(before, now)
    assert changed == {'0': dict(_size=(32, 96), history=[0.5])}
    fresh = nn.Sequential(Drawn(), nn.ReLU())
    write_attributes(
        dict(fresh.named_modules()),
        {**changed, 'gone': dict(a=1), '1': dict(unknown=2)},
    )
    assert (fresh[0]._size, fresh[0].history) == ((32, 96), [0.5])
    assert not hasattr(fresh[1], 'unknown')
    write_attributes(dict(fresh.named_modules()), None)  # of an earlier version


def test_a_number_that_is_none_does_not_change() -> None:
    one = Drawn()
    one.constant = float('nan')  # type: ignore[assignment]
    attributes = read_attributes({'': one})
    assert changed_attributes(attributes, read_attributes({'': one})) == {}


def test_caches_of_transforms_have_a_size() -> None:
    class Cached:
        def __init__(self) -> None:
            self.results: Any = deque([dict(img=1)])
            self.names = ['a']

    transforms = named_transforms([Cached()])
    assert container_sizes(transforms) == {'Cached.results': 1}
