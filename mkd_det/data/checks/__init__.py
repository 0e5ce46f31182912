"""Checks of annotated datasets: one check a file, found without a list.

A file of this folder has a function `check(data: AnnotatedDataset) -> str`. It raises a
typed error for data that cannot be used, and returns a remark about data that may be
unexpected, or ''. Files are run in alphabetical order.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from .annotated_dataset import AnnotatedDataset

__all__ = ['AnnotatedDataset', 'run_checks']


def run_checks(data: AnnotatedDataset) -> list[str]:
    """Run all checks and return their remarks.

    Raises:
        DataError: The data cannot be used.
    """
    modules = (
        import_module(f'{__name__}.{module.name}')
        for module in pkgutil.iter_modules(__path__)
    )
    remarks = (module.check(data) for module in modules if hasattr(module, 'check'))
    return [remark for remark in remarks if remark]
