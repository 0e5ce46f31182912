"""Calibrates a distill config: from shares to fixed weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

from mmengine.config import Config

from ...config import DistillConfig
from ...errors import ConfigError, ExperimentError, is_number, nearest_names
from ...preflight.checks import check_amp
from ...registry import LOSSES, arguments_with_defaults, find_class
from ...training.runtime import check_is_distill
from ...weighting.gradient_share import shares_of
from .measure import Wanted, measure_factors


@dataclass(frozen=True)
class Settings:
    """How to calibrate.

    Args:
        iters: Length of the training that is measured, in iterations. A shorter
            training is measured as far as it goes.
        interval: Iterations between measurements; each costs one backward pass for
            each term.
        on: Module of the student whose parameters count.
        seed: Seed of the training; the config's by default, or 0.

    Raises:
        ConfigError: A value is not possible.
    """

    iters: int = 200
    interval: int = 4
    on: str = 'backbone'
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ('iters', 'interval'):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f'--{name} must be at least 1', actual=getattr(self, name)
                )


@dataclass(frozen=True)
class CalibratedTerm:
    """What calibration found of one term.

    Args:
        share: The share that it is to have.
        measured: Its share with a weight of 1: the geometric mean.
        low: Lower quartile of that.
        high: Upper quartile of that.
        before: The weight in the config.
        weight: The weight that gives the share.
    """

    share: float
    measured: float
    low: float
    high: float
    before: float
    weight: float


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Args:
        terms: What was found, by name of the term.
        kept: Weights of terms that have no share, and stay as they are.
        on: Module of the student whose parameters counted.
        iters: Iterations that were trained.
        measurements: How many of them were measured and count.
        seed: Seed of the training.
    """

    terms: dict[str, CalibratedTerm]
    kept: dict[str, float]
    on: str
    iters: int
    measurements: int
    seed: int

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each calibrated term."""
        return {name: term.weight for name, term in self.terms.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for json."""
        return asdict(self)


def calibrate(
    cfg: Config,
    shares: Mapping[str, float] | None = None,
    settings: Settings | None = None,
) -> Calibration:
    """Find the weights at which the terms of a config have their shares.

    A share is how hard a term pulls on the student, as a fraction of the task's
    gradient. The student is trained for some iterations with all terms at their shares,
    and the weight that this takes is measured again and again. Fixed to the geometric
    mean of what was measured after the first quarter, where a training warms up, it
    needs no more measurements.

    Args:
        cfg: A distill config, as `load_config` reads it. It is not changed.
        shares: Shares by term. They come over those that the config gives: the `share`
            of a term, or `balance.shares`.
        settings: How to calibrate.

    Returns:
        The weights; `apply_weights` puts them into a config, `write_calibrated` into a
        file.

    Raises:
        MkdError: The config cannot be trained, no term has a share, or a term has no
            gradient.
    """
    settings = settings or Settings()
    check_is_distill(cfg)
    check_amp(cfg)
    distill = DistillConfig.parse(
        {k: v for k, v in cfg.model.items() if k not in ('type', 'student')},
        cfg.model.get('student'),
    )
    asked = asked_shares(distill, shares or {})
    weights = {name: _weight(name, term) for name, term in distill.terms.items()}
    cfg = deepcopy(cfg)
    seed = (cfg.get('randomness') or {}).get('seed')
    seed = (0 if seed is None else seed) if settings.seed is None else settings.seed
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
    found = measure_factors(cfg, asked, settings.on, settings.iters, settings.interval)
    # What a pair has not (masks, say) is in no plan, though a recipe has it.
    asked = {name: share for name, share in asked.items() if name in found.terms}
    if not asked:
        raise _no_share(found.terms)
    counted = {i: w for i, w in found.wanted.items() if 4 * i >= found.iters}
    return Calibration(
        terms={
            name: _calibrated(name, share, weights[name], counted, found.on)
            for name, share in asked.items()
        },
        kept={name: weights[name] for name in found.terms if name not in asked},
        on=found.on,
        iters=found.iters,
        measurements=len(counted),
        seed=seed,
    )


def asked_shares(
    distill: DistillConfig, given: Mapping[str, float]
) -> dict[str, float]:
    """Return the share of each term that is on and has one.

    Args:
        distill: The settings of the distillation.
        given: Shares that come over those of the config.

    Raises:
        ConfigError: A share is for no term or no number above 0, or there is none.
    """
    for name, share in given.items():
        if name not in distill.terms:
            raise ConfigError(
                '--shares: there is no such term',
                actual=name,
                available=nearest_names(name, list(distill.terms), limit=8),
            )
        if not (is_number(share) and 0 < share < math.inf):
            raise ConfigError(
                f'--shares: the share of {name} must be a number above 0',
                actual=repr(share),
                fix=f'--shares {name}=0.5',
            )
    balance = distill.balance.arguments.get('shares') if distill.balance else None
    if is_number(balance):
        balance = dict.fromkeys(distill.terms, balance)
    known = {**shares_of(distill.terms), **(balance or {}), **given}
    on = [name for name, term in distill.terms.items() if term.weight != 0]
    asked = {name: known[name] for name in on if name in known}
    if not asked:
        raise _no_share(on)
    return asked


def _no_share(terms: Sequence[str]) -> ConfigError:
    return ConfigError(
        'no term has a share to calibrate it to',
        expected=f'a share for one of {", ".join(terms) or "the terms"}',
        fix='--shares '
        + ' '.join(f'{name}=1.0' for name in terms[:3])
        + '; or share=1.0 in the term',
    )


def _weight(name: str, term: Any) -> float:
    """Return the weight of a term, which may be the default of its loss."""
    given = term.to_build()
    found = arguments_with_defaults(find_class(LOSSES, given, name), given)
    return float(found.get('weight', 1.0))


def _calibrated(
    name: str, share: float, before: float, wanted: Wanted, on: str
) -> CalibratedTerm:
    """Return the weight of one term.

    Args:
        name: Its name.
        share: The share that it is to have.
        before: Its weight in the config.
        wanted: Factors at which terms had their share, by iteration.
        on: Module whose parameters counted.

    Raises:
        ExperimentError: It never had a gradient there.
    """
    factors = [found[name] for found in wanted.values() if name in found]
    known = sorted(f for f in factors if math.isfinite(f) and f > 0)
    if not known:
        raise ExperimentError(
            f'{name} cannot be calibrated: it never had a gradient on {on}',
            expected=f'a term that reaches the parameters of {on}',
            actual=f'{len(factors)} measurements in which it took part',
            fix=f'--on neck, or another module that {name} reaches; or more --iters,'
            ' for a term that seldom takes part',
        )
    factor = math.exp(math.fsum(map(math.log, known)) / len(known))
    low, _, high = quantiles(known, n=4, method='inclusive') if known[1:] else known * 3
    per_weight = share / before
    return CalibratedTerm(
        share=share,
        measured=per_weight / factor,
        low=per_weight / high,
        high=per_weight / low,
        before=before,
        weight=float(f'{before * factor:.4g}'),
    )
