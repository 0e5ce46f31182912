"""Checks of the doctor: one check a file, found without a list.

A file of this folder has a number `POSITION`, which orders the checks, and a function
`check(case: Examination) -> Iterable[Finding]`. A typed error that it raises is a
finding that is wrong; warnings that are logged are findings too. `SLOW = True` leaves
the check out of a quick examination.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType


def find_checks() -> list[tuple[str, ModuleType]]:
    """Return the checks and their names, in order."""
    modules = {
        module.name: import_module(f'{__name__}.{module.name}')
        for module in pkgutil.iter_modules(__path__)
    }
    checks = [(n, m) for n, m in modules.items() if hasattr(m, 'check')]
    checks.sort(key=lambda pair: pair[1].POSITION)
    return [(name.replace('_', ' '), module) for name, module in checks]
