"""Typed errors: what is wrong, what was expected, what there is, and the fix.

The page "Errors" of the documentation is generated from these docstrings: the first
paragraphs say when an error appears, the one that begins with `Fix:` what to do.
"""

from __future__ import annotations

import math
import re
import traceback
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
    """A key, type, name or value of the config is not known or not valid.

    Fix: take one of the names that the message lists.
    """


class TapError(MkdError):
    """Base of all errors of taps."""


class TapNotFoundError(TapError):
    """A tap's path names no module of the model.

    Fix: `mkd-det inspect` lists all modules.
    """


class TapSilentError(TapError):
    """A tapped module was never called.

    It is a container (`ModuleList`), or the model calls its `.forward`, which bypasses
    hooks.

    Fix: tap its children, `'path.*'`, or the module around it.
    """


class TapOutputError(TapError):
    """A tapped module yields no tensors that could be feature levels.

    Fix: tap a module inside of it.
    """


class TapNoGradError(TapError):
    """No gradient flows through what a student's tap yields.

    The module is frozen, detached, or inside of a re-entrantly checkpointed module.

    Fix: tap a later module, or set `frozen_stages=-1` or `with_cp=False`.
    """


class TapOverwrittenError(TapError):
    """A tapped tensor was changed in place after it was captured.

    Fix: tap the enclosing module.
    """


class TeacherError(MkdError):
    """Base of all errors of teachers."""


class TeacherFileError(TeacherError):
    """A teacher's config is missing or has no model.

    Fix: correct the path of `cfg`.
    """


class TeacherKeysError(TeacherError):
    """A teacher's checkpoint does not fit its model completely.

    Fix: give the `cfg` that it was trained with; if its keys have a prefix, write it:
    `prefix='module.'`.
    """


class TeacherClassesError(TeacherError):
    """The classes of a teacher differ from those of the data or the student.

    Their number, names or order differ, or a class map has no class in common.

    Fix: `class_map='auto'` for the teacher, which teaches the classes that both know;
    or take a teacher that was trained on these classes. If only its features are
    used: `default_hooks=dict(teacher_check=dict(check_classes=False))`.
    """


class TeacherChanceError(TeacherError):
    """A teacher is no better than chance on the validation set.

    Fix: check its checkpoint, class order, `data_preprocessor` and `test_cfg`.
    """


class CheckpointError(MkdError):
    """Base of all errors of checkpoint files."""


class CheckpointFileError(CheckpointError):
    """A checkpoint is missing, damaged, truncated, empty or no checkpoint.

    Also: a checksum in it is wrong, it describes more than a file of its size can hold,
    it holds sparse or quantized tensors, or its server does not send it.

    Fix: correct the path, or download the file again.
    """


class CheckpointKeysError(CheckpointError):
    """A checkpoint does not fit the model that it was given for.

    Fix: give the config that it was trained with.
    """


class CheckpointSaveError(CheckpointError):
    """A checkpoint could not be written; the previous one is still there.

    Fix: make room on the disk, then train with `--resume`.
    """


class UntrustedCheckpointError(CheckpointError):
    """A checkpoint holds pickled objects other than tensors and plain types.

    Unpickling them can run code.

    Fix: only if you trust the source of the file: `trust_checkpoint=True` for a
    teacher; for other files, the command that the message shows, which writes the
    weights to a new file.
    """


class PlanError(MkdError):
    """The terms, adapters and taps of a config do not fit together.

    For example: a whole head under a loss on features, an adapter that reads an
    adapter, ground truth that the data lacks, `inherit` of a module that fits in part.

    Fix: the message says what to change.
    """


class ProbeError(PlanError):
    """A model cannot be run on an image of zeros, to find the shapes of its taps.

    It needs another image size, other channels, data samples or several frames.

    Fix: `probe_size` or `probe=dict(...)`, as the message shows.
    """


class ShapeMismatchError(PlanError):
    """A loss cannot compare what its two taps yield.

    The number of levels, the channels or the sizes differ.

    Fix: add the adapter that the message shows, or tap modules of equal stride.
    """


class HeadKindError(PlanError):
    """A head does not have what a loss or a probe compares.

    Softmax and sigmoid classes, boxes, positions, anchors, distributions, layers or
    proposals differ or are missing.

    Fix: `classes='auto'`, `boxes='auto'`, or one of the recipes that the message names.
    """


class DataError(MkdError):
    """Base of all errors of data."""


class AnnotationError(DataError):
    """An annotation file is missing, empty, lacks a class or has boxes without area.

    Fix: correct the path or `metainfo`; drop such boxes with
    `filter_cfg=dict(bbox_min_size=1)`.
    """


class ClassOrderError(DataError):
    """A label means one class in one part of the data, and another class in another.

    mmdet numbers the classes of a COCO json in the order of its categories, whatever
    `metainfo` says.

    Fix: write the categories of all annotation files in the same order.
    """


class ImageError(DataError):
    """An image is missing or cannot be decoded.

    Fix: correct `data_root` or `data_prefix`, or copy the image again.
    """


class PathError(MkdError):
    """A file or folder cannot be opened.

    There is no permission, its name is too long, or a link leads in a circle.

    Fix: correct the path, or `chmod u+r` the file.
    """


