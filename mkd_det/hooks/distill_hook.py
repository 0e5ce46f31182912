"""Base of users' own hooks: mmengine's moments, and two more inside a step."""

from __future__ import annotations

import weakref

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..structures import Knowledge
from ..training.runtime import get_distiller


@HOOKS.register_module()
class DistillHook(Hook):
    """A hook that also sees what passes between teachers and student.

    Subclass it, override any moment of mmengine's hooks and the two below,
    register it in mmengine's `HOOKS`, and name it in `custom_hooks`:

        @HOOKS.register_module()
        class PrintNorm(DistillHook):
            def after_knowledge(self, runner, student, teachers):
                print(student['fpn'].levels[0].norm())

    The moments are called inside the forward of a training step, on every
    rank, for as long as `runner.train()` runs. A subclass that overrides
    `before_train` or `after_train` calls `super()`'s.
    """

    def after_knowledge(
        self,
        runner: Runner,
        student: dict[str, Knowledge],
        teachers: dict[str, dict[str, Knowledge]],
    ) -> None:
        """Student and active teachers have run; no term has been computed.

        Do not keep the tensors: they hold the graph of the whole step.

        Args:
            runner: The runner of the training process.
            student: The student's knowledge by tap.
            teachers: Each active teacher's knowledge by tap.
        """

    def after_terms(self, runner: Runner, losses: dict[str, Tensor]) -> None:
        """All losses of the step stand; `parse_losses` has not summed them.

        A statistic that is added here, under a name that begins with `stat_`,
        is logged beside the losses and not trained on.

        Args:
            runner: The runner of the training process.
            losses: Losses and statistics by name.
        """

    def before_train(self, runner: Runner) -> None:
        """Start watching the distiller."""
        self._stop_watching(runner)
        observer = _Observer(self, runner)
        get_distiller(runner, type(self).__name__).observers.append(observer)

    def after_train(self, runner: Runner) -> None:
        """Stop watching it."""
        self._stop_watching(runner)

    def _stop_watching(self, runner: Runner) -> None:
        observers = get_distiller(runner, type(self).__name__).observers
        # Those of hooks that are gone (a training that raised) go with it.
        observers[:] = [
            o
            for o in observers
            if not isinstance(o, _Observer) or o.hook not in (None, self)
        ]


class _Observer:
    """What the distiller knows of a hook: neither hook nor runner is kept
    alive by it, so a training that raises leaves nothing behind."""

    def __init__(self, hook: DistillHook, runner: Runner) -> None:
        self._hook, self._runner = weakref.ref(hook), weakref.ref(runner)

    @property
    def hook(self) -> DistillHook | None:
        return self._hook()

    def on_knowledge(self, student: dict, teachers: dict) -> None:
        hook, runner = self._hook(), self._runner()
        if hook is not None and runner is not None:
            hook.after_knowledge(runner, student, teachers)

    def on_terms(self, losses: dict[str, Tensor]) -> None:
        hook, runner = self._hook(), self._runner()
        if hook is not None and runner is not None:
            hook.after_terms(runner, losses)
