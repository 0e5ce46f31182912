"""Small files that are there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .atomic import write_atomically


def write_json(path: Path, content: Any) -> None:
    """Write json to `path`; an interruption leaves what was there before."""
    write_atomically(path, (json.dumps(content, indent=1) + '\n').encode())


def read_json(path: Path) -> Any:
    """The content of a json file, or None where there is no valid one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
