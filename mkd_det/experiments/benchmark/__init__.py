"""Measures what distillation costs: time and memory of a training step.

Three phases take turns, in an order that rotates, on the same batches:

- `S`: training step of the plain student (preprocessing, forward, loss, backward,
  optimizer), built from the config's student alone.
- `T`: forward of the needed part of the teachers at speed 'off', on preprocessed
  images.
- `K`: training step of the distiller.

K / (S + T) is the overhead: at speed 'off', 1.0 would mean that adapters and terms cost
nothing.
"""

from .models import CACHED, BenchmarkModels
from .report import results_table, summary_lines
from .run import Settings, run_benchmark

__all__ = [
    'CACHED',
    'BenchmarkModels',
    'Settings',
    'results_table',
    'run_benchmark',
    'summary_lines',
]
