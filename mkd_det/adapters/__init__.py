"""Adapters: small trainable modules between student and teacher knowledge."""

from .base import Adapter, AdapterOutput
from .guidance import GuidanceLayer

__all__ = ['Adapter', 'AdapterOutput', 'GuidanceLayer']
