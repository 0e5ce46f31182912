"""Progress in lines, where there is no terminal."""

from __future__ import annotations

import re
import time

import pytest

from mkd_det.experiments.runs import LineDisplay, make_display


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture) -> None:
    assert isinstance(make_display(1, 'demo'), LineDisplay)
    with LineDisplay(2, every=0.0) as display:
        tracker = display.start('teacher', 10, 'iterations')
        tracker.update(0)
        tracker.update(4, 'loss 2.00')
        tracker.update(5, 'loss 1.00')
        tracker.finish('mAP 0.500')
    text = capsys.readouterr().out
    assert '[1/2] teacher: 10 iterations' in text
    assert re.search(r'teacher: 5/10 iterations, about \d+ s left, loss 1.00', text)
    assert text.splitlines()[-1] == '[1/2] teacher: mAP 0.500'


def test_lines_are_printed_from_time_to_time(capsys: pytest.CaptureFixture) -> None:
    tracker = LineDisplay(2, every=60.0).start('student', 10, 'iterations')
    capsys.readouterr()
    tracker.update(5)
    assert capsys.readouterr().out == ''


def test_the_time_left_falls_while_the_log_has_nothing_new(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 11.0, 13.0, 15.0, 90.0])
    monkeypatch.setattr(time, 'monotonic', lambda: next(clock))
    tracker = LineDisplay(1, every=0.0).start('teacher', 10, 'iterations')
    for done in (1, 6, 6, 6, 6):
        tracker.update(done)
    left = re.findall(r'about (\d+) s left', capsys.readouterr().out)
    assert left == ['8', '6', '4', '0']
