"""Settings that no comparison can have."""

from __future__ import annotations

from typing import Any

import pytest

from mkd_det.errors import ConfigError
from mkd_det.experiments.comparison.options import ComparisonOptions


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(seeds=[1, 2, 1]), '--seeds: 1 is given twice'),
        (dict(seeds=[-1]), '--seeds must be'),
        (dict(seeds=[]), '--seeds must be'),
        (dict(epochs=0), '--epochs must be at least 1'),
        (dict(epochs=1, iters=1), 'cannot both'),
        (dict(least_gain=-1.0), '--least must be'),
        (dict(resamples=1), '--resamples must be'),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ComparisonOptions(**settings)


def test_teachers_must_be_there() -> None:
    ComparisonOptions(teachers={'t': 'https://x.org/t.pth'}).check_teacher_files()
    with pytest.raises(ConfigError, match='--teacher') as caught:
        ComparisonOptions(teachers={'t': 'gone.pth'}).check_teacher_files()
    assert caught.value.actual == 'gone.pth'
