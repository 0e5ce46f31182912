"""What checks of a dataset look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mmdet.datasets import CocoDataset, XMLDataset

from ..datasets import class_names, min_box_size
from ..formats.annotations import AnnotationSummary
from ..formats.coco import read_coco
from ..formats.images import check_images
from ..formats.voc import read_voc
from ..labels import remember_categories


@dataclass
class AnnotatedDataset:
    """A dataset and what its annotation files hold.

    Args:
        dataset: The dataset, built without reading its files.
        max_images: Maximum number of images to decode.
    """

    dataset: CocoDataset | XMLDataset
    max_images: int

    @property
    def is_coco(self) -> bool:
        """Whether the dataset reads a COCO json; else it reads Pascal VOC files."""
        return isinstance(self.dataset, CocoDataset)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the dataset."""
        return class_names(self.dataset)

    @property
    def min_box_size(self) -> float:
        """`bbox_min_size` of the dataset."""
        return min_box_size(self.dataset)

    @cached_property
    def annotations(self) -> AnnotationSummary:
        """Summary of the annotation files."""
        dataset = self.dataset
        if self.is_coco:
            folder = dataset.data_prefix.get('img', '')
            classes, test = self.classes, dataset.test_mode
            summary = read_coco(dataset.ann_file, folder, classes, test)
            remember_categories(dataset.ann_file, summary.names)
            return summary
        return read_voc(
            dataset.ann_file,
            dataset.sub_data_root,
            self.classes,
            dataset.img_subdir,
            dataset.ann_subdir,
            self.min_box_size,
        )

    @cached_property
    def image_sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of a sample of images, decoded, by path."""
        return check_images(self.annotations.images, self.max_images)
