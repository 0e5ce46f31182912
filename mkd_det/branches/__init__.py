"""Branches: trainable additions to the student, folded away on export."""

from ..registry import import_files
from .base import Branch
from .exploration import ExplorationBranch, ParallelLinear

__all__ = ['Branch', 'ExplorationBranch', 'ParallelLinear']

import_files(__name__, __path__)
