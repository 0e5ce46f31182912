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
from .sample import evenly


def check_images(paths: Sequence[str], limit: int) -> int:
    """Check that all images are there, and decode a sample of them.

    Args:
        paths: The images.
        limit: Of more images, so many are decoded, evenly spaced.

    Returns:
        How many images were decoded.

    Raises:
        ImageError: An image is missing, or cannot be decoded to its end.
    """
    missing = _missing(paths)
    if missing:
        raise ImageError(
            f'{len(missing)} of {len(paths)} images are missing',
            expected=missing[0],
            actual=f'no such file, seen from the folder {osp.abspath("")}',
            hint="data_root=... and data_prefix=dict(img='...') of the dataset, "
            'as they are here',
        )
    sample = evenly(paths, limit)
    # Decoders release the GIL.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for path, fault in zip(sample, pool.map(_fault, sample), strict=True):
            if fault:
                raise ImageError(
                    f'the image {path} cannot be read',
                    actual=f'{_size(path)}: {fault}',
                    hint='copy or unpack the file again, or take it out of the '
                    'annotation file',
                )
    return len(sample)


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


def _fault(path: str) -> str:
    """What is wrong with an image; '' if it can be read to its end.

    OpenCV, with which mmdet reads, fills what is missing of a cut-off JPEG
    with grey and says nothing; PIL says it, and decodes JPEGs fast at an
    eighth of their size. Some formats only OpenCV knows.
    """
    try:
        with Image.open(path) as image:
            image.draft(image.mode, (image.width // 8, image.height // 8))
            image.load()
        return ''
    except Exception as error:  # decoders raise nearly anything on broken files
        unknown = isinstance(error, Image.UnidentifiedImageError)
        content = np.fromfile(path, np.uint8) if unknown else np.empty(0, np.uint8)
        if len(content) and cv2.imdecode(content, cv2.IMREAD_UNCHANGED) is not None:
            return ''
        return str(error) or type(error).__name__
