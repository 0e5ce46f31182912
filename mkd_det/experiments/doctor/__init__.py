"""Doctor: what is wrong with a distillation, found before it trains."""

from .finding import OK, WARNING, WRONG, Finding
from .run import Settings, diagnose

__all__ = ['OK', 'WARNING', 'WRONG', 'Finding', 'Settings', 'diagnose']
