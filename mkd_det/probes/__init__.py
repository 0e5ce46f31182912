"""Probes: adapters that run a part of the frozen teacher again."""

from ..registry import import_files
from .base import Probe

__all__ = ['Probe']

import_files(__name__, __path__)
