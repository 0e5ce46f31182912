"""Typed errors. Each says what is wrong, what was expected, what there is,
and what to write instead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class MkdError(Exception):
    """Base of every error that mkd_det raises on purpose.

    Args:
        message: What is wrong, in one sentence.
        expected: What would have been right.
        actual: What was found instead.
        available: Names that could have been written, best first.
        fix: The line to write instead.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: Any = None,
        actual: Any = None,
        available: Iterable[str] = (),
        fix: str = '',
    ) -> None:
        self.message = message
        self.expected = expected
        self.actual = actual
        self.available = tuple(available)
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.message]
        if self.expected is not None:
            lines.append(f'  expected:  {self.expected}')
        if self.actual is not None:
            lines.append(f'  actual:    {self.actual}')
        if self.available:
            lines.append('  available: ' + ', '.join(self.available))
        if self.fix:
            lines.append('  fix:       ' + self.fix.replace('\n', '\n             '))
        return '\n'.join(lines)

    def __reduce__(self) -> tuple:
        # Keyword-only arguments: the default pickling of exceptions (used by
        # worker processes to report errors) would lose them.
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(cls: type[MkdError], state: dict) -> MkdError:
    return cls(**state)


class ConfigError(MkdError):
    """A key, type or value in the distill config is not known or not valid."""


class TapError(MkdError):
    """Base of everything that can go wrong with a tap."""


class TapNotFoundError(TapError):
    """A tap's path names no module of the model."""


class TapSilentError(TapError):
    """A tapped module was never called (a container, or `.forward` was called
    directly, which passes by the hooks)."""


class TapOutputError(TapError):
    """A tapped module yields something that holds no feature levels."""


class TapNoGradError(TapError):
    """A student tap yields tensors through which no gradient flows (frozen,
    detached, or inside a re-entrantly checkpointed module)."""


class TapOverwrittenError(TapError):
    """A tapped tensor was changed in place after it was captured."""


class TeacherError(MkdError):
    """Base of everything that can go wrong with a teacher."""


class TeacherFileError(TeacherError):
    """A teacher's config is missing or has no model."""


class TeacherKeysError(TeacherError):
    """A teacher's checkpoint does not fit its model completely."""


class TeacherClassesError(TeacherError):
    """Teacher and data (or student) disagree about the classes."""


class TeacherChanceError(TeacherError):
    """The teacher is no better than chance on the validation set."""


class CheckpointError(MkdError):
    """Base of everything that can go wrong with a checkpoint file."""


class CheckpointFileError(CheckpointError):
    """A checkpoint is missing, truncated or no checkpoint."""


class CheckpointKeysError(CheckpointError):
    """A checkpoint does not fit the model that it was given for."""


class CheckpointSaveError(CheckpointError):
    """A checkpoint could not be written; the previous one is still there."""


class UntrustedCheckpointError(CheckpointError):
    """A checkpoint holds pickled objects beyond tensors and plain types."""


class PlanError(MkdError):
    """The terms, adapters and taps of a config do not fit together."""


class ShapeMismatchError(PlanError):
    """A loss cannot compare what its two taps yield."""


class HeadKindError(PlanError):
    """A loss does not fit the kind of head (sigmoid, softmax, ...)."""


class DataError(MkdError):
    """Base of everything that can go wrong with the data."""


class AnnotationError(DataError):
    """An annotation file is missing, empty, or holds impossible boxes."""


class ImageError(DataError):
    """An image is missing or cannot be read."""


class ResumeError(MkdError):
    """A checkpoint cannot continue this run."""


class ExperimentError(MkdError):
    """A training of an experiment failed, or its folder is in use."""


class EnvironmentVersionError(MkdError):
    """An installed package is too old, or does not work with another."""


@contextmanager
def as_config_error(what: str) -> Iterator[None]:
    """Turn any error of what is built inside into ConfigError; typed ones stay.

    Args:
        what: What is built, for the message.
    """
    try:
        yield
    except MkdError:
        raise
    except Exception as error:
        # mmengine puts the words of the deepest one into the outer ones.
        words = error.args[0] if isinstance(error, KeyError) and error.args else error
        lines = str(words).splitlines() or ['']
        raise ConfigError(
            f'{what} cannot be built from its config',
            actual=f'{type(error).__name__}: {lines[0]}',
            fix='--debug shows where',
        ) from error


@contextmanager
def prefix_errors(whom: str) -> Iterator[None]:
    """Let typed errors from inside begin with whom they are about."""
    try:
        yield
    except MkdError as error:
        if not error.message.startswith(whom):
            error.message = f'{whom}: {error.message}'
        raise


def nearest_names(name: str, known: Iterable[str], limit: int = 8) -> list[str]:
    """`known`, the closest matches to `name` first, at most `limit` of them."""
    known = list(dict.fromkeys(known))
    close = get_close_matches(name, known, n=max(limit, 1), cutoff=0.5)
    return (close + [k for k in known if k not in close])[:limit]


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise ConfigError for the first of `given` that is not in `known`."""
    known = tuple(known)
    for key in given:
        if key not in known:
            raise ConfigError(
                f'{where}: unknown key {key!r}',
                actual=key,
                available=nearest_names(key, known, limit=len(known)),
            )


def is_number(value: Any) -> bool:
    """A finite number, and no bool."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def is_integer(value: Any) -> bool:
    """A whole number, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_string_keys(value: Any, where: str) -> None:
    """Raise ConfigError unless `value` is a dict with names as keys, or None."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(
            f'{where} must be a dict', actual=repr(value), fix='dict(name=...)'
        )
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f'{where}: {key!r} is no name', expected='a string')
