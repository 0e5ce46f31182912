"""Runs functions one after another, or in parallel on several devices."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, current_thread, main_thread
from typing import TypeVar

from ...utils import release_instance_lock

Item = TypeVar('Item')
Out = TypeVar('Out')
# Gets an item, environment variables that select a device, and a stop event.
Work = Callable[[Item, Mapping[str, str], Event], Out]


def run_in_parallel(
    items: Sequence[Item], devices: Sequence[str], work: Work[Item, Out]
) -> list[Out]:
    """Process all items, as many at a time as there are devices.

    Args:
        items: What to process, in this order.
        devices: Numbers of GPUs, or 'cpu'; '' for the default device.
        work: Processes one item.

    Returns:
        The result of each item.

    Raises:
        BaseException: The first error; the other items are stopped. An interrupt
            that only followed from that error is not raised in its place.
        KeyboardInterrupt: Everything was stopped by Ctrl-C or SIGTERM.
    """
    release_instance_lock()  # an error of earlier would stop all threads
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    stop = Event()

    def process(item: Item) -> Out:
        device = free.get()
        try:
            if stop.is_set():
                raise KeyboardInterrupt
            return work(item, device_environment(device), stop)
        except BaseException:
            stop.set()  # stops the other items, too
            raise
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        futures = [pool.submit(process, item) for item in items]
        try:
            with _sigterm_interrupts():
                wait(futures)
        except BaseException:
            stop.set()
            raise
    errors = [error for error in map(Future.exception, futures) if error]
    errors.sort(key=lambda error: isinstance(error, KeyboardInterrupt))
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM, which clusters send at a job's time limit, like Ctrl-C."""
    if current_thread() is not main_thread():  # Python handles signals only there
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def device_environment(device: str) -> dict[str, str]:
    """Return environment variables that let a process see one device only."""
    if device == '':
        return {}
    return {'CUDA_VISIBLE_DEVICES': '' if device == 'cpu' else device}
