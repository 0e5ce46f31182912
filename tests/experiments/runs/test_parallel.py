"""Items processed on several devices."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from threading import Barrier, Event

import pytest
from mmengine.logging import MMLogger
from mmengine.utils import manager

from mkd_det.experiments.runs import run_in_parallel


def test_as_many_items_run_at_once_as_there_are_devices() -> None:
    both = Barrier(2, timeout=20)

    def work(item: int, environment: Mapping[str, str], stop: Event) -> tuple:
        both.wait()
        return item, environment['CUDA_VISIBLE_DEVICES']

    found = run_in_parallel([1, 2, 3, 4], ['0', 'cpu'], work)
    assert [item for item, _ in found] == [1, 2, 3, 4]
    assert {device for _, device in found} == {'0', ''}


def test_the_default_device_changes_nothing() -> None:
    assert run_in_parallel([1], [''], lambda item, env, stop: dict(env)) == [{}]


@pytest.mark.parametrize('order', ['ab', 'ba'])
def test_an_error_stops_the_others_and_is_raised_itself(order: str) -> None:
    begun = Event()

    def work(item: str, environment: Mapping[str, str], stop: Event) -> None:
        if item == 'b':
            begun.wait(20)
            raise ValueError('b has failed')
        begun.set()
        assert stop.wait(20), 'nobody stopped it'
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match='b has failed'):
        run_in_parallel(list(order), ['', ''], work)


def test_sigterm_stops_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    finished = []

    def work(item: int, environment: Mapping[str, str], stop: Event) -> None:
        if item == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(20), 'nobody stopped it'
            raise KeyboardInterrupt
        finished.append(item)

    with pytest.raises(KeyboardInterrupt):
        run_in_parallel([1, 2, 3], [''], work)
    assert finished == [1]
    assert signal.getsignal(signal.SIGTERM) is before


def test_threads_do_not_wait_for_a_lock_that_an_error_has_left() -> None:
    """mmengine keeps its lock of named instances after an error inside of it."""
    with pytest.raises(AssertionError):
        MMLogger.get_instance(None)

    def work(item: int, *_: object) -> str:
        assert manager._lock.acquire(timeout=20), 'the lock is held'
        manager._lock.release()
        return MMLogger.get_instance(f'parallel {item}').instance_name

    assert run_in_parallel([1, 2], ['', ''], work) == ['parallel 1', 'parallel 2']
