"""A teacher whose outputs are read from a file: its model does not run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError, TeacherError
from ...heads.base import HeadReader, find_reader
from ...structures import HeadOutput, Level, Levels
from ...taps import Tap
from .grid import Grid
from .placing import Placed, place
from .store import OutputStore

# Key of a data sample's metainfo: from pixels of the file to those of the image.
HOMOGRAPHY = 'homography_matrix'
META_KEYS = (
    "meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',"
    f" 'flip_direction', '{HOMOGRAPHY}')"
)


class StoredReader(HeadReader):
    """Reads the rows that a store yields, in place of a head's own output.

    Args:
        inner: The reader of the head.
    """

    def __init__(self, inner: HeadReader) -> None:
        self.inner = inner
        self.activation = inner.activation
        self.decodes = inner.decodes
        self.strides, self.kept = inner.strides, inner.kept

    @property
    def traits(self) -> frozenset[str]:
        """Words for what the head is."""
        return self.inner.traits

    def level_strides(self, head: Any) -> tuple[int | None, ...]:
        """Return input pixels per cell of each level.

        Args:
            head: The head.
        """
        return self.inner.level_strides(head)

    def read(self, head: Any, levels: Sequence[Level], **beside: Levels) -> HeadOutput:
        """Read what `StoredOutputs.run` has made.

        Args:
            head: The head; it has not run.
            levels: Per level (scores (N, P, C), boxes (N, P, 4), priors (N, P, 2 or
                4)) and, for heads with distributions, bins (N, P, 4, B).
            **beside: Not used.
        """
        kept = range(len(levels)) if self.kept is None else self.kept
        parts = list(zip(*(levels[index] for index in kept), strict=True))
        bins = torch.cat(parts[3], 1) if len(parts) > 3 else None
        priors = tuple(prior[0] for prior in parts[2])
        return HeadOutput(torch.cat(parts[0], 1), torch.cat(parts[1], 1), bins, priors)


class StoredOutputs:
    """The outputs of one teacher's head, from a file, for augmented images.

    Args:
        name: Name of the teacher.
        path: The file.

    Attributes:
        store: The file.

    Raises:
        DataError: There is no such file, or it is no store.
    """

    def __init__(self, name: str, path: Any) -> None:
        self.name = name
        self.store = OutputStore(path)
        self._grids: dict[Any, tuple[Grid, list[Tensor]]] = {}

    def run(
        self,
        model: nn.Module,
        taps: Mapping[str, Tap],
        inputs: Tensor,
        samples: Sequence[Any] | None,
    ) -> dict[str, Levels]:
        """Return levels for `StoredReader`, by tap.

        Args:
            model: The teacher. Its head says where it predicts; it does not run.
            taps: Taps of its head.
            inputs: A batch (N, 3, H, W).
            samples: A data sample for each image.
        """
        if samples is None or len(samples) != len(inputs):
            raise DataError(
                f'teacher {self.name!r} is stored: it needs data samples',
                expected='a data sample for each image',
            )
        head = next(iter(taps.values())).resolve(model)[0][1]
        reader = self.reader_of(head)
        size = (inputs.shape[-2], inputs.shape[-1])
        steps = self.store.about.strides
        sizes = tuple(
            (math.ceil(size[0] / step), math.ceil(size[1] / step)) for step in steps
        )
        new, priors = self._grid(reader, head, sizes)
        images = [self._place(reader, head, sample, new) for sample in samples]
        levels = _as_levels(images, new, priors, inputs.device)
        return dict.fromkeys(taps, levels)

    def reader_of(self, head: Any) -> Any:
        """Return a reader of the head, which must be of the kind that was stored.

        Args:
            head: The head.

        Raises:
            TeacherError: It is of another kind.
        """
        about, kind = self.store.about, find_reader(head)
        if type(head).__name__ == about.head and kind is not None:
            reader = kind(head)
            if tuple(reader.level_strides(head)) == about.strides:
                return reader
        raise TeacherError(
            f'teachers.{self.name}.stored: {self.store.path} was made with another'
            ' head',
            expected=f'{about.head} of strides {about.strides}',
            actual=type(head).__name__,
            fix=f'teachers.{self.name}.cfg with the config that made the soft labels',
        )

    def _grid(self, reader: Any, head: Any, sizes: Any) -> tuple[Grid, list[Tensor]]:
        if sizes not in self._grids:
            if len(self._grids) > 64:  # of multi-scale training
                self._grids.clear()
            shapes = [torch.Size(size) for size in sizes]
            priors = [prior.cpu() for prior in reader.priors(head, shapes, 'cpu')]
            grid = Grid.of(priors, sizes, self.store.about.strides)
            self._grids[sizes] = grid, priors
        return self._grids[sizes]

    def _place(self, reader: Any, head: Any, sample: Any, new: Grid) -> Placed:
        meta = getattr(sample, 'metainfo', {})
        path, matrix = meta.get('img_path'), meta.get(HOMOGRAPHY)
        if path is None or matrix is None:
            missing = 'img_path' if path is None else HOMOGRAPHY
            raise DataError(
                f'teacher {self.name!r} is stored: an image does not say where it comes'
                ' from, or how it was transformed',
                expected=f'{missing} in its metainfo',
                actual=', '.join(meta),
                fix=f"dict(type='PackDetInputs', {META_KEYS}) behind Resize",
            )
        image = self.store.read(path)
        old, _ = self._grid(reader, head, image.sizes)
        given = torch.as_tensor(matrix)
        return place(image, old, new, given, meta['img_shape'][:2], reader.activation)


def _as_levels(
    images: Sequence[Placed], grid: Grid, priors: Sequence[Tensor], device: Any
) -> Levels:
    """Return the outputs of all images together, level by level."""
    given = [part for part in zip(*images) if part[0] is not None]
    parts = [torch.stack(part).to(device) for part in given]
    levels: list[Level] = []
    for index, prior in enumerate(priors):
        places = slice(grid.starts[index], grid.starts[index + 1])
        own = [part[:, places] for part in parts]
        own.insert(2, prior.to(device).expand(len(images), -1, -1))
        levels.append(tuple(own))
    return tuple(levels)
