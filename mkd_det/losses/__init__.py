"""Distillation losses: one method a file."""

from ..registry import import_files
from .base import PairLoss

__all__ = ['PairLoss']

import_files(__name__, __path__)
