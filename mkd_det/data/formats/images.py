"""Checks that images exist and can be decoded."""

from __future__ import annotations

import os
import os.path as osp
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...errors import ImageError
from .jpeg import is_cut
from .sampling import evenly_spaced

# EXIF tag, and its values that swap width and height.
_ORIENTATION, _ROTATED = 274, (5, 6, 7, 8)
_FORBIDDEN = 'no permission to read it'
# How names of images end, in lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def check_images(paths: Sequence[str], limit: int) -> dict[str, tuple[int, int]]:
    """Check that all images exist, and decode a sample of them.

    Args:
        paths: The images.
        limit: Maximum number of images to decode, evenly spaced.

    Returns:
        Width and height of the decoded images after EXIF rotation, as in mmdet.

    Raises:
        ImageError: An image is missing, or cannot be decoded completely.
    """
    missing = _missing(paths)
    if missing:
        raise ImageError(
            f'{len(missing)} of {len(paths)} images are missing',
            expected=missing[0],
            actual=f'no such file; relative paths start at {osp.abspath("")}',
            fix="correct data_root and data_prefix=dict(img='...') of the dataset",
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
                    fix=f'chmod +r {path}'
                    if found == _FORBIDDEN
                    else 'copy or unpack the file again, or remove it from the'
                    ' annotation file',
                )
            sizes[path] = found
    return sizes


def list_images(folder: Path) -> list[Path]:
    """Return the images in a folder and in the folders in it, sorted.

    Args:
        folder: The folder.
    """
    return sorted(
        file
        for file in folder.rglob('*')
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith('.')
    )


def read_size(path: str) -> tuple[int, int]:
    """Return width and height of an image after EXIF rotation, as in mmdet.

    Args:
        path: The image; only its header is read, where PIL knows the format.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if _is_rotated(image) else (width, height)
    except Exception:  # decoders raise many types for broken files
        found = _decode(path)
    if isinstance(found, str):
        raise ImageError(
            f'the image {path} cannot be read',
            actual=f'{_size(path)}: {found}',
            fix='copy or unpack the file again, or remove it from the dataset',
        )
    return found


def _is_rotated(image: Image.Image) -> bool:
    """Return whether OpenCV swaps width and height; it does not rotate WebP."""
    orientation = image.getexif().get(_ORIENTATION)
    return image.format != 'WEBP' and orientation in _ROTATED


def _size(path: str) -> str:
    return f'{osp.getsize(path)} bytes' if osp.exists(path) else 'a broken link'


def _missing(paths: Sequence[str]) -> list[str]:
    """Return paths without a file.

    Lists each folder once: testing 100 000 files one by one takes minutes on a network
    disk.
    """
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
    """Return width and height of an image, or what is wrong with it.

    mmdet reads images with OpenCV, which silently fills the missing part of a truncated
    JPEG with gray; PIL reports it, unless there is an end marker (see `is_cut`). Both
    decode JPEGs fast at an eighth of their size. Some formats are known to OpenCV only.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return 'it is no regular file'  # a pipe would wait for ever
        content = np.fromfile(path, np.uint8)
        if not len(content):
            return 'it is empty'
        pixels = cv2.imdecode(content, cv2.IMREAD_REDUCED_COLOR_8)
        if pixels is None:
            return 'OpenCV cannot decode it'
        with Image.open(path) as image:
            width, height = image.size
            rotated = _is_rotated(image)
            image.draft(image.mode, (width // 8, height // 8))
            image.load()
            is_jpeg = image.format == 'JPEG'
        if is_jpeg and is_cut(content.tobytes()):
            return 'it ends before the last row of the picture'
        return (height, width) if rotated else (width, height)
    except Image.UnidentifiedImageError:
        whole = cv2.imdecode(content, cv2.IMREAD_COLOR)
        return 'OpenCV cannot decode it' if whole is None else whole.shape[1::-1]
    except PermissionError:
        return _FORBIDDEN
    except Exception as error:  # decoders raise many types for broken files
        return str(error) or type(error).__name__
