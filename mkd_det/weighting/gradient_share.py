"""Keep terms at a wanted share of the task's gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from torch import Tensor, nn

from ..config import TermConfig
from ..errors import ConfigError, is_number, nearest_names
from ..registry import BALANCES

TASK = 'task'
_UNKNOWN = -1.0  # a factor that is not measured yet
_MEASURED = 'measured_'
_BACKBONE, _NECK = 'backbone', 'neck'


def gradient_norms(
    losses: Mapping[str, Tensor], parameters: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the L2 norm of each loss's gradient, mean over all ranks.

    Costs one backward pass for each loss. The graph stays for the step's own. A loss
    that a rank lacks, as the task on images without labels, counts as 0 there.

    Args:
        losses: Scalars by name.
        parameters: The parameters that the losses share.

    Raises:
        ConfigError: A part of the model allows no second backward pass.
    """
    norms = {}
    for name in _names_on_all_ranks(losses):
        try:
            norms[name] = _gradient_norm(losses.get(name), parameters)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ConfigError(
                f'the gradient of {name} cannot be measured',
                expected='a model whose graph allows several backward passes',
                actual=str(error).splitlines()[0],
                fix='with_cp=False; or no `balance` and no GradientShareHook',
            ) from error
        all_reduce(norms[name], 'mean')
    return norms


def _names_on_all_ranks(losses: Mapping[str, Tensor]) -> list[str]:
    """Return the names of all ranks, in the same order on each."""
    if get_world_size() == 1:
        return list(losses)
    return list(dict.fromkeys(sum(all_gather_object(list(losses)), [])))


def _gradient_norm(loss: Tensor | None, parameters: Sequence[Tensor]) -> Tensor:
    """Return the gradient norm of one loss; 0 without one.

    The loss is scaled up for the backward pass, as far as nothing overflows: float16
    would lose small gradients, and no gradient scaler is at work here.
    """
    if loss is None or not loss.requires_grad:
        return parameters[0].new_zeros((), dtype=torch.float32)
    scale = 2.0**16
    while True:
        found = torch.autograd.grad(
            loss * scale, parameters, retain_graph=True, allow_unused=True
        )
        squares = [g.float().square().sum() for g in found if g is not None]
        norm = torch.stack(squares).sum().sqrt() if squares else loss.new_zeros(())
        if norm.isfinite() or scale == 1:
            return norm / scale
        scale /= 2**4


def shared_parameters(student: nn.Module, on: str) -> list[Tensor]:
    """Return the trained parameters of a module of the student.

    Args:
        student: The student.
        on: Path of the module; see `counted_module`.

    Raises:
        ConfigError: There is no such module, or it has no trained parameters.
    """
    on = counted_module(student, on)
    modules = dict(student.named_modules())
    if on not in modules:
        raise ConfigError(
            f'on={on!r} is no module of the student',
            available=nearest_names(on, [name for name in modules if name], limit=8),
            fix="on='backbone'",
        )
    found = _trained(modules[on])
    if not found:
        trained = [name for name, part in student.named_children() if _trained(part)]
        raise ConfigError(
            (f'on={on!r}' if on else 'the student') + ': all parameters are frozen',
            expected='a module of the student with parameters that are trained',
            available=trained,
            fix=f'on={trained[0]!r} in the config; mkd-det calibrate --on {trained[0]};'
            ' mkd-det distill --no-calibrate'
            if trained
            else 'a student of which a part is trained: its config freezes all of it',
        )
    return found


def counted_module(student: nn.Module, on: str) -> str:
    """Return the module whose parameters count.

    A frozen backbone has no gradients: then the neck counts, which all terms and the
    task share too, or the whole student if the neck is not trained either.

    Args:
        student: The student.
        on: Path of the module that was asked for; '' is the whole student.
    """
    parts = dict(student.named_children())
    if on != _BACKBONE or on not in parts or _trained(parts[on]):
        return on
    return _NECK if _NECK in parts and _trained(parts[_NECK]) else ''


