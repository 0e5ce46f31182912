"""Makes mmengine read checkpoints with `read_checkpoint`."""

from __future__ import annotations

import re
from typing import Any

from mmengine.runner import CheckpointLoader

from .addresses import REMOTE_SCHEMES, ZOOS
from .checkpoint import read_checkpoint

# `gpu_ids = range(0, 2)` or `gpu_ids = [0, 1]` on a line of a config of mmdet 2.
_GPU_IDS = re.compile(
    r'^gpu_ids *= *(?:\[([\d, ]*)\]|range\((\d{1,4}), (\d{1,4})\)) *$', re.MULTILINE
)


def use_our_reader() -> None:
    """Let mmengine load every checkpoint of this process with `read_checkpoint`.

    `load_from`, `init_cfg`, resuming, `best_ckpt`, `init_detector`: all of them ask
    mmengine's `CheckpointLoader`, whatever the address looks like.
    """
    schemes = ['', 'http://', 'https://', 'pavi://', *REMOTE_SCHEMES, *ZOOS]
    CheckpointLoader.register_scheme(schemes, load_from_mkd_det, force=True)


def load_from_mkd_det(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint for mmengine.

    Args:
        filename: A path, an address, or a name of a model.
        map_location: Not used. Whoever loads the weights copies them to the model's
            device, and random states must stay on the CPU.

    Returns:
        Its content, with nothing in it that mmengine would execute.
    """
    content = read_checkpoint(filename)
    meta = content.get('meta')
    if isinstance(meta, dict) and 'config' in meta:
        content['meta'] = _without_code(meta)
    return content


def _without_code(meta: dict[str, Any]) -> dict[str, Any]:
    """Return `meta` with a config that mmengine can execute without harm.

    mmengine's runners execute `meta['config']`, which mmdet 2 wrote, when they resume.
    They need one line of it, to compare the number of GPUs.
    """
    meta = dict(meta)
    config = meta.pop('config')
    found = _GPU_IDS.search(config) if isinstance(config, str) else None
    if found:
        listed, first, last = found.groups()
        count = (
            len(re.findall(r'\d+', listed))
            if listed is not None
            else max(int(last) - int(first), 0)
        )
        meta['config'] = f'gpu_ids = {list(range(count))}\n'
    return meta
