"""What a training shows on the terminal; all of it goes to the log file."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from mmengine.logging import MMLogger

# Records of mmengine and mmdet that say nothing about this run that its config does not
# say, or that the next line says again.
_DUMPS = re.compile(
    r"""\s*(
    -+\s*System\ environment:
    | Config:\s
    | Hooks\ will\ be\ executed\ in
    | \S+\ -\ torch\.Size          # a parameter, and how it was initialised
    | Exp\ name:
    | Evaluating\ \w+\.\.\.
    | \w+_mAP_copypaste:
    | "(FileClient|HardDiskBackend)"\s
    | Using\ env\ variable           # shown once, before the run is built
    | Distributed\ training\ is\ not\ used
    )""",
    re.VERBOSE,
)
# Modules that print what they do. The metrics that they print are logged as well.
_PRINTING = (
    'pycocotools.coco',
    'pycocotools.cocoeval',
    'mmdet.datasets.api_wrappers.coco_api',
    'mmdet.datasets.api_wrappers.cocoeval_mp',
)


@contextmanager
def short_terminal(everything: bool = False) -> Iterator[None]:
    """Keep dumps out of the terminal: environment, config, hooks, initial weights.

    They go to the log file of the run, as do the tables that pycocotools prints.

    Args:
        everything: Show them, as mmengine does.
    """
    if everything:
        yield
        return
    original = MMLogger.callHandlers
    MMLogger.callHandlers = _call_handlers
    try:
        with _redirected():
            yield
    finally:
        MMLogger.callHandlers = original


@contextmanager
def _redirected() -> Iterator[None]:
    """Send what `_PRINTING` print to the log file of the run."""
    modules = []
    for name in _PRINTING:
        try:
            modules.append(import_module(name))
        except ImportError:
            continue
    try:
        for module in modules:
            module.__dict__['print'] = _print_to_file
        yield
    finally:
        for module in modules:
            module.__dict__.pop('print', None)


def is_dump(text: str) -> bool:
    """Tell whether a log record is kept out of the terminal.

    Args:
        text: Its message.
    """
    return _DUMPS.match(text) is not None


def _call_handlers(logger: MMLogger, record: logging.LogRecord) -> None:
    """Hand a record to the handlers of a logger, a dump to its files only."""
    short = record.levelno < logging.ERROR and is_dump(record.getMessage())
    for handler in logger.handlers:
        if record.levelno >= handler.level and not (short and not _is_file(handler)):
            handler.handle(record)


def _is_file(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.FileHandler)


def _print_to_file(*values: Any, **_: Any) -> None:
    """Log printed values to the files of the current logger."""
    text = ' '.join(map(str, values))
    logger = MMLogger.get_current_instance()
    record = logger.makeRecord(
        logger.name, logging.INFO, __file__, 0, text, None, None, '_print_to_file'
    )
    for handler in filter(_is_file, logger.handlers):
        handler.handle(record)
