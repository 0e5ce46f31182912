"""Parts of the distill config: adapters, branches, terms, and how they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError
from ..parsing import key, parse

# A tap in a config: 'neck', 'bbox_head:in', or a list of paths; see `taps.py`.
TapText = str | tuple[str, ...]


# How levels find each other: by input pixels per cell, or by their place in the row.
Match = Literal['stride', 'index']


# Smallest and largest side of the image that shapes are probed with, in pixels.
PROBE_SIDES = (8, 4096)


def check_tap_names(taps: Mapping[str, Any]) -> None:
    """Raise ConfigError for a name of a tap that is no identifier."""
    for name in taps:
        if not name.isidentifier():
            raise ConfigError(
                f'tap {name!r} cannot be a name',
                expected='letters, digits and underscores',
            )


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter: a module between student and teacher knowledge.

    Args:
        type: A registered adapter or probe, or its class.
        student: What it reads of the student: a tap or `<branch>.<key>`.
        teacher: What it reads of a teacher: `<teacher>.<tap>`.
        match: How levels of student and teacher find each other: 'stride' (input
            pixels per cell; levels without partner are left out) or 'index'.
        arguments: All other keys: arguments of the adapter's class.
    """

    type: str | type
    student: str = ''
    teacher: str = ''
    match: Match = 'stride'
    arguments: dict[str, Any] = key(rest=True)

    def to_build(self) -> dict[str, Any]:
        """Return the dict that the adapter is built from."""
        return {'type': self.type, **self.arguments}


@dataclass(frozen=True)
class BranchConfig:
    """One branch: a trainable addition to the student.

    Args:
        type: A registered branch, or its class.
        arguments: All other keys: arguments of the branch's class.
    """

    type: str | type
    arguments: dict[str, Any] = key(rest=True)

    def to_build(self) -> dict[str, Any]:
        """Return the dict that the branch is built from."""
        return {'type': self.type, **self.arguments}


@dataclass(frozen=True)
class TermConfig:
    """One term: a loss between knowledge of the student and of a teacher.

    Args:
        type: A registered loss, or its class.
        student: What it reads of the student: a tap, `<adapter>.student` or
            `<branch>.<key>`.
        teacher: What it reads of a teacher: `<teacher>.<tap>` or `<adapter>.teacher`.
        weight: Factor on the loss; 0 switches the term off. None: the default of the
            loss, which is 1 for those of this package.
        match: How levels of student and teacher find each other, as for adapters.
        only_with: Module paths that student and teacher must have for this term; it is
            off, and the plan says why, where one of them is missing. `'a|b'` stands
            for one of the two.
        arguments: All other keys: `schedule`, arguments of the loss's class, and what
            the loss reads besides (`PairLoss.also`).
    """

    type: str | type
    student: str = ''
    teacher: str = ''
    weight: float | None = None
    match: Match = 'stride'
    only_with: tuple[str, ...] = ()
    arguments: dict[str, Any] = key(rest=True)

    def to_build(self) -> dict[str, Any]:
        """Return the dict that the loss is built from, and what it reads besides."""
        weight = {} if self.weight is None else {'weight': self.weight}
        return {'type': self.type, **weight, **self.arguments}


@dataclass(frozen=True)
class BalanceConfig:
    """What keeps the terms at a wanted share of the task's gradient.

    Args:
        type: A registered balance (`GradientShare`), or its class.
        arguments: All other keys: arguments of the balance's class.
    """

    type: str | type
    arguments: dict[str, Any] = key(rest=True)

    def to_build(self) -> dict[str, Any]:
        """Return the dict that the balance is built from."""
        return {'type': self.type, **self.arguments}


@dataclass(frozen=True)
class ProbeConfig:
    """The input that shapes are probed with, for models that get no usual images.

    Args:
        shape: Its shape without the batch, such as (C, H, W) or, for videos,
            (C, T, H, W). None: the channels of the model's preprocessor, and
            `probe_size`.
        function: A function that gets a model and returns inputs and data samples for
            one forward, as the model's preprocessor would make them. For models that
            need data samples. `probe='my_module.example'` is the short form.
    """

    shape: tuple[int, ...] | None = key(
        None, words='a shape without the batch', example='probe=dict(shape=(1, 64, 64))'
    )
    function: Any = key(None, words='a function, or its module and name')

    @classmethod
    def parse(cls, given: Any) -> ProbeConfig:
        """Parse the value of `probe`: a dict, or a function alone."""
        if isinstance(given, str) or callable(given):
            given = dict(function=given)
        return parse(cls, given, 'probe')

    def __post_init__(self) -> None:
        shape, function = self.shape, self.function
        named = (isinstance(function, str) and '.' in function) or callable(function)
        good = function is None or (named and shape is None)
        if not good or (shape is not None and (len(shape) < 2 or min(shape) < 1)):
            raise ConfigError(
                'probe must be a shape (two or more numbers above 0) or a function',
                actual=repr(shape if function is None else function),
                fix="probe=dict(shape=(1, 64, 64))\nprobe='my_module.example'",
            )


@dataclass(frozen=True)
class SamplingConfig:
    """How the teachers of a step are picked.

    Args:
        keep_prob: Probability to keep each teacher, above 0 and at most 1.
        drop_exact: Number of teachers to drop in each step, instead of `keep_prob`.
        seed: Seed of the picks.
        always: Teachers that are never dropped: a name or a list of names.
    """

    keep_prob: float = 1.0
    drop_exact: int = 0
    seed: int = 0
    always: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.keep_prob <= 1:
            raise ConfigError(
                'keep_prob must be above 0 and at most 1', actual=self.keep_prob
            )
        if self.drop_exact < 0:
            raise ConfigError('drop_exact must be 0 or more', actual=self.drop_exact)
        if self.drop_exact and self.keep_prob < 1:
            raise ConfigError('give keep_prob or drop_exact, not both')
        if isinstance(self.always, str):
            object.__setattr__(self, 'always', (self.always,))  # frozen


@dataclass(frozen=True)
class UnlabeledConfig:
    """What images without labels teach; see `UnlabeledImages`.

    Args:
        weight: How much such an image counts in the terms; a labelled one counts 1.
        terms: Names of the terms that read such images; all that need no ground truth
            if None.
        truth: `<teacher>.<tap>` of a dense head, whose confident boxes serve as ground
            truth of such images for the terms that need boxes. Those terms read
            labelled images only if None.
        score_thr: Least score of these boxes.
    """

    weight: float = 1.0
    terms: tuple[str, ...] | None = key(
        None, words='a list of terms', example="unlabeled=dict(terms=['loss_soft'])"
    )
    truth: str | None = None
    score_thr: float = 0.5

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError('unlabeled.weight must be 0 or more', actual=self.weight)
        if not 0 <= self.score_thr <= 1:
            raise ConfigError(
                'unlabeled.score_thr must be between 0 and 1', actual=self.score_thr
            )