def _trained(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def shares_of(terms: Mapping[str, TermConfig]) -> dict[str, float]:
    """Return the share that each term of a config gives, of those that give one."""
    given = {name: term.arguments.get('share') for name, term in terms.items()}
    return {name: share for name, share in given.items() if share is not None}


@BALANCES.register_module()
class GradientShare(nn.Module):
    r"""Scales each term so that its gradient has a wanted share of the task's.

    .. math:: \log f_k = \frac{\sum_i m^{n - i} \log r_{k,i}}{\sum_i m^{n - i}}, \qquad
        r_{k,i} = \frac{s_k \, \| \nabla L_{task} \|}{\| \nabla L_k \|}

    over the measurements i = 1, ..., n on the parameters of one module: a mean that
    forgets, with the same weights for the first measurements as for later ones.
    Gradients are compared, not values: neither the size of a loss nor its weight
    matters. A term's schedule still applies. (GradNorm, Chen et al., ICML 2018, arXiv
    1711.02257, balances rates of learning; here the shares are given.)

    In the first iterations gradients change by orders of magnitude: an attention loss
    may pull 200 times as hard as the task at iteration 0, and 4 times at iteration 50.
    So the pauses between measurements grow with the training, from one iteration to
    `interval`, and what was measured in the warm-up is soon forgotten.

    A term has factor 0 until it is measured, in the first step that it takes part in.
    A term whose gradient is zero (no objects in a batch, say) keeps its factor. The
    factors are saved with the training, and logged as `stat_<term>_factor`.

    Args:
        terms: Names of all terms of the config.
        shares: Share of each term, or one share for all. Terms that are not named keep
            their weight. By default, the `share` that each term gives.
        on: Module of the student whose parameters count. For a backbone that is frozen
            it is the neck, or the whole student.
        interval: Iterations between measurements, at most. Each costs one backward pass
            for each term.
        momentum: m, from 0 to below 1: what a measurement still counts when the next
            one is there.
    """

    def __init__(
        self,
        terms: Sequence[str],
        shares: Mapping[str, float] | float | None = None,
        on: str = 'backbone',
        interval: int = 50,
        momentum: float = 0.3,
    ) -> None:
        super().__init__()
        given: Mapping[str, float] = {}
        if isinstance(shares, Mapping):
            given = shares
        elif shares is not None:
            given = dict.fromkeys(terms, shares)
        if not given:
            raise ConfigError(
                'balance: no term has a share', fix='shares=dict(loss_soft=0.5)'
            )
        for name, share in given.items():
            if name not in terms:
                raise ConfigError(
                    'balance: a share is for a term',
                    actual=name,
                    available=nearest_names(str(name), list(terms), limit=8),
                )
            if not is_number(share) or share <= 0:
                raise ConfigError(
                    f'balance: the share of {name} must be a number above 0',
                    actual=repr(share),
                    fix=f'shares=dict({name}=0.5)',
                )
        if interval < 1 or not 0 <= momentum < 1:
            raise ConfigError(
                'balance: interval must be 1 or more, momentum from 0 to below 1',
                actual=(interval, momentum),
            )
        self.shares = dict(given)
        self.on, self.interval, self.momentum = on, interval, momentum
        for name in self.shares:
            self.register_buffer(name, torch.tensor(_UNKNOWN))
            # What the measurements so far count together, from 0 towards 1.
            self.register_buffer(f'{_MEASURED}{name}', torch.tensor(0.0))
        # Terms whose factor is known to be measured, without asking the device.
        self._measured: set[str] = set()

    def __str__(self) -> str:
        shares = ', '.join(f'{name} {share:g}' for name, share in self.shares.items())
        return (
            f"balance: gradients on {self.on}, in shares of the task's: {shares};"
            ' their weights above 0 do not matter'
        )

    def is_due(self, iteration: int, losses: Iterable[str]) -> bool:
        """Return whether it is time to measure.

        Args:
            iteration: Iteration of the training; the same on every rank.
            losses: Names of the terms that take part.
        """
        new = {name for name in self.shares if name in losses} - self._measured
        # A resumed training has loaded factors.
        known = {name for name in new if self.get_buffer(name) != _UNKNOWN}
        self._measured |= known
        return iteration % self._pause(iteration) == 0 or bool(new - known)

    def _pause(self, iteration: int) -> int:
        """Return how many iterations lie between measurements at `iteration`.

        A power of two, up to an eighth of the iterations so far, then `interval`.
        """
        growing = 2 ** max(iteration.bit_length() - 4, 0)
        return min(growing, self.interval)

    def measure(
        self, losses: Mapping[str, Tensor], parameters: Sequence[Tensor]
    ) -> None:
        """Update the factors.

        Args:
            losses: 'task', and the terms that take part, each a scalar.
            parameters: See `shared_parameters`.
        """
        wanted = self.wanted_factors(losses, parameters)
        self._measured.update(wanted)
        for name, now in wanted.items():
            factor, known = self.get_buffer(name), self.get_buffer(_MEASURED + name)
            factor.clamp_(min=0)
            if not (now.isfinite() and now > 0):
                continue
            kept = self.momentum * known
            known.copy_(kept + 1 - self.momentum)
            past = torch.where(factor > 0, factor, now).log()
            share = torch.where(factor > 0, kept / known, torch.zeros_like(known))
            factor.copy_((share * past + (1 - share) * now.log()).exp())

    def wanted_factors(
        self, losses: Mapping[str, Tensor], parameters: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return the factor of each term at which it has its share in this step.

        Args:
            losses: 'task', and the terms that take part, each a scalar.
            parameters: See `shared_parameters`.
        """
        names = [name for name in self.shares if name in losses]
        norms = gradient_norms(
            {name: losses[name] for name in (TASK, *names)}, parameters
        )
        task = norms.pop(TASK)
        return {name: self.shares[name] * task / norm for name, norm in norms.items()}

    def factors(self) -> dict[str, Tensor]:
        """Return the factor of each term; 0 where it is not measured yet."""
        return {name: self.get_buffer(name).clamp(min=0) for name in self.shares}