class ResumeError(MkdError):
    """A checkpoint cannot continue this run.

    It is of another plan or another teacher, of a plain student, or has no optimizer
    state.

    Fix: resume with the config that it was trained with, or use `load_from` without
    resume.
    """


class DivergenceError(MkdError):
    """A loss, a gradient or a weight is not finite: the training has diverged.

    The message names the term or the layer, the iteration, the last checkpoint (which
    is finite) and a file with the step, which `mkd-det replay` runs again.

    Fix: a smaller learning rate or weight of the term, or
    `optim_wrapper=dict(clip_grad=dict(max_norm=35))`.
    """


class ExportError(MkdError):
    """A student cannot be written as ONNX.

    Its heads need post-processing of each other (two-stage detectors), an operation has
    no counterpart in ONNX, onnxruntime yields other outputs than torch, or a package is
    missing.

    Fix: `mkd-det export --onnx --features` exports backbone and neck; without `--onnx`
    the student is written for torch.
    """


class ExperimentError(MkdError):
    """A training of an experiment failed, or its folder is in use.

    Fix: read the log that the message names, or wait for the other process.
    """


class OwnCodeError(MkdError):
    """Code of your own, a metric or a first step has raised an exception.

    Your own metric, loop, hook, loss or transform: before a training only its
    constructor is tried. Or a model, in its first step, by a value of its config.

    Fix: correct the line that the message names, or the config that chose the class.
    The message names a file with the traceback.
    """


class EnvironmentVersionError(MkdError):
    """A package is too old, or mmcv was compiled for another torch.

    Fix: run the `pip` line in the message.
    """


@contextmanager
def as_config_error(what: str) -> Iterator[None]:
    """Turn exceptions raised inside into ConfigError; typed errors pass unchanged.

    Args:
        what: The object that is built inside, for the message.

    Raises:
        ConfigError: Anything but an MkdError was raised inside.
    """
    try:
        yield
    except MkdError:
        raise
    except Exception as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        raise ConfigError(
            f'{what} cannot be built from its config',
            actual=describe_exception(error),
            fix=fix_of_argument(unknown[1])
            if unknown
            else 'add --debug to see the traceback',
        ) from error


def describe_exception(error: Exception) -> str:
    """Return an exception in one line; one without words says where it was raised.

    Args:
        error: The exception, caught.
    """
    # mmengine repeats the message of the innermost exception in the outer ones.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    lines = str(text).splitlines()
    # A bare `assert`, or the key that a dict lacks.
    if lines and (len(lines[0].split()) > 1 or not isinstance(error, KeyError)):
        return f'{type(error).__name__}: {lines[0]}'
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    place = ''.join(f', {f.filename}, line {f.lineno}: {f.line}' for f in frames)
    key = f' {lines[0]!r}' if lines else ''
    return f'{type(error).__name__}{key}{place}'


def fix_of_argument(name: str, known: Iterable[str] = ()) -> str:
    """Return the fix for an argument that a class does not take.

    Args:
        name: The argument.
        known: The arguments that the class takes.

    Returns:
        The nearest known argument; without one, how to replace a dict of a base.
    """
    nearest = get_close_matches(name, list(known), 1, 0.75)
    if nearest:
        return f'{nearest[0]}=...'
    return (
        f'without {name!r}; if a `_base_` gives it: _delete_=True in this dict, which'
        ' then replaces that of the base'
    )


@contextmanager
def prefix_errors(subject: str) -> Iterator[None]:
    """Prefix the messages of typed errors raised inside with `subject`."""
    try:
        yield
    except MkdError as error:
        if not error.message.startswith(subject):
            error.message = f'{subject}: {error.message}'
        raise


@contextmanager
def rename_in_errors(name: str, wanted: str) -> Iterator[None]:
    """Write another name in the texts of typed errors raised inside.

    Args:
        name: What they say, such as the path of a temporary folder.
        wanted: What they shall say.
    """
    try:
        yield
    except MkdError as error:
        for key in ('message', 'expected', 'actual', 'fix'):
            text = getattr(error, key)
            if text is not None:
                setattr(error, key, str(text).replace(name, wanted))
        raise


def nearest_names(name: str, known: Iterable[str], limit: int = 8) -> list[str]:
    """Return at most `limit` of the names `known`, those closest to `name` first."""
    known = list(dict.fromkeys(known))
    close = get_close_matches(name, known, n=max(limit, 1), cutoff=0.5)
    return (close + [k for k in known if k not in close])[:limit]


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise ConfigError for the first name in `given` that is not in `known`."""
    known = tuple(known)
    for key in given:
        if key not in known:
            raise ConfigError(
                f'{where}: unknown key {key!r}',
                actual=key,
                available=nearest_names(key, known, limit=len(known)),
            )


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite int or float, and not a bool."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def is_integer(value: Any) -> bool:
    """Return whether `value` is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_string_keys(value: Any, where: str) -> None:
    """Raise ConfigError unless `value` is None or a dict whose keys are strings."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(
            f'{where} must be a dict', actual=repr(value), fix='dict(name=...)'
        )
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(
                f'{where}: keys must be strings', expected='a string', actual=repr(key)
            )
