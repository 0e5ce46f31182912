"""Runs trainings one after another, or side by side on several devices."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, current_thread, main_thread
from typing import TypeVar

Job = TypeVar('Job')
Out = TypeVar('Out')
# Gets a job, environment variables that name its device, and what tells it to stop.
Run = Callable[[Job, Mapping[str, str], Event], Out]


def run_together(
    jobs: Sequence[Job], devices: Sequence[str], run: Run[Job, Out]
) -> list[Out]:
    """Run all, as many at a time as there are devices.

    Args:
        jobs: What is to be done, in this order.
        devices: Numbers of GPUs, or 'cpu'; '' for whatever there is.
        run: Does a job.

    Returns:
        What came of each.

    Raises:
        BaseException: The first error; all others are stopped. What was stopped
            because another one failed is no news.
        KeyboardInterrupt: All were stopped, by Ctrl-C or by SIGTERM.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    stop = Event()

    def one(job: Job) -> Out:
        device = free.get()
        try:
            if stop.is_set():
                raise KeyboardInterrupt
            return run(job, environment_of(device), stop)
        except BaseException:
            stop.set()  # the others, too
            raise
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        waiting = [pool.submit(one, job) for job in jobs]
        try:
            with _ended_as_interrupted():
                wait(waiting)
        except BaseException:
            stop.set()
            raise
    errors = [error for error in map(Future.exception, waiting) if error]
    errors.sort(key=lambda error: isinstance(error, KeyboardInterrupt))
    if errors:
        raise errors[0]
    return [future.result() for future in waiting]


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, which clusters send when a job's time is over, act as Ctrl-C."""
    if current_thread() is not main_thread():  # only there are signals handled
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def environment_of(device: str) -> dict[str, str]:
    """Environment variables that let a process see one device."""
    if device == '':
        return {}
    return {'CUDA_VISIBLE_DEVICES': '' if device == 'cpu' else device}
