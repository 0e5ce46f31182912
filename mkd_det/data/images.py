"""Looks whether images are there and can be read."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from PIL import Image

from ..errors import ImageError
from .sample import evenly_spaced

# Tag of EXIF, and its values that exchange width and height.
_ORIENTATION, _TURNED = 274, (5, 6, 7, 8)


def check_images(paths: Sequence[str], limit: int) -> dict[str, tuple[int, int]]:
    """Check that all images are there, and decode a sample of them.

    Args:
        paths: The images.
        limit: Of more images, so many are decoded, evenly spaced.

    Returns:
        Width and height of the images that were decoded, turned as mmdet turns them.

    Raises:
        ImageError: An image is missing, or cannot be decoded to its end.
    """
    missing = _missing(paths)
    if missing:
        raise ImageError(
            f'{len(missing)} of {len(paths)} images are missing',
            expected=missing[0],
            actual=f'no such file, seen from the folder {osp.abspath("")}',
            fix="data_root=... and data_prefix=dict(img='...') of the dataset, "
            'as they are here',
        )
    sample = evenly_spaced(paths, limit)
    sizes = {}
    # Decoders release the GIL.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for path, found in zip(sample, pool.map(_decode, sample), strict=True):
            if isinstance(found, str):
                raise ImageError(
                    f'the image {path} cannot be read',
                    actual=f'{_size(path)}: {found}',
                    fix='copy or unpack the file again, or take it out of the '
                    'annotation file',
                )
            sizes[path] = found
    return sizes


def _size(path: str) -> str:
    return f'{osp.getsize(path)} bytes' if osp.exists(path) else 'a broken link'


def _missing(paths: Sequence[str]) -> list[str]:
    """Paths without a file. A folder is listed once: one look at each of
    100 000 files takes minutes on a network disk."""
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = osp.split(path)
        if folder not in listed:
            known = osp.isdir(folder or '.')
            listed[folder] = set(os.listdir(folder or '.')) if known else set()
        if name not in listed[folder]:
            missing.append(path)
    return missing


def _decode(path: str) -> tuple[int, int] | str:
    """Width and height of an image, or what is wrong with it.

    OpenCV, with which mmdet reads, fills what is missing of a cut-off JPEG
    with grey and says nothing; PIL says it, and decodes JPEGs fast at an
    eighth of their size, as OpenCV does. Some formats only OpenCV knows.
    """
    try:
        content = np.fromfile(path, np.uint8)
        if not len(content):
            return 'it is empty'
        pixels = cv2.imdecode(content, cv2.IMREAD_REDUCED_COLOR_8)
        if pixels is None:
            return 'OpenCV cannot decode it'
        with Image.open(path) as image:
            width, height = image.size
            turned = (
                image.format != 'WEBP'  # which OpenCV leaves as it lies
                and image.getexif().get(_ORIENTATION) in _TURNED
            )
            image.draft(image.mode, (width // 8, height // 8))
            image.load()
        return (height, width) if turned else (width, height)
    except Image.UnidentifiedImageError:
        whole = cv2.imdecode(content, cv2.IMREAD_COLOR)
        return 'OpenCV cannot decode it' if whole is None else whole.shape[1::-1]
    except Exception as error:  # decoders raise nearly anything on broken files
        return str(error) or type(error).__name__
