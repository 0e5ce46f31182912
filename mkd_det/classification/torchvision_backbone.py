"""Classifiers of torchvision as backbones."""

from __future__ import annotations

from typing import Any

import torchvision
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import ConfigError, nearest_names


@MODELS.register_module()
class TorchvisionBackbone(BaseModule):
    """A torchvision classifier without its last linear layer.

    Args:
        name: Name for `torchvision.models.get_model`, such as 'mobilenet_v3_small'.
        weights: Name of weights to download, such as 'DEFAULT'. None: random weights.
        options: Further arguments of the model's builder.
        init_cfg: As in every mmengine module.

    Shape:
        - input: (N, 3, H, W)
        - output: a tuple with one tensor (N, C)

    Raises:
        ConfigError: There is no such model, it has no linear layer, or it has auxiliary
            outputs in training.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        options: dict[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        known = torchvision.models.list_models(torchvision.models)
        if name not in known:
            raise ConfigError(
                'TorchvisionBackbone: torchvision has no such classifier',
                actual=name,
                available=nearest_names(name, known),
            )
        self.model = torchvision.models.get_model(
            name, weights=weights, **(options or {})
        )
        if getattr(self.model, 'aux_logits', False):
            raise ConfigError(
                f'TorchvisionBackbone: {name} has auxiliary classifiers',
                fix='options=dict(aux_logits=False)',
            )
        linear = [
            (path, module)
            for path, module in self.model.named_modules()
            if isinstance(module, nn.Linear)
        ]
        if not linear:
            raise ConfigError(
                f'TorchvisionBackbone: {name} has no linear layer', actual=name
            )
        path, last = linear[-1]
        parent, _, child = path.rpartition('.')
        setattr(self.model.get_submodule(parent), child, nn.Identity())
        self.out_channels = last.in_features

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the input of the removed linear layer."""
        return (self.model(x).flatten(1),)
