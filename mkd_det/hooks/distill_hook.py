"""Base class of hooks that read the knowledge and losses of a training step."""

from __future__ import annotations

import weakref

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..distiller.losses import StepLosses
from ..structures import Knowledge
from ..training.runtime import as_distiller, get_distiller


@HOOKS.register_module()
class DistillHook(Hook):
    """A hook with two more methods, called inside a training step.

    Subclass it, override methods of mmengine's hooks and the two below, register the
    class in mmengine's `HOOKS`, and add it to `custom_hooks`:

        @HOOKS.register_module()
        class PrintNorm(DistillHook):
            def after_knowledge(self, runner, student, teachers):
                print(student['fpn'].levels[0].norm())

    Both methods are called inside the forward of a training step, on every rank, while
    `runner.train()` runs. A subclass that overrides `before_train` or `after_train`
    must call those of `super()`.
    """

    def after_knowledge(
        self,
        runner: Runner,
        student: dict[str, Knowledge],
        teachers: dict[str, dict[str, Knowledge]],
    ) -> None:
        """Read the knowledge of a step: called before the terms are computed.

        Do not keep the tensors: they hold the graph of the whole step.

        Args:
            runner: The runner of the training process.
            student: Knowledge of the student by tap.
            teachers: Knowledge of each active teacher by tap.
        """

    def after_terms(self, runner: Runner, losses: StepLosses) -> None:
        """Read the losses of a step: called before `parse_losses` sums them.

        A value that is added here under a name that begins with `stat_` is logged with
        the losses, and not trained on.

        Args:
            runner: The runner of the training process.
            losses: Losses and statistics by name; `losses.totals()` sums them by term.
        """

    def check_before_start(self, cfg: Config, model: nn.Module) -> None:
        """Raise what would stop the training later; called before it begins.

        Args:
            cfg: Config of the training.
            model: Its model.

        Raises:
            ConfigError: The model is no `Distiller`.
        """
        as_distiller(model, type(self).__name__)

    def before_train(self, runner: Runner) -> None:
        """Register with the distiller."""
        self._unregister(runner)
        observer = _Observer(self, runner)
        get_distiller(runner, type(self).__name__).observers.append(observer)

    def after_train(self, runner: Runner) -> None:
        """Unregister from the distiller."""
        self._unregister(runner)

    def _unregister(self, runner: Runner) -> None:
        observers = get_distiller(runner, type(self).__name__).observers
        # Also removes observers of deleted hooks, left by a training that raised.
        observers[:] = [
            o
            for o in observers
            if not isinstance(o, _Observer) or o.hook not in (None, self)
        ]


class _Observer:
    """Calls a hook without keeping the hook or the runner alive.

    A training that raises therefore leaves no references behind.
    """

    def __init__(self, hook: DistillHook, runner: Runner) -> None:
        self._hook, self._runner = weakref.ref(hook), weakref.ref(runner)

    @property
    def hook(self) -> DistillHook | None:
        return self._hook()

    def on_knowledge(self, student: dict, teachers: dict) -> None:
        hook, runner = self._hook(), self._runner()
        if hook is not None and runner is not None:
            hook.after_knowledge(runner, student, teachers)

    def on_terms(self, losses: StepLosses) -> None:
        hook, runner = self._hook(), self._runner()
        if hook is not None and runner is not None:
            hook.after_terms(runner, losses)
