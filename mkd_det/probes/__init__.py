"""Probes: adapters that run a part of the frozen teacher again."""

from ..registry import import_files
from .cross_head import CrossHead
from .proposal_head import ProposalHead

__all__ = ['CrossHead', 'ProposalHead']

import_files(__name__, __path__)
