"""Images without labels, as a dataset for mmdet."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import torch
from mmdet.datasets import BaseDetDataset
from mmdet.datasets.transforms import RandomCrop
from mmdet.registry import DATASETS

from ..errors import AnnotationError, ImageError
from .checks.overlap import same_images
from .formats import images as formats

# Key of a data sample's metainfo: the image has no labels.
UNLABELED = 'unlabeled'


@DATASETS.register_module()
class UnlabeledImages(BaseDetDataset):
    """Images that nobody has labelled.

    Each data sample says so in its metainfo (`unlabeled=True`), whatever keys the
    pipeline packs. A `Distiller` lets the teachers' terms read such images and leaves
    them out of the student's own loss. Any other model takes them for images without
    objects.

    `RandomCrop` keeps crops without boxes here, whatever its `allow_negative_crop` is.

    Put it behind labelled data in a `ConcatDataset`, with
    `ignore_keys=['classes', 'palette']`: it needs no `metainfo`.

    Args:
        images: A folder, which is searched with its folders; a json in COCO's format,
            whose annotations are ignored; a json list of paths; a text file with a
            path in each line, or, as in Pascal VOC, a name without its ending; or a
            list of paths.
        exclude: Like `images`: images that are left out, such as the labelled ones of
            the same folder, and copies of them under other names.
        strict: Whether an image that is also a validation or test image is an error.
            If not, it is told.
        **kwargs: Arguments of `BaseDetDataset`: `data_root`, which relative paths begin
            from, `data_prefix`, `pipeline`, `indices`.

    Class attributes:
        unlabeled: Tells checks that there are no labels.

    Raises:
        AnnotationError: There are no images, or a list cannot be read, or none of the
            images exists that are to be left out.
        ImageError: An image is missing, or is no image.
    """

    unlabeled: ClassVar[bool] = True

    def __init__(
        self,
        images: str | Path | Sequence[str],
        exclude: str | Path | Sequence[str] = (),
        strict: bool = False,
        **kwargs: Any,
    ) -> None:
        self.images, self.exclude, self.strict = images, exclude, strict
        super().__init__(ann_file='', **kwargs)

    @property
    def pipeline(self) -> Any:
        """The transforms, also those that a hook switches to."""
        return self._pipeline

    @pipeline.setter
    def pipeline(self, steps: Any) -> None:
        _allow_crops(steps)
        self._pipeline = steps

    def load_data_list(self) -> list[dict]:
        """List the images with their sizes.

        Returns:
            An entry for each image: `img_path`, `img_id`, `height`, `width`, no
            `instances`, and `unlabeled=True`.
        """
        paths, excluded = self._list(self.images), self._list(self.exclude)
        missing = [str(path) for path in excluded if not path.is_file()]
        if missing and len(missing) == len(excluded):
            raise AnnotationError(
                'UnlabeledImages: no image that is to be left out exists',
                actual=', '.join(missing[:3]),
                fix='exclude=[...] with absolute paths or paths from data_root, or a'
                ' folder',
            )
        left_out = {one for one, _ in same_images(map(str, paths), map(str, excluded))}
        paths = [path for path in paths if str(path) not in left_out]
        self.excluded, self.missing = len(left_out), len(missing)
        if not paths:
            raise AnnotationError(
                'UnlabeledImages: there are no images',
                expected=f'files that end in {", ".join(formats.IMAGE_SUFFIXES)}',
                actual=f'images={self.images!r}, data_root={self.data_root!r}'
                + (f', {len(left_out)} excluded' if left_out else ''),
                fix="images='folder/of/images'",
            )
        return [self._entry(index, path) for index, path in enumerate(paths)]

    def __getitem__(self, idx: int) -> dict:
        """Return an image through the pipeline, marked as unlabelled."""
        try:
            result = super().__getitem__(idx)
        except AssertionError as error:  # the loader's, where nothing can be decoded
            path = self.get_data_info(idx).get('img_path', '')
            if not path or cv2.imread(path) is not None:
                raise
            raise _broken(path, error) from error
        sample = result.get('data_samples')
        if sample is not None:
            sample.set_metainfo({UNLABELED: True})
            objects = getattr(sample, 'gt_instances', None)  # classifiers have none
            if objects is not None and 'bboxes' not in objects:  # no LoadAnnotations
                objects.bboxes = torch.zeros(0, 4)
                objects.labels = torch.zeros(0, dtype=torch.long)
        return result

    def check(self, images: int) -> str:
        """Decode images, evenly spaced.

        Args:
            images: Maximum number of images to decode.

        Returns:
            A summary in one line.

        Raises:
            ImageError: An image cannot be decoded.
        """
        paths = self.paths
        decoded = len(formats.check_images(paths, images))
        counted = 'all' if decoded == len(paths) else decoded
        left_out = f' ({self.excluded} excluded)' if self.exclude else ''
        if self.missing:
            left_out += f' ({self.missing} that are to be excluded do not exist)'
        return f'{len(paths)} images without labels{left_out}, {counted} images decoded'

    @property
    def paths(self) -> list[str]:
        """Paths of all images."""
        self.full_init()
        return [self.get_data_info(i)['img_path'] for i in range(len(self))]

    def _list(self, images: str | Path | Sequence[str]) -> list[Path]:
        """Return the paths that a setting names, in a fixed order."""
        prefix = self.data_prefix.get('img', '')
        return list_images(images, self.data_root or '', prefix)

    def _join_prefix(self) -> None:
        """Leave the prefix as it is: `list_images` joins it."""

    def _entry(self, index: int, path: Path) -> dict:
        try:
            width, height = formats.read_size(str(path))
        except ImageError as error:
            raise _broken(str(path), error) from error
        return {
            'img_path': str(path),
            'img_id': f'unlabeled-{index}',
            'height': height,
            'width': width,
            'instances': [],
            UNLABELED: True,
        }


def _allow_crops(transform: Any) -> None:
    """Let every `RandomCrop` keep its first crop: it would look for boxes for ever."""
    if isinstance(transform, RandomCrop):
        transform.allow_negative_crop = True
    inner = getattr(transform, 'transforms', transform)  # of Compose and RandomApply
    if isinstance(inner, (list, tuple)):
        for one in inner:
            _allow_crops(one)
    elif inner is not transform:
        _allow_crops(inner)


def list_images(
    images: str | Path | Sequence[str], root: str = '', prefix: str = ''
) -> list[Path]:
    """Return paths of images, in a fixed order. They are not opened.

    Args:
        images: A folder, which is searched with its folders; a json in COCO's format;
            a json list of paths; a text file with a path in each line, whose ending
            may be missing; or paths.
        root: Where relative paths begin.
        prefix: Folder, from `root`, of the paths in a file.

    Raises:
        AnnotationError: There is no such file or folder, or it is no list.
    """
    base = Path(root)
    if not isinstance(images, (str, Path)):
        return [base / name for name in images]
    if not str(images):
        return []
    found = base / images
    if found.is_dir():
        return [file for file in formats.list_images(found) if file.is_file()]
    if not found.is_file():
        raise AnnotationError(
            'UnlabeledImages: there is no such file or folder', actual=str(found)
        )
    return [_with_suffix(base / prefix / name) for name in _names_in(found)]


def _with_suffix(path: Path) -> Path:
    """Return the image that a name without its ending means; others as they are."""
    suffixes = formats.IMAGE_SUFFIXES
    if path.suffix.lower() in suffixes or path.is_file():
        return path
    named = (path.with_name(path.name + suffix) for suffix in suffixes)
    return next((file for file in named if file.is_file()), path)


def _names_in(file: Path) -> list[str]:
    """Return the image names that a list or a COCO json has."""
    try:
        text = file.read_text(encoding='utf-8-sig')
        if file.suffix != '.json':
            return [line.strip() for line in text.splitlines() if line.strip()]
        content = json.loads(text)
        if isinstance(content, dict):
            content = [image['file_name'] for image in content['images']]
        if all(isinstance(name, str) for name in content):
            return list(content)
        raise ValueError('not all entries are strings')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnnotationError(
            f'UnlabeledImages: {file} is no list of images',
            expected='a COCO json, a json list of paths, or a path in each line',
            actual=f'{type(error).__name__}: {error}',
        ) from error


def _broken(path: str, error: Exception) -> ImageError:
    return ImageError(
        f'an unlabelled image cannot be read: {path}',
        actual=getattr(error, 'actual', None) or f'{type(error).__name__}: {error}',
        fix=f'repair or remove the file; or exclude=[{os.path.abspath(path)!r}]'
        if os.path.exists(path)
        else 'take it out of the list; or data_root, where relative paths begin',
    )
