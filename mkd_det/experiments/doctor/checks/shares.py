"""Each term should pull on the student as hard as it is meant to."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ....distiller.model import Distiller
from ....hooks.gradient_share_hook import GradientShareHook
from ....weighting.gradient_share import shares_of
from ..examination import Examination
from ..finding import OK, WARNING, Finding
from ..steps import training_steps

POSITION = 80
# Factor by which a term may miss its share so early in the training: gradients still
# change by orders of magnitude. `mkd-det calibrate` measures over 200 iterations.
FAR, FAR_UNASKED = 50.0, 5.0


def check(case: Examination) -> Iterator[Finding]:
    """Compare shares of the gradient with those that the config asks for."""
    steps, model = training_steps(case), case.model
    asked = shares_of(model.config.terms)
    usual, where = GradientShareHook(), steps.on or 'the student'
    usual_range = usual.low / FAR_UNASKED, usual.high * FAR_UNASKED
    found = []
    if not steps.shares:
        text = 'the task has no gradient in these steps: nothing to compare with'
        yield Finding('shares', OK, text)
    for name, shares in steps.shares.items():
        known = [share for share in shares if share > 0 and math.isfinite(share)]
        if not known:
            continue  # the check of terms says so, if it is wrong
        share = math.exp(sum(map(math.log, known)) / len(known))
        wish = asked.get(name)
        low, high = (wish / FAR, wish * FAR) if wish else usual_range
        text = f'{name} {share:.2g}' + (f' (asked: {wish:g})' if wish else '')
        found.append(text)
        if low <= share <= high:
            continue
        how = 'hardly pulls' if share < low else 'pulls too hard'
        better = _better_weight(model, name, (wish or 1.0) / share)
        given = '' if wish else f' --shares {name}=1.0'
        yield Finding(
            'shares',
            WARNING,
            f'{name} {how} on {where}: {share:.2g} times as hard as the task'
            + (f', asked for {wish:g}' if wish else ''),
            f'mkd-det calibrate CONFIG{given}{better}',
        )
    if found:
        yield Finding(
            'shares',
            OK,
            f"pull on {where}, in parts of the task's, after"
            f' {case.settings.warmup} steps: {", ".join(found)}',
        )


def _better_weight(model: Distiller, name: str, factor: float) -> str:
    """Return a hint at the weight of a term; '' for what is no term.

    Args:
        model: The distiller.
        name: Name of the term.
        factor: Factor on its weight.
    """
    term = model.plan.terms.get(name)
    if term is None or model.balance is not None:
        return ''
    return f'; by these steps model.terms.{name}.weight={term.loss.weight * factor:.2g}'
