"""Stored rows on augmented images: each at its place, with its box moved exactly."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from mkd_det.errors import DataError
from mkd_det.teachers.stored.grid import Grid
from mkd_det.teachers.stored.placing import place
from mkd_det.teachers.stored.store import StoredImage

STEPS = (8, 16, 32)
SIZE = (64, 128)  # (H, W)
CLASSES, BINS = 3, 17


def grid(size: tuple[int, int], anchors: int = 1, offset: float = 0.5) -> Grid:
    """Places of a head, in the middle of each cell."""
    sizes = tuple((size[0] // s, size[1] // s) for s in STEPS)
    priors = []
    for (h, w), s in zip(sizes, STEPS):
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
        points = (torch.stack([x, y], -1).reshape(-1, 2) + offset) * s
        priors.append(points.repeat_interleave(anchors, 0))
    return Grid.of(priors, sizes, STEPS)


def stored(places: Grid, rows: Any = None, size: tuple[int, int] = SIZE) -> StoredImage:
    """An image with random outputs at some places, all of them by default."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.arange(len(places)) if rows is None else torch.tensor(rows)
    count = len(rows)
    bins = torch.randn(count, 4, BINS, generator=draw)
    return StoredImage(
        rows.int(),
        torch.randn(count, CLASSES, generator=draw),
        bins.softmax(-1) @ torch.arange(BINS, dtype=torch.float32),
        bins,
        places.sizes,
        torch.eye(3),
        size,
    )


def boxes_of(image: StoredImage, places: Grid) -> Tensor:
    rows = image.rows.long()
    sides = image.sides * places.strides[rows][:, None]
    centres = places.centres[rows]
    return torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], 1)


def expected_boxes(placed: Any, places: Grid) -> Tensor:
    """Boxes that the distributions mean."""
    steps = torch.arange(BINS, dtype=torch.float32)
    sides = placed.bins.softmax(-1) @ steps * places.strides[:, None]
    centres = places.centres
    return torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], 1)


def matrix(sx: float = 1, sy: float = 1, x: float = 0, y: float = 0) -> Tensor:
    return torch.tensor([[sx, 0, x], [0, sy, y], [0, 0, 1]], dtype=torch.float64)


def test_without_a_transform_all_is_as_it_was() -> None:
    places = grid(SIZE)
    image = stored(places)
    placed = place(image, places, places, matrix(), SIZE, 'sigmoid')
    assert torch.equal(placed.scores, image.scores)
    assert placed.bins is not None and torch.equal(placed.bins, image.bins)
    assert torch.allclose(placed.boxes, boxes_of(image, places))


def test_a_flip_mirrors_places_boxes_and_distributions() -> None:
    places = grid(SIZE)
    image = stored(places)
    flipped = place(image, places, places, matrix(-1, 1, SIZE[1]), SIZE, 'sigmoid')
    before = boxes_of(image, places)
    for index, (h, w) in enumerate(places.sizes):
        rows = slice(places.starts[index], places.starts[index + 1])
        mirrored = image.scores[rows].reshape(h, w, -1).flip(1).reshape(h * w, -1)
        assert torch.equal(flipped.scores[rows], mirrored)
        boxes = before[rows].reshape(h, w, 4).flip(1).reshape(-1, 4)
        boxes = torch.stack(
            [SIZE[1] - boxes[:, 2], boxes[:, 1], SIZE[1] - boxes[:, 0], boxes[:, 3]], 1
        )
        assert torch.allclose(flipped.boxes[rows], boxes, atol=1e-4)
    assert torch.allclose(expected_boxes(flipped, places), flipped.boxes, atol=1e-3)
    again = place(image, places, places, matrix(1, -1, 0, SIZE[0]), SIZE, 'sigmoid')
    assert torch.allclose(expected_boxes(again, places), again.boxes, atol=1e-3)
    assert not torch.allclose(again.boxes, flipped.boxes, atol=1)


