"""The input that a model is tried with, before there is any data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.utils import get_object_from_string
from torch import Tensor, nn

from ..config import ProbeConfig
from ..errors import ProbeError

_EXAMPLE = (
    "probe=dict(function='my_module.example'), with\n"
    '    def example(model):  # in my_module.py\n'
    '        return torch.zeros(1, 3, 8, 224, 224), [DataSample()]'
)


class ModelInput(NamedTuple):
    """One batch, as the model's preprocessor would make it.

    Args:
        inputs: The images (N, C, H, W), or what else the model takes.
        samples: A data sample for each image; None for images without padding.
        size: (H, W) of the images, in pixels.
    """

    inputs: Any
    samples: Sequence[Any] | None
    size: tuple[int, int]


def model_input(
    model: nn.Module,
    size: tuple[int, int],
    given: ProbeConfig | None = None,
    make: Callable[..., Tensor] = torch.zeros,
) -> ModelInput:
    """Make the input that a model is tried with.

    Args:
        model: The model.
        size: (H, W) of the image, where `given` does not say it.
        given: What the config says of the input.
        make: Makes a tensor of a shape.

    Raises:
        ProbeError: The config's function cannot be found, fails, or returns no input.
    """
    given = given or ProbeConfig()
    if given.function is not None:
        return _from_function(model, size, given.function)
    shape = given.shape or (image_channels(model), *size)
    like = next(model.parameters())
    inputs = make(1, *shape, dtype=like.dtype, device=like.device)
    return ModelInput(inputs, None, (shape[-2], shape[-1]))


def _from_function(
    model: nn.Module, size: tuple[int, int], function: Any
) -> ModelInput:
    """Ask a function of the config for inputs and data samples."""
    if isinstance(function, str):
        found = _import(function)
        if not callable(found):
            raise ProbeError(
                f'probe: there is no function {function!r}',
                expected='module and name of a function that can be imported',
                actual=function if found is None else type(found).__name__,
                fix=_EXAMPLE,
            )
        function = found
    name = getattr(function, '__qualname__', type(function).__name__)
    try:
        made = function(model)
    except Exception as error:  # of a user's function, it may be any
        raise ProbeError(
            f'probe: {name}() fails for a {type(model).__name__}',
            expected='inputs and data samples for one forward',
            actual=f'{type(error).__name__}: {error}',
            fix=_EXAMPLE,
        ) from error
    if isinstance(made, Mapping) and 'inputs' in made:
        made = made['inputs'], made.get('data_samples')
    if isinstance(made, Tensor):
        made = made, None
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise ProbeError(
            f'probe: {name}() returns no input',
            expected='(inputs, data_samples), or a dict of both',
            actual=type(made).__name__,
            fix=_EXAMPLE,
        )
    inputs, samples = made
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point():
            inputs = inputs.to(next(model.parameters()))
        size = (inputs.shape[-2], inputs.shape[-1])
    return ModelInput(inputs, samples, size)


def _import(name: str) -> Any:
    """Return the object of this module and name; None where there is none."""
    try:
        return get_object_from_string(name)
    except (ImportError, AttributeError, ValueError, TypeError):
        return None


def image_preprocessor(preprocessor: nn.Module) -> nn.Module:
    """Return the preprocessor that makes images ready.

    The preprocessor of a semi-supervised detector holds that of its branches.

    Args:
        preprocessor: Data preprocessor of a model.
    """
    return getattr(preprocessor, 'data_preprocessor', preprocessor)


def image_channels(model: nn.Module) -> int:
    """Return the number of channels of the images that a model sees.

    Its preprocessor's mean and std say so; without them, or where one number stands
    for all channels, its first convolution does.

    Args:
        model: The model.
    """
    preprocessor = image_preprocessor(model)
    mean = getattr(image_preprocessor(preprocessor), 'mean', None)
    if mean is not None and mean.numel() > 1:
        return mean.numel()
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    # A stem may get several pixels of three channels at once.
    if first is not None and first.in_channels in (1, 2, 4):
        return first.in_channels
    return 3
