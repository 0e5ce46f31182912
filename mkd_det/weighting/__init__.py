"""Weights of terms and teachers: schedules, sampling, balance, weights by sample."""

from ..registry import import_files

import_files(__name__, __path__)
