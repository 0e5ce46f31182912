"""The contract of every branch."""

from __future__ import annotations

from torch import Tensor, nn

from ..structures import Levels


class Branch:
    """A trainable addition to the student itself, folded away on export.

    Not an `nn.Module`: what it adds lives inside the student, so that the
    student's forward uses it and the optimizer sees it.
    """

    def attach(self, student: nn.Module) -> None:
        """Put the addition into the student. It changes no output yet."""
        raise TypeError(f'{type(self).__name__} must define attach()')

    def detach(self) -> None:
        """Take the addition out again; `attach` puts the same one back."""
        raise TypeError(f'{type(self).__name__} must define detach()')

    def taps(self) -> dict[str, tuple[str, ...]]:
        """What terms can read as `<branch>.<key>`: module paths, a level each."""
        return {}

    def losses(self, levels: dict[str, Levels]) -> dict[str, Tensor]:
        """The branch's own losses, logged as `loss_<branch>_<key>`.

        Args:
            levels: What the modules of `taps` yielded in this step.
        """
        return {}

    def fold(self, state: dict[str, Tensor]) -> None:
        """Turn the student's state dict, in place, into the plain student's."""
        raise TypeError(f'{type(self).__name__} must define fold()')

    def unfold(self, state: dict[str, Tensor]) -> None:
        """The reverse, for a plain state dict: the addition starts at zero."""
        raise TypeError(f'{type(self).__name__} must define unfold()')