@pytest.mark.parametrize('scale', [0.5, 2.0])
def test_a_power_of_two_moves_rows_to_the_next_level(scale: float) -> None:
    """The distributions, which count in strides, are the same bit for bit."""
    size = (int(SIZE[0] * scale), int(SIZE[1] * scale))
    old, new = grid(SIZE), grid(size)
    image = stored(old)
    placed = place(image, old, new, matrix(scale, scale), size, 'sigmoid')
    assert placed.bins is not None and image.bins is not None
    shift = 1 if scale == 2 else -1
    for index in range(len(STEPS)):
        if not 0 <= index + shift < len(STEPS):
            continue
        before = slice(old.starts[index], old.starts[index + 1])
        after = slice(new.starts[index + shift], new.starts[index + shift + 1])
        if scale < 1 and index == 1:
            continue  # rows of two levels meet on the finest one
        kept = placed.scores[after] == image.scores[before]
        if scale > 1 and index == 1:  # so they do on the coarsest
            kept = kept[kept.any(1)]
        assert kept.all()
        if kept.shape == image.scores[before].shape:
            assert torch.equal(placed.bins[after], image.bins[before])
            moved = boxes_of(image, old)[before] * scale
            assert torch.allclose(placed.boxes[after], moved, atol=1e-4)


def test_the_more_confident_row_stays_where_two_meet() -> None:
    old, new = grid(SIZE), grid((32, 64))
    image = stored(old, [0, 1])  # both are cell (0, 0) at half the size
    image.scores[:] = torch.tensor([[-2.0, -2, -2], [3.0, -2, -2]])
    placed = place(image, old, new, matrix(0.5, 0.5), (32, 64), 'sigmoid')
    assert torch.equal(placed.scores[0], image.scores[1])
    left = (placed.scores > -5).any(1).nonzero().flatten().tolist()
    assert left == [0]


def test_any_scale_keeps_boxes_and_what_distributions_mean() -> None:
    size = (90, 180)
    scale = size[0] / SIZE[0]
    old = grid(SIZE)
    sizes = (96, 192)  # padded
    new = grid(sizes)
    image = stored(old, [3, 70, 140])
    # Distances near 5 strides, so that none is beyond the last bin afterwards.
    image.bins[:] = -4.0 * (torch.arange(BINS) - 5.3) ** 2
    image.sides[:] = image.bins.softmax(-1) @ torch.arange(BINS, dtype=torch.float32)
    placed = place(image, old, new, matrix(scale, scale), size, 'sigmoid')
    taken = (placed.scores > -5).any(1)
    found = placed.boxes[taken]
    moved = boxes_of(image, old) * scale
    away = (found[:, None] - moved).abs().amax(2)
    assert (away.amin(0) < 1e-3).all() and (away.amin(1) < 1e-3).all()
    meant = expected_boxes(placed, new)[taken]
    assert (meant - found).abs().max() < 0.05


