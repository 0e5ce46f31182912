"""The contract of every branch."""

from __future__ import annotations

from torch import Tensor, nn

from ..structures import Levels


class Branch:
    """A trainable addition to the student itself, folded away on export.

    It is not an `nn.Module`: what it adds lives inside the student, where the student's
    forward uses it and the optimizer finds it.
    """

    def attach(self, student: nn.Module) -> None:
        """Put the addition into the student, without changing any output."""
        raise TypeError(f'{type(self).__name__} must define attach()')

    def detach(self) -> None:
        """Take the addition out again; `attach` puts the same one back."""
        raise TypeError(f'{type(self).__name__} must define detach()')

    def taps(self) -> dict[str, tuple[str, ...]]:
        """Return what terms can read as `<branch>.<key>`: one module path per level."""
        return {}

    def losses(self, levels: dict[str, Levels]) -> dict[str, Tensor]:
        """Return the branch's own losses, logged as `loss_<branch>_<key>`.

        Args:
            levels: Outputs of the modules of `taps` in this step.
        """
        return {}

    def fold(self, state: dict[str, Tensor]) -> None:
        """Turn the student's state dict, in place, into the plain student's."""
        raise TypeError(f'{type(self).__name__} must define fold()')

    def unfold(self, state: dict[str, Tensor]) -> None:
        """Turn a plain state dict, in place, into the student's."""
        raise TypeError(f'{type(self).__name__} must define unfold()')
