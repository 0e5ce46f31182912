"""Layouts of datasets on disk: COCO, VOC, YOLO; each becomes COCO annotations."""

from .find import find_layout
from .split import Layout, Split

__all__ = ['Layout', 'Split', 'find_layout']
