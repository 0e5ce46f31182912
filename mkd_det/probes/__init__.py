"""Probes: adapters that run a part of the frozen teacher again."""

from ..registry import import_files
from .cross_head import CrossHead

__all__ = ['CrossHead']

import_files(__name__, __path__)
