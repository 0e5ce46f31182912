"""How fast teachers run: the ratio of a distilled step to its parts."""

from __future__ import annotations

from collections.abc import Iterator

from ..examination import Examination
from ..finding import OK, WARNING, Finding
from ..timing import configured_speed, measured_times, ratio

POSITION = 130
SLOW = True
# Factor by which another speed must be faster to be worth a word.
FASTER = 1.15


def check(case: Examination) -> Iterator[Finding]:
    """Compare steps at each speed of the teachers, measured in turns."""
    times = measured_times(case)
    chosen = configured_speed(case)
    off = times.seconds['K off']
    ratios = {n[2:]: ratio(s, off) for n, s in times.seconds.items() if n[:2] == 'K '}
    plain = ratio(times.seconds[f'K {chosen}'], times.seconds['S'])
    fastest = min(ratios, key=lambda name: ratios[name])
    if ratios[chosen] > FASTER * ratios[fastest]:
        yield Finding(
            'speed',
            WARNING,
            f'a step takes {ratios[chosen] / ratios[fastest]:.2f} times as long at'
            f' speed {chosen!r} of the teachers as at {fastest!r}',
            ' '.join(
                f'model.teachers.{n}.speed={fastest}' for n in case.model.teachers
            ),
        )
    words = ', '.join(f'{name} {value:.2f}' for name, value in ratios.items())
    yield Finding(
        'speed',
        OK,
        f'a step takes {plain:.2f} times as long as without distillation (at speed'
        f' {chosen!r}); with teachers at speed off = 1: {words}',
    )
