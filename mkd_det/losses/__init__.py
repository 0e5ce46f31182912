"""Distillation losses: one method a file."""

from ..registry import import_files
from .attention import AttentionKD
from .base import PairLoss
from .feature import FeatureKD
from .relation import RelationKD
from .soft_output import SoftOutputKD

__all__ = ['AttentionKD', 'FeatureKD', 'PairLoss', 'RelationKD', 'SoftOutputKD']

import_files(__name__, __path__)
