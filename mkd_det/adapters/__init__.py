"""Adapters: small trainable modules between student and teacher knowledge."""

from ..registry import import_files
from .base import Adapter, AdapterOutput
from .guidance import GuidanceLayer

__all__ = ['Adapter', 'AdapterOutput', 'GuidanceLayer']

import_files(__name__, __path__)
