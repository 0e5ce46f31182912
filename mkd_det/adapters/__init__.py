"""Adapters: small trainable modules between student and teacher knowledge."""

from ..registry import import_files
from .base import Adapter, AdapterOutput
from .guidance import GuidanceLayer
from .masked_generation import MaskedGeneration
from .nonlinear_align import NonLinearAlign

__all__ = [
    'Adapter',
    'AdapterOutput',
    'GuidanceLayer',
    'MaskedGeneration',
    'NonLinearAlign',
]

import_files(__name__, __path__)
