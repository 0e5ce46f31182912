"""Probes: adapters that run a part of the teacher again, or of both models."""

from ..registry import import_files
from .base import Probe

__all__ = ['Probe']

import_files(__name__, __path__)
