"""Branches: trainable additions to the student, folded away on export."""

from .base import Branch
from .exploration import ExplorationBranch, ParallelLinear

__all__ = ['Branch', 'ExplorationBranch', 'ParallelLinear']
