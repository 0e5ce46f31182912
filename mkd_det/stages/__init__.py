"""Trainings as stages: each is skipped when done, and resumed when interrupted."""

from .alone import alone
from .files import read_json, write_json
from .history import History, read_history
from .progress import Display, Lines, Task, display
from .stage import ROOT, Result, Stage, StageError, digest, run_stage
from .together import run_together

__all__ = [
    'ROOT',
    'Display',
    'History',
    'Lines',
    'Result',
    'Stage',
    'StageError',
    'Task',
    'alone',
    'digest',
    'display',
    'read_history',
    'read_json',
    'run_stage',
    'run_together',
    'write_json',
]
