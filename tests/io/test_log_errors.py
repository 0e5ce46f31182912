"""A log on a full disk is told once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mkd_det.io.log_errors import log_errors_in_one_line


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='Linux has it')
def test_a_full_disk_is_told_once(
    capsys: pytest.CaptureFixture,
) -> None:
    logger = logging.Logger('full')
    logger.addHandler(logging.FileHandler('/dev/full'))
    with log_errors_in_one_line():
        for _ in range(12):
            logger.error('a line')
    shown = capsys.readouterr().err
    assert shown == 'The log cannot be written to /dev/full: No space left on device\n'
    logger.error('a line')
    assert 'Traceback' in capsys.readouterr().err, 'outside, logging does as always'
    logger.handlers.clear()


def test_another_error_keeps_its_traceback(capsys: pytest.CaptureFixture) -> None:
    logger = logging.Logger('odd')
    logger.addHandler(logging.StreamHandler())
    with log_errors_in_one_line():
        logger.error('%d numbers', 'no')
    assert 'Traceback' in capsys.readouterr().err
