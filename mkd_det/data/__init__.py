"""Data: checks before training, and the dataset of the demo.

`check_data(cfg)` checks the files that a config names; `check_loaders(cfg)` builds
dataloaders and evaluators as a runner does. `digits` makes the images of the demo; it
is imported by name, because it needs the extra `demo`.
"""

from .check import check_data
from .loaders import check_loaders

__all__ = ['check_data', 'check_loaders']
