"""Where a run writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config


def set_work_dir(cfg: Config, config: str, work_dir: str | None) -> None:
    """Set where a run writes: the argument, else the config's, else its name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = config.rpartition('::')[2]
        cfg.work_dir = str(Path('work_dirs', Path(name).stem))
