"""Reading and writing small json files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .atomic import write_atomically, write_own


def write_json(path: Path, content: Any) -> None:
    """Write json to `path` atomically."""
    write_atomically(path, (json.dumps(content, indent=1) + '\n').encode())


def read_json(path: Path) -> Any:
    """Return the content of a json file, or None if it is missing or invalid."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_own_json(path: Path, content: Any) -> None:
    """Write a file of a run's own folder; a link in its place is replaced."""
    write_own(path, (json.dumps(content, indent=1) + '\n').encode())


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which json does not know, by None.

    Args:
        value: Dicts, lists and plain values.
    """
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
