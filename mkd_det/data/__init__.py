"""Data: what is looked at before training, and the demo's own data set.

`check.check_data(cfg)` looks at the files that a config names;
`loaders.check_loaders(cfg)` builds what a runner builds of them. `digits` makes
the demo's pictures; it is imported by name, for it needs the `demo` extra.
"""

from .check import check_data
from .loaders import check_loaders

__all__ = ['check_data', 'check_loaders']
