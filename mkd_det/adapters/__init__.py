"""Adapters: small trainable modules between student and teacher knowledge."""

from ..registry import import_files
from .base import Adapter, AdapterOutput

__all__ = ['Adapter', 'AdapterOutput']

import_files(__name__, __path__)
