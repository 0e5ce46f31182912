"""Pick the teachers that take part in a step (stochastic teaching)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ..config import SamplingConfig
from ..errors import ConfigError, check_keys


class TeacherSampler:
    """Picks the active teachers of each iteration.

    The pick depends on (seed, iteration) alone: it is equal on all ranks, and a
    resumed run picks what the killed one would have. It is never empty.

    Densely Guided Knowledge Distillation (Son et al., ICCV 2021,
    arXiv 2009.08825): the paper keeps each teacher with probability p (0.75 was
    best); its published code drops exactly one. Both are here.

    Args:
        names: Teachers to pick from.
        config: How to pick.
        copies: By name of each pruned copy, the teacher that it is made of: the copy
            takes part when that teacher does.

    Raises:
        ConfigError: `always` names no teacher, or no teacher would be left.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: SamplingConfig | None = None,
        copies: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config or SamplingConfig()
        self.names, self.copies = tuple(names), dict(copies or {})
        check_keys(self.config.always, names, 'sampling.always')
        self.always = frozenset(self.config.always)
        self.droppable = tuple(name for name in names if name not in self.always)
        most = len(self.droppable) - (not self.always)
        if names and self.config.drop_exact > most:
            raise ConfigError(
                'sampling: drop_exact must leave at least one teacher, and those of'
                ' `always`',
                expected=f'from 0 to {most}',
                actual=self.config.drop_exact,
            )

    def pick(self, iteration: int) -> frozenset[str]:
        """Return the names of the teachers that take part in `iteration`."""
        picked = self._pick(iteration) if self.names else frozenset()
        return picked.union(c for c, source in self.copies.items() if source in picked)

    def _pick(self, iteration: int) -> frozenset[str]:
        keep_prob, drop_exact = self.config.keep_prob, self.config.drop_exact
        if not drop_exact and keep_prob == 1:
            return frozenset(self.names)
        draw = random.Random(f'{self.config.seed}/{iteration}')
        if drop_exact:
            kept = draw.sample(self.droppable, len(self.droppable) - drop_exact)
        else:
            kept = [name for name in self.droppable if draw.random() < keep_prob]
        return self.always.union(kept) or frozenset([draw.choice(self.names)])
