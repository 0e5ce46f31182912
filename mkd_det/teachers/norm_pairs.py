"""Find the batch norms of a frozen model that can be folded into convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmcv.cnn.bricks.wrappers import Conv2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..taps import Tap

# Paths of convolutions, each with that of the norm that can be folded into it.
NormPairs = tuple[tuple[str, str], ...]

# Exact types: a subclass may change the weight before it uses it.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2d)


class NormPairFinder:
    """Finds out, in one forward, which batch norm reads which convolution.

    Names and the order of children prove nothing. A pair is proven when the norm gets
    the very tensor that the convolution yielded, unchanged. A convolution read by two
    norms, or a norm that also reads something else, makes no pair. Other readers of a
    convolution are not seen here; the comparison on the first batch finds them.
    """

    def __init__(self) -> None:
        self._outputs: dict[int, tuple[Tensor, str, int]] = {}
        self._norms_of: dict[str, set[str]] = {}
        self._convs_of: dict[str, set[str | None]] = {}

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Watch the forwards inside the `with` block."""
        handles = []
        for path, module in model.named_modules():
            if type(module) in CONVOLUTIONS:
                handles.append(module.register_forward_hook(self._after_conv(path)))
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(self._at_norm(path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._outputs.clear()

    def _after_conv(self, path: str) -> Any:
        def hook(_: nn.Module, args: tuple, output: Tensor) -> None:
            # Keeps the tensor, so that no later one gets its id.
            self._outputs[id(output)] = (output, path, output._version)

        return hook

    def _at_norm(self, path: str) -> Any:
        def hook(_: nn.Module, args: tuple) -> None:
            found = self._outputs.get(id(args[0]))
            same = found is not None and found[0]._version == found[2]
            conv = found[1] if found is not None and same else None
            self._convs_of.setdefault(path, set()).add(conv)
            self._norms_of.setdefault(conv or '', set()).add(path)

        return hook

    def pairs(self, model: nn.Module, taps: Iterable[Tap]) -> NormPairs:
        """Return the pairs of `model` between which none of `taps` reads."""
        outputs: set[str] = set()
        inputs: set[str] = set()
        for tap in taps:
            (inputs if tap.inputs else outputs).update(p for p, _ in tap.resolve(model))
        return tuple(
            (conv, norm)
            for norm, convs in self._convs_of.items()
            for conv in convs
            if conv is not None
            and len(convs) == len(self._norms_of[conv]) == 1
            and conv not in outputs
            and norm not in inputs
        )
