"""Runs the teachers beside the student, on a CUDA stream of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import ConfigError
from ..structures import Levels, tensors_in


class SideStream:
    """A second queue of work for a GPU.

    Teacher and student need nothing of each other until the terms. Where one of them
    leaves a part of the GPU idle (small batches, small maps, many small layers), the
    other can have it; where neither does, nothing is won. Not measured: no GPU was at
    hand. On other devices it does nothing.

    Args:
        wanted: Whether to use one.
    """

    def __init__(self, wanted: bool) -> None:
        if not isinstance(wanted, bool):
            raise ConfigError('overlap must be True or False', actual=wanted)
        self.wanted = wanted
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def __deepcopy__(self, memo: dict) -> SideStream:
        return SideStream(self.wanted)  # a stream cannot be copied

    @contextmanager
    def beside(self, device: torch.device) -> Iterator[None]:
        """What is queued inside runs beside what is queued after it."""
        if not self.wanted or device.type != 'cuda':
            yield
            return
        side = self._streams.setdefault(device, torch.cuda.Stream(device))
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            yield

    def join(self, device: torch.device, known: dict[str, dict[str, Levels]]) -> None:
        """Have what is queued from now on wait for what `beside` has queued.

        Args:
            device: As given to `beside`.
            known: What was computed there, by teacher and tap.
        """
        side = self._streams.get(device)
        if side is None:
            return
        main = torch.cuda.current_stream(device)
        main.wait_stream(side)
        for taps in known.values():
            for tensor in tensors_in(tuple(taps.values())):
                # Its memory must not be given away while `main` still reads it.
                tensor.record_stream(main)
