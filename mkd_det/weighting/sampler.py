"""Which teachers take part in a step (stochastic teaching)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ..errors import ConfigError, check_keys, is_number, is_integer


class SourceSampler:
    """Picks the active teachers of each iteration.

    The pick depends on (seed, iteration) alone: it is equal on all ranks, and a
    resumed run picks what the killed one would have. Never picks none.

    Densely Guided Knowledge Distillation (Son et al., ICCV 2021,
    arXiv 2009.08825): the paper keeps each source with probability p (0.75 was
    best); its published code drops exactly one. Both are here.

    Args:
        names: Teachers to pick from.
        keep_prob: Keep each source with this probability, in (0, 1].
        drop_exact: Drop exactly so many instead.
        seed: Seed of the picks.
        always: Teachers that are never dropped.
        copies: Teachers that come and go with another one, whose pruned copies they
            are, and that one's name.
    """

    def __init__(
        self,
        names: Sequence[str],
        keep_prob: float = 1.0,
        drop_exact: int = 0,
        seed: int = 0,
        always: Sequence[str] = (),
        copies: Mapping[str, str] | None = None,
    ) -> None:
        if not is_integer(drop_exact) or not is_integer(seed):
            raise ConfigError(
                'sampling: drop_exact and seed must be whole numbers',
                actual=(drop_exact, seed),
            )
        if not is_number(keep_prob) or not 0 < keep_prob <= 1:
            raise ConfigError(
                'sampling: keep_prob must be above 0 and at most 1', actual=keep_prob
            )
        if drop_exact and keep_prob < 1:
            raise ConfigError('sampling: give keep_prob or drop_exact, not both')
        always = [always] if isinstance(always, str) else list(always)
        check_keys(always, names, 'sampling.always')
        self.names, self.copies = tuple(names), dict(copies or {})
        self.always = frozenset(always)
        self.droppable = tuple(name for name in names if name not in self.always)
        most = len(self.droppable) - (not self.always)
        if names and not 0 <= drop_exact <= most:
            raise ConfigError(
                'sampling: drop_exact must leave at least one teacher, and those of'
                ' `always`',
                expected=f'from 0 to {most}',
                actual=drop_exact,
            )
        self.keep_prob, self.drop_exact, self.seed = keep_prob, drop_exact, seed

    def pick(self, iteration: int) -> frozenset[str]:
        """Names of the teachers that take part in `iteration`."""
        picked = self._pick(iteration) if self.names else frozenset()
        return picked.union(c for c, source in self.copies.items() if source in picked)

    def _pick(self, iteration: int) -> frozenset[str]:
        if not self.drop_exact and self.keep_prob == 1:
            return frozenset(self.names)
        draw = random.Random(f'{self.seed}/{iteration}')
        if self.drop_exact:
            kept = draw.sample(self.droppable, len(self.droppable) - self.drop_exact)
        else:
            kept = [name for name in self.droppable if draw.random() < self.keep_prob]
        return self.always.union(kept) or frozenset([draw.choice(self.names)])
