"""Holds terms near a wanted share of the task's gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from .errors import ConfigError, is_number, nearest
from .registry import BALANCES

TASK = 'task'


def gradient_norms(
    losses: Mapping[str, Tensor], parameters: Sequence[Tensor]
) -> dict[str, Tensor]:
    """L2 norm of each loss's gradient on the same parameters, mean over all ranks.

    A backward pass a loss; the graph stays for the step's own.

    Args:
        losses: Scalars, by name; on every rank the same names.
        parameters: Those that the losses share.
    """
    norms = {}
    for name, loss in losses.items():
        squares = loss.new_zeros(())
        if loss.requires_grad:
            grads = torch.autograd.grad(
                loss, parameters, retain_graph=True, allow_unused=True
            )
            squares = sum(
                (g.float().square().sum() for g in grads if g is not None), squares
            )
        norms[name] = squares.sqrt()
        all_reduce(norms[name], 'mean')
    return norms


def shared_parameters(student: nn.Module, on: str) -> list[Tensor]:
    """Trained parameters of a module of the student.

    Raises:
        ConfigError: It has none, or there is no such module.
    """
    modules = dict(student.named_modules())
    if on not in modules:
        raise ConfigError(
            f'on={on!r} is no module of the student',
            available=nearest(on, [name for name in modules if name], limit=8),
            hint="on='backbone'",
        )
    found = [p for p in modules[on].parameters() if p.requires_grad]
    if not found:
        raise ConfigError(f'on={on!r}: all parameters of the module are frozen')
    return found


@BALANCES.register_module()
class GradientShare(nn.Module):
    r"""Scales each term so that its gradient has a wanted share of the task's.

    .. math:: f_k \leftarrow f_k^{m} \left(
        \frac{s_k \, \| \nabla L_{task} \|}{\| \nabla L_k \|}\right)^{1 - m}

    on the parameters of one module, measured every `interval` iterations; the first
    measurement sets the factor. As gradients are compared, not values, neither the
    size of a loss nor its weight matters: the weight of a term with a share only tells
    how it grows and fades by its schedule. (GradNorm, Chen et al., ICML 2018, arXiv
    1711.02257, balances rates of learning; here the shares are given.)

    The factors are saved with the training, and logged as `stat_<term>_factor`.

    Args:
        terms: Names of all terms that are on.
        shares: Of each term, or one for all. Terms that are not named keep their
            weight.
        on: Module of the student whose parameters count.
        interval: Iterations between measurements, each a backward pass a term.
        momentum: m, from 0 to below 1.
    """

    def __init__(
        self,
        terms: Sequence[str],
        shares: Mapping[str, float] | float,
        on: str = 'backbone',
        interval: int = 50,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        given = shares if isinstance(shares, Mapping) else dict.fromkeys(terms, shares)
        for name, share in given.items():
            if name not in terms:
                raise ConfigError(
                    'balance: a share is for a term that is on',
                    actual=name,
                    available=nearest(str(name), list(terms), limit=8),
                )
            if not is_number(share) or share <= 0:
                raise ConfigError(
                    f'balance: the share of {name} must be a number above 0',
                    actual=share,
                    hint=f'shares=dict({name}=0.5)',
                )
        if interval < 1 or not 0 <= momentum < 1:
            raise ConfigError(
                'balance: interval must be 1 or more, momentum from 0 to below 1',
                actual=(interval, momentum),
            )
        self.shares = dict(given)
        self.on, self.interval, self.momentum = on, interval, momentum
        # 0: not measured yet.
        self.factors: Tensor
        self.register_buffer('factors', torch.zeros(len(self.shares)))

    def measure(
        self, losses: Mapping[str, Tensor], parameters: Sequence[Tensor]
    ) -> None:
        """Bring the factors up to date.

        Args:
            losses: 'task', and the terms that take part, each a scalar.
            parameters: See `shared_parameters`.
        """
        names = [name for name in self.shares if name in losses]
        norms = gradient_norms(
            {name: losses[name] for name in (TASK, *names)}, parameters
        )
        for index, (name, share) in enumerate(self.shares.items()):
            if name not in norms or not norms[name] > 0 or not norms[TASK] > 0:
                continue
            wanted = (share * norms[TASK] / norms[name]).clamp(1e-8, 1e8)
            old = self.factors[index]
            kept = old**self.momentum * wanted ** (1 - self.momentum)
            self.factors[index] = torch.where(old > 0, kept, wanted)

    def factor(self, name: str) -> Tensor | None:
        """Of a term; None where it has no share, or was not measured yet."""
        if name not in self.shares:
            return None
        factor = self.factors[list(self.shares).index(name)]
        return factor if factor > 0 else None
