"""Checks the strategy of mmengine's FlexibleRunner."""

from __future__ import annotations

from mmengine.config import Config

from ..errors import ConfigError
from ..registry import type_name
from ..training.runtime import is_distill

# Strategies that cut a model in parts, and why a distiller cannot be cut.
_SHARDING = {
    'FSDPStrategy': "FSDP looks for its own names ('student.backbone...') in a"
    " checkpoint, and a distiller's has those of the plain student; nor does FSDP take"
    " scalar parameters, such as the scales in mmdet's heads",
    'DeepSpeedStrategy': 'DeepSpeed writes checkpoints of its own, in parts and under'
    " its own names; a distiller's have those of the plain student",
    'ColossalAIStrategy': 'ColossalAI writes checkpoints of its own, under its own'
    " names; a distiller's have those of the plain student",
}


def check_strategy(cfg: Config) -> None:
    """Raise ConfigError for a strategy that cannot train a distiller.

    FlexibleRunner trains the first epoch with these, and fails when it saves.

    Args:
        cfg: Config of a training or a test.

    Raises:
        ConfigError: The strategy cuts the model in parts.
    """
    strategy = cfg.get('strategy')
    kind = type_name(strategy.get('type')) if isinstance(strategy, dict) else strategy
    if is_distill(cfg) and kind in _SHARDING:
        raise ConfigError(
            f'{kind} cannot train a Distiller: {_SHARDING[kind]}',
            expected='one process, or data parallel processes that have all of it',
            actual=f'strategy=dict(type={kind!r}, ...)',
            fix='without `strategy` and `runner_type`; on several GPUs:'
            ' tools/dist_train.sh CONFIG GPUS, with --amp for less memory',
        )
