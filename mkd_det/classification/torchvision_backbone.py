"""Any of torchvision's classifiers, by name."""

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
        name: As `torchvision.models.get_model` takes it: 'mobilenet_v3_small', ...
        weights: None, or a name such as 'DEFAULT' (downloaded).
        options: For the model's builder.
        init_cfg: As in every mmengine module.

    Shape:
        - input: (N, 3, H, W)
        - output: a tuple of one, (N, C)

    Raises:
        ConfigError: There is no such model, it ends in no linear layer, or it yields
            more than one output in training.
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
                f'TorchvisionBackbone: {name} ends in no linear layer', actual=name
            )
        path, last = linear[-1]
        parent, _, child = path.rpartition('.')
        setattr(self.model.get_submodule(parent), child, nn.Identity())
        self.out_channels = last.in_features

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the last linear layer would have read."""
        return (self.model(x).flatten(1),)
