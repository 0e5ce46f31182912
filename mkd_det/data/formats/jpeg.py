"""Finds JPEG files whose picture ends before its last row.

Decoders fill what is missing with gray, or leave it blurred, and report an error only
where the end marker is missing as well.
"""

from __future__ import annotations

import io
import re

from PIL import Image

_GRAY = 128
# A marker that ends compressed data: neither a stuffed 0xFF nor a restart marker.
_MARKER = re.compile(rb'\xff+[^\x00\xd0-\xd7\xff]')
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# Compressed data that means something in every coding: it has no 0xFF.
_FILLING = bytes(i * 89 % 251 for i in range(1, 1000))
_RESTARTS = b''.join(bytes([0xFF, 0xD0 + i]) + _FILLING for i in range(8))


def is_cut(content: bytes) -> bool:
    """Return whether a JPEG that can be decoded lacks a part of its picture.

    More compressed data is put before its end marker. A decoder that has all of the
    picture skips it; one that lacks a part takes it for that part, so that other pixels
    result.

    Args:
        content: The file.
    """
    end, progressive = _find_end(content)
    if end is None:
        return False
    pixels = _decode(content)
    last = pixels.getpixel((pixels.width - 1, pixels.height - 1))
    # What is missing of a sequential JPEG is gray, from some row to the last.
    if not progressive and last not in (_GRAY, (_GRAY,) * 3):
        return False
    filled = content[:end] + _FILLING + _RESTARTS + content[end:]
    try:
        return _decode(filled).tobytes() != pixels.tobytes()
    except OSError:  # nonsense in the place of what is missing
        return True


def _decode(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.copy()


def _find_end(content: bytes) -> tuple[int | None, bool]:
    """Return the position of the marker that ends the picture, and the coding.

    Markers inside of segments, such as those of an embedded thumbnail, do not count.

    Returns:
        The position, None where there is none; and whether the coding is progressive.
    """
    position, progressive, in_picture = 2, False, False
    while (found := _MARKER.search(content, position)) is not None:
        kind = content[found.end() - 1]
        if kind == _END_OF_IMAGE:
            return (found.start() if in_picture else None), progressive
        progressive |= kind in _PROGRESSIVE
        in_picture |= kind == _START_OF_SCAN
        length = int.from_bytes(content[found.end() : found.end() + 2], 'big')
        position = found.end() + max(length, 2)
    return None, progressive
