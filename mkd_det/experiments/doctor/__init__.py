"""Doctor: what is wrong with a distillation, found in half a minute."""

from .finding import OK, WARNING, WRONG, Finding
from .run import Settings, diagnose

__all__ = ['OK', 'WARNING', 'WRONG', 'Finding', 'Settings', 'diagnose']
