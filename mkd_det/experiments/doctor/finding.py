"""What a check has found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import MkdError

# Levels, from good to bad.
OK, WARNING, WRONG = 'ok', 'warning', 'wrong'


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Args:
        check: Name of the check.
        level: 'ok', 'warning' or 'wrong'.
        message: What was found.
        fix: What to do; empty where nothing is to be done.
    """

    check: str
    level: str
    message: str
    fix: str = ''

    @classmethod
    def of_error(cls, check: str, error: MkdError) -> Finding:
        """Return what a typed error says.

        Args:
            check: Name of the check.
            error: The error.
        """
        parts = [error.message]
        if error.expected is not None:
            parts.append(f'expected: {error.expected}')
        if error.actual is not None:
            parts.append(f'actual: {error.actual}')
        if error.available:
            parts.append(f'available: {", ".join(error.available)}')
        fix = error.fix or (error.available and f'one of {error.available[0]}, ...')
        return cls(check, WRONG, '; '.join(parts), fix or 'see the message')

    def to_dict(self) -> dict[str, Any]:
        """Return it, ready for json."""
        return asdict(self)


def is_wrong(findings: Iterable[Finding]) -> bool:
    """Return whether something is wrong, and not only unusual."""
    return any(finding.level == WRONG for finding in findings)