@pytest.mark.parametrize('mirrored', [False, True])
@pytest.mark.parametrize(
    'scale', [0.5, 0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.375, 1.5, 1.7, 2.0]
)
def test_no_scale_makes_background_between_confident_rows(
    scale: float, mirrored: bool
) -> None:
    side = round(256 * scale)
    size, padded = (side, side), -(-side // 32) * 32
    old, new = grid((256, 256)), grid((padded, padded))
    image = stored(old, size=(256, 256))
    image.scores[:] = 3.0
    scale = side / 256
    move = matrix(-scale if mirrored else scale, scale, side if mirrored else 0)
    placed = place(image, old, new, move, size, 'sigmoid')
    inside = (new.centres <= side).all(1)
    assert (placed.scores[inside] == 3).all()


def test_a_row_fills_the_places_of_its_enlarged_cell_only() -> None:
    old, new = grid(SIZE), grid((96, 192))
    image = stored(old, [2 * 16 + 3])  # the cell of 24 to 32, and 16 to 24
    image.scores[:] = 3.0
    placed = place(image, old, new, matrix(1.25, 1.25), (80, 160), 'sigmoid')
    taken = new.centres[(placed.scores > 0).any(1)]
    assert len(taken) and (taken >= torch.tensor([30, 20])).all()
    assert (taken <= torch.tensor([40, 30])).all()
    finest = new.centres[: new.starts[1]]
    covered = (finest > torch.tensor([30, 20])) & (finest < torch.tensor([40, 30]))
    assert len(taken) == covered.all(1).sum()


@pytest.mark.parametrize('shift', [0, 3, 4, 12])
def test_a_crop_between_cells_leaves_each_row_one_place(shift: int) -> None:
    places, new = grid(SIZE), grid((32, 64))
    image = stored(places)
    placed = place(image, places, new, matrix(1, 1, -shift), (32, 64), 'sigmoid')
    finest = placed.scores[: new.starts[1], 0]
    assert len(finest.unique()) == len(finest)


def test_what_was_cut_off_is_not_in_the_padding() -> None:
    places = grid(SIZE)
    image = stored(places)
    image.scores[:] = 3.0
    placed = place(image, places, places, matrix(), (32, 64), 'sigmoid')
    outside = ~(places.centres <= torch.tensor([64, 32])).all(1)
    assert (placed.scores[outside] < -5).all()


def test_a_level_of_objects_of_other_sizes_is_background() -> None:
    """At a fifth of the size, rows of stride 32 are of objects for stride 8."""
    old, new = grid((320, 320)), grid((64, 64))
    image = stored(old, size=(320, 320))
    image.scores[:] = 3.0
    placed = place(image, old, new, matrix(0.2, 0.2), (64, 64), 'sigmoid')
    assert (placed.scores[: new.starts[1]] == 3).all()
    assert (placed.scores[new.starts[1] :] < -5).all()


def test_what_was_cut_off_is_gone_and_boxes_end_at_the_edge() -> None:
    places = grid(SIZE)
    image = stored(places)
    image.sides[:] = 4.0  # 32 px and more: every box crosses an edge
    crop = (32, 64)
    new = grid(crop)
    placed = place(image, places, new, matrix(1, 1, -32, -16), crop, 'sigmoid')
    assert (placed.scores > -6.5).any(1).all()
    assert placed.boxes.min() >= 0
    assert (placed.boxes <= torch.tensor([64, 32, 64, 32]) + 1e-4).all()
    meant = expected_boxes(placed, new)
    assert meant.min() > -0.05
    assert (meant < torch.tensor([64, 32, 64, 32]) + 0.05).all()
    # Cell (0, 0) of the crop was cell (2, 4).
    (w,) = {places.sizes[0][1]}
    assert torch.equal(placed.scores[0], image.scores[2 * w + 4])


def test_places_of_which_nothing_is_stored_are_background() -> None:
    places = grid(SIZE)
    image = stored(places, [5])
    kinds: tuple[Literal['sigmoid', 'softmax'], ...] = ('sigmoid', 'softmax')
    for activation in kinds:
        placed = place(image, places, places, matrix(), SIZE, activation)
        rest = torch.cat([placed.scores[:5], placed.scores[6:]])
        if activation == 'sigmoid':
            assert rest.sigmoid().max() < 2e-3
        else:
            assert rest.softmax(-1)[:, :-1].max() < 2e-3
        assert torch.isfinite(placed.boxes).all()


def test_anchors_of_a_cell_stay_in_order() -> None:
    places = grid(SIZE, anchors=3)
    image = stored(places)
    flipped = place(image, places, places, matrix(-1, 1, SIZE[1]), SIZE, 'sigmoid')
    h, w = places.sizes[0]
    mirrored = image.scores[: h * w * 3].reshape(h, w, 3, -1).flip(1)
    assert torch.equal(flipped.scores[: h * w * 3], mirrored.reshape(h * w * 3, -1))


def test_places_at_the_corners_of_cells_lose_no_row_to_a_flip() -> None:
    """The first column moves onto the edge: its nearest place is the last one."""
    places = grid(SIZE, offset=0.0)
    image = stored(places, [0])
    flipped = place(image, places, places, matrix(-1, 1, SIZE[1]), SIZE, 'sigmoid')
    (row,) = (flipped.scores > -5).any(1).nonzero().flatten().tolist()
    assert row == places.sizes[0][1] - 1
    moved = boxes_of(image, places)[0]
    wanted = torch.stack([SIZE[1] - moved[2], moved[1], SIZE[1] - moved[0], moved[3]])
    assert torch.allclose(flipped.boxes[row], wanted, atol=1e-3)


def test_what_is_no_flip_resize_or_crop_is_refused() -> None:
    places = grid(SIZE)
    turned = matrix()
    turned[0, 1] = 0.2
    with pytest.raises(DataError) as error:
        place(stored(places), places, places, turned, SIZE, 'sigmoid')
    assert 'rotated' in error.value.message and 'RandomFlip' in error.value.fix
