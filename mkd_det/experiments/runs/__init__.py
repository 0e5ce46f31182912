"""Trainings in processes of their own: skipped when finished, resumed when stopped."""

from .execution import run_training
from .history import History, read_history
from .jobs import JobLauncher
from .launchers import Launcher
from .parallel import run_in_parallel
from .progress import Display, LineDisplay, Tracker, make_display
from .training_run import TrainingResult, TrainingRun, digest

__all__ = [
    'Display',
    'History',
    'JobLauncher',
    'Launcher',
    'LineDisplay',
    'Tracker',
    'TrainingResult',
    'TrainingRun',
    'digest',
    'make_display',
    'read_history',
    'run_in_parallel',
    'run_training',
]
