"""Heads: one reader for each kind of head, and how a model is run for its features."""

from ..registry import import_files
from .base import HeadReader

__all__ = ['HeadReader']

import_files(__name__, __path__)
