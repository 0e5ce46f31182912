"""Branches: trainable additions to the student, folded away on export."""

from ..registry import import_files
from .base import Branch

__all__ = ['Branch']

import_files(__name__, __path__)
