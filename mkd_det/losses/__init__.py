"""Distillation losses: one method a file."""

from ..registry import import_files
from .aggregation import LossAggregation
from .attention import AttentionKD
from .base import PairLoss
from .dist import DIST
from .dkd import DKD, ProposalDKD
from .dlkd import DLKD
from .feature import FeatureKD
from .fgd import FGD
from .ld import LD
from .relation import RelationKD
from .soft_output import SoftOutputKD

__all__ = [
    'DIST',
    'DKD',
    'DLKD',
    'FGD',
    'LD',
    'AttentionKD',
    'FeatureKD',
    'LossAggregation',
    'PairLoss',
    'ProposalDKD',
    'RelationKD',
    'SoftOutputKD',
]

import_files(__name__, __path__)
