"""The losses of one step, by name, with the part of the config that each is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..weighting.gradient_share import TASK

# Logged and not trained on: losses and statistics whose name begins with it.
STATISTIC = 'stat_'
# Origin of the zero loss that gives idle modules a gradient.
IDLE = 'idle'


class StepLosses(dict[str, Any]):
    """Losses and statistics of one step, by name.

    Args:
        task: The student's own losses.

    Attributes:
        origins: The term, adapter or branch of each loss that is not the student's.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        super().__init__(task)
        self.origins: dict[str, str] = {}

    def add(self, name: str, value: Tensor, origin: str) -> None:
        """Add a loss; never in the place of another one.

        Args:
            name: Its name.
            value: A scalar.
            origin: The term, adapter or branch it comes from.

        Raises:
            ConfigError: The name is taken.
        """
        if name in self:
            raise ConfigError(
                f'two losses are called {name!r}',
                available=sorted(self),
                fix='another name for the term, adapter or branch: the student has'
                ' losses of its own, and a term has one for each of its parts',
            )
        self[name], self.origins[name] = value, origin

    def add_means(self, weights: Sequence[float], parts: Sequence[StepLosses]) -> None:
        """Add the losses of groups of images: means over the groups that have them.

        Args:
            weights: Weight of each group; the factor of a single one.
            parts: Losses of adapters, branches and terms of each group.
        """
        for name in dict.fromkeys(name for part in parts for name in part):
            having = [(w, p) for w, p in zip(weights, parts, strict=True) if name in p]
            total = sum(w for w, _ in having) if len(parts) > 1 else 1.0
            values = [
                p[name] if w == total else p[name] * (w / total) for w, p in having
            ]
            self.add(name, sum(values[1:], values[0]), having[0][1].origins[name])

    def totals(self) -> dict[str, Tensor]:
        """Sum the losses by origin; the student's own as 'task'."""
        parts: dict[str, list[Tensor]] = {}
        for name, value in self.items():
            if 'loss' in name and not name.startswith(STATISTIC):
                values = value if isinstance(value, list) else [value]
                part = parts.setdefault(self.origins.get(name, TASK), [])
                part += [v.mean() for v in values]
        parts.pop(IDLE, None)
        return {name: torch.stack(values).sum() for name, values in parts.items()}
