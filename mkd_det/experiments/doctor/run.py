"""Runs all checks of a distill config."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from ...errors import MkdError
from ...io.random_state import preserved_random_state
from ...training.runtime import check_is_distill
from ...utils import releasing_instance_lock
from .checks import find_checks
from .examination import Examination, NotExamined, Settings
from .finding import WARNING, Finding
from .picture import draw_batch

# Log lines of these parts of the program belong to the check of that name.
_NAMED = ('class order', 'data check')
_NOT_EXAMINED = 'not examined'
_MEND_FIRST = 'first mend what is wrong above'
# What mmdet's metrics log where nothing was found.
_NO_DETECTIONS = 'The testing results of the whole dataset is empty'
# Of the doctor's own message hub and scope.
_NAME = 'mkd_doctor'


@releasing_instance_lock()
def diagnose(
    cfg: Config, settings: Settings | None = None, picture: Path | None = None
) -> list[Finding]:
    """Examine a distillation before it is trained.

    Nothing is written but the picture; random states stay as they are.

    Args:
        cfg: A distill config, with `work_dir`. It is not changed.
        settings: How thorough to be.
        picture: File for a picture of a batch, as student and teacher see it.

    Returns:
        What was found, in the order of the checks.

    Raises:
        ConfigError: The config is no distill config.
    """
    check_is_distill(cfg)
    settings = settings or Settings()
    findings: list[Finding] = []
    with (
        TemporaryDirectory(prefix='mkd_doctor') as folder,
        preserved_random_state(),
        own_instances(),
        redirect_stdout(StringIO()),
    ):
        case = Examination(cfg, settings, Path(folder))
        for name, module in find_checks():
            if not (settings.quick and getattr(module, 'SLOW', False)):
                findings += run_check(name, module, case)
        if picture is not None:
            findings += run_check('picture', draw_batch(picture), case)
    return _together(list(dict.fromkeys(findings)))


def _together(findings: list[Finding]) -> list[Finding]:
    """Return the findings with one line for all checks that could not run."""
    left_out = [one.check for one in findings if one.message == _NOT_EXAMINED]
    if not left_out:
        return findings
    kept = [one for one in findings if one.message != _NOT_EXAMINED]
    text = f'{_NOT_EXAMINED}: {", ".join(left_out)}'
    return [*kept, Finding('doctor', WARNING, text, _MEND_FIRST)]


def run_check(name: str, module: ModuleType, case: Examination) -> list[Finding]:
    """Run one check; what it logs are warnings, what it raises is wrong.

    Args:
        name: Its name.
        module: Has its function `check`.
        case: What it looks at.
    """
    findings: list[Finding] = []
    with _caught_log() as lines:
        try:
            findings += module.check(case)
        except NotExamined:
            findings.append(Finding(name, WARNING, _NOT_EXAMINED, _MEND_FIRST))
        except MkdError as error:
            findings.append(Finding.of_error(name, error))
        except Exception as error:  # code of the user's own models and data
            findings.append(
                Finding(
                    name,
                    WARNING,
                    f'not examined: {type(error).__name__}:'
                    f' {(str(error).splitlines() or [""])[0]}',
                    'mkd-det train shows whether it stops the training, and where',
                )
            )
    return [*_of_log(name, lines), *findings]


def _of_log(name: str, lines: list[str]) -> Iterator[Finding]:
    """Return the warnings that were logged, as findings."""
    for line in dict.fromkeys(lines):
        if line.startswith(_NO_DETECTIONS):
            continue  # the check itself says so
        part, _, text = line.partition(': ')
        start = next((known for known in _NAMED if part.startswith(known)), '')
        what = start.removesuffix(' check') or name
        fix = 'read it; it does not stop the training'
        yield Finding(what, WARNING, text if start else line, fix)


@contextmanager
def _caught_log() -> Iterator[list[str]]:
    """Yield a list that gets the warnings which are logged, instead of handlers."""
    lines: list[str] = []

    def keep(logger: MMLogger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())

    original = MMLogger.callHandlers
    MMLogger.callHandlers = keep
    try:
        yield lines
    finally:
        MMLogger.callHandlers = original


@contextmanager
def own_instances() -> Iterator[None]:
    """Let loggers, message hubs and scopes of the doctor's runs end with them.

    mmengine keeps them for the life of a process, and the last one counts.
    """
    kinds = (MMLogger, MessageHub, DefaultScope, Visualizer)
    holders = {id(d): d for d in map(_instances, _with_subclasses(kinds)) if d}
    before = {key: dict(holder) for key, holder in holders.items()}
    scope = DefaultScope.get_current_instance()
    if scope is not None:
        DefaultScope.get_instance(_NAME, scope_name=scope.scope_name)
    MessageHub.get_instance(_NAME)
    try:
        yield
    finally:
        for holder in map(_instances, _with_subclasses(kinds)):
            kept = before.get(id(holder), {})
            for name in [name for name in holder if name not in kept]:
                del holder[name]


def _with_subclasses(kinds: Sequence[type]) -> Iterator[type]:
    for kind in kinds:
        yield kind
        yield from _with_subclasses(kind.__subclasses__())


def _instances(kind: type) -> dict[str, Any]:
    return kind.__dict__.get('_instance_dict') or {}
