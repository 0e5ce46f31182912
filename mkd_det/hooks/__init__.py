"""Hooks for mmengine's runner: one hook a file, found without a list."""

from ..registry import import_files

import_files(__name__, __path__)
