"""VGGs for small images."""

from __future__ import annotations

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import ConfigError
from .cifar_resnet import KAIMING

# Convolutions of each stage, by depth: those of the paper's tables, and one of each.
_STAGES = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


@MODELS.register_module()
class CifarVGG(BaseModule):
    """VGG for images of 32x32 pixels, with batch norm and one linear layer.

    Simonyan and Zisserman: "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", ICLR 2015, arXiv 1409.1556. Its three linear layers are for images of
    224 pixels; here the classifier's one follows the mean over positions, as in the
    literature on distillation (Tian et al., ICLR 2020, arXiv 1910.10699), from which
    depth 8 is, too. A depth counts the convolutions and three linear layers.

    Args:
        depth: 8, 11, 13, 16 or 19.
        base_channels: Channels of the first stage, 64 in the paper; the last two
            stages have eight times as many.
        init_cfg: As in every mmengine module.

    Shape:
        - input: (N, 3, H, W)
        - output: (N, C, H, W), (N, 2C, H/2, W/2), (N, 4C, H/4, W/4), (N, 8C, H/8, W/8),
          (N, 8C, H/16, W/16)

    Raises:
        ConfigError: There is no such depth.
    """

    def __init__(
        self,
        depth: int = 8,
        base_channels: int = 64,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg or KAIMING)
        if depth not in _STAGES:
            raise ConfigError(
                'CifarVGG: there is no such depth',
                actual=depth,
                available=[*map(str, _STAGES)],
            )
        self.stages = nn.ModuleList()
        channels = 3
        for index, count in enumerate(_STAGES[depth]):
            width = base_channels * min(2**index, 8)
            # The size halves between stages, not behind the last.
            parts: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
            for _ in range(count):
                parts += _convolution(channels, width)
                channels = width
            self.stages.append(nn.Sequential(*parts))
        self.out_channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the five stages."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return tuple(found)


def _convolution(channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
