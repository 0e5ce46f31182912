"""Writes the page of a finished distillation, whatever of it can be made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

from ....errors import MkdError
from ....io import markdown
from ....io.atomic import write_own
from ....io.json_files import finite, write_own_json
from ....io.markdown import escape
from ....io.quiet import suppress_info_logs
from .costs import costs_part, shipping_part
from .finished_run import FinishedRun, Missing
from .metrics import curves_part, metrics_part
from .pictures import attention_part, detections_part

FOLDER = 'report'
PAGE, MARKDOWN, JSON = 'index.html', 'report.md', 'report.json'
Part = Callable[[FinishedRun, Path], list[str]]
# In the order of the page; curves show what the first one has measured.
PARTS: dict[str, Part] = {
    'Results': metrics_part,
    'Curves': curves_part,
    'Detections': detections_part,
    'Attention': attention_part,
    'Size and speed': costs_part,
    'What to ship': shipping_part,
}


def write_report(
    work_dir: Path,
    config: Path,
    run_dir: Path,
    options: dict[str, Any] | None = None,
) -> tuple[Path, list[str]]:
    """Write page, markdown, json and pictures into the work dir.

    A part that cannot be made is named on the page, with the reason.

    Args:
        work_dir: Folder of the distillation.
        config: The config that was trained.
        run_dir: Folder of the training.
        options: Overrides of the config that it was trained with, by dotted key.

    Returns:
        The page, and what is missing in it, a sentence each.

    Raises:
        MkdError: The config can no longer be read.
    """
    run = FinishedRun(work_dir, config, run_dir, options)
    out = work_dir / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    title = f'Distilled: {work_dir.name}'
    blocks, missing = [f'# {escape(title)}'], []
    for name, part in PARTS.items():
        blocks.append(f'## {name}')
        with _quiet():
            found, reason = _make(part, run, out)
        blocks += found
        if reason:
            missing.append(f'{name}: {reason}')
            blocks.append(escape(f'Missing: {reason}'))
    blocks += [
        '## How it was made',
        escape(f'{config} was trained into {run_dir}. All figures: ')
        + f'[{JSON}]({JSON}).',
        markdown.code_block([f'mkd-det train {config} --work-dir {run_dir}']),
    ]
    text = '\n\n'.join(blocks) + '\n'
    write_own_json(out / JSON, finite({**run.figures, 'missing': missing}))
    write_own(out / MARKDOWN, text.encode())
    markdown.write_page(out / PAGE, title, text)
    return out / PAGE, missing


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what metrics and counters of operations say out of the terminal."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with suppress_info_logs(), redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _make(part: Part, run: FinishedRun, out: Path) -> tuple[list[str], str]:
    """Return the blocks of a part, or why there are none."""
    try:
        return part(run, out), ''
    except (Missing, MkdError) as error:
        return [], str(error).splitlines()[0]
    except Exception as error:  # models and data of the user; the training is done
        first = (str(error).splitlines() or [''])[0]
        return [], f'{type(error).__name__}: {first}'
