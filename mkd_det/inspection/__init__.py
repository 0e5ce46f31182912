"""Lists the modules of a model with shapes and strides, to choose taps from."""

from .pairing import Pair, pair_modules
from .survey import ModuleOutput, select, survey

__all__ = ['ModuleOutput', 'Pair', 'pair_modules', 'select', 'survey']
