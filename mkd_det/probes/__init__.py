"""Probes: adapters that run a part of the frozen teacher again."""

from ..registry import import_files

import_files(__name__, __path__)
