"""A JPEG whose picture ends before its last row is refused, whatever ends the file."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mkd_det.data.formats.images import check_images
from mkd_det.data.formats.jpeg import is_cut
from mkd_det.errors import ImageError

END = b'\xff\xd9'
CODINGS = {
    'sequential': [],
    'progressive': [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    'with restart markers': [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
}


def encode(pixels: np.ndarray, coding: str = 'sequential') -> bytes:
    done, content = cv2.imencode('.jpg', pixels, CODINGS[coding])
    assert done
    return content.tobytes()


@pytest.fixture(scope='module')
def picture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (128, 96, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


@pytest.mark.parametrize('coding', CODINGS)
def test_an_end_marker_in_the_middle_is_found(picture: np.ndarray, coding: str) -> None:
    whole = encode(picture, coding)
    assert not is_cut(whole)
    assert not is_cut(whole + b'something of another program' + END)
    for middle in (len(whole) * 13 // 25, len(whole) * 9 // 10):
        assert is_cut(whole[:middle] + END)
        assert is_cut(whole[:middle] + END + whole[middle:])


def test_a_file_that_ends_at_a_restart_marker_is_cut(picture: np.ndarray) -> None:
    whole = encode(picture, 'with restart markers')
    marks = [found.start() for found in re.finditer(rb'\xff[\xd0-\xd7]', whole)]
    assert len(marks) > 4
    assert is_cut(whole[: marks[2]] + END)


@pytest.mark.parametrize('coding', CODINGS)
def test_a_picture_that_is_gray_below_is_complete(
    picture: np.ndarray, coding: str
) -> None:
    gray = picture.copy()
    gray[64:] = 128
    assert not is_cut(encode(gray, coding))
    assert not is_cut(encode(gray[..., 0], coding))


def test_an_embedded_thumbnail_does_not_end_the_picture(picture: np.ndarray) -> None:
    whole, small = encode(picture), encode(picture[:16, :16])
    length = (len(small) + 2).to_bytes(2, 'big')
    assert not is_cut(whole[:2] + b'\xff\xe1' + length + small + whole[2:])


def test_the_image_check_names_the_file(picture: np.ndarray, tmp_path: Path) -> None:
    whole = encode(picture)
    good, bad = tmp_path / 'good.jpg', tmp_path / 'bad.jpg'
    good.write_bytes(whole)
    bad.write_bytes(whole[: len(whole) // 2] + END)
    assert check_images([str(good)], 9) == {str(good): (96, 128)}
    with pytest.raises(ImageError) as info:
        check_images([str(good), str(bad)], 9)
    assert str(bad) in info.value.message
    assert 'last row' in info.value.actual
