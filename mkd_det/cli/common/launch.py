"""How a command that runs a model starts: work dir and processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config


def join_processes(cfg: Config) -> None:
    """Let several processes of one launcher find each other without a GPU.

    mmengine's own way selects a GPU first. Does nothing where there is one.
    """
    from mmengine.device import get_device
    from torch import distributed

    if cfg.launcher != 'pytorch' or get_device() != 'cpu':
        return
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    # As mmengine would wrap it, but without a GPU's number.
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    cfg.setdefault('model_wrapper_cfg', dict(**wrapper, device_ids=None))


def set_work_dir(cfg: Config, config: str, work_dir: str | None) -> None:
    """Set where a run writes: the argument, else the config's, else its name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = config.rpartition('::')[2]
        cfg.work_dir = str(Path('work_dirs', Path(name).stem))
