"""What is said and written when a distillation has been trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmengine.dist import is_main_process
from torch import distributed

from .report.page import write_report
from .settings import DistillSettings
from .shipping import loading_lines, shipped_files

WARNING_STYLE = 'yellow'


def tell_finished(
    settings: DistillSettings, config: Path, say: Callable[..., None]
) -> None:
    """Say how the student is loaded, and write the page, in the first process.

    Whatever is wrong with the page, the training is done: it is said, and no error.

    Args:
        settings: What the user asked for.
        config: The config that was trained.
        say: Prints a line, in a style.
    """
    main_process = is_main_process()
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()  # the others are done
    if not main_process:
        return
    files = shipped_files(settings.run_dir)
    if files is not None:
        say(f'The student is {files[1]} with {files[0]}; no mkd_det is needed:')
        for line in loading_lines(*files):
            say(f'    {line}')
    say('Makes the page: metrics, curves, detections, attention, speed')
    try:
        page, missing = write_report(
            settings.work_dir, config, settings.run_dir, settings.options
        )
    except Exception as error:  # the training must not seem to have failed
        first = (str(error).splitlines() or [''])[0]
        say(f'No page: {type(error).__name__}: {first}', WARNING_STYLE)
        say('The training is done. --resume makes the page again', WARNING_STYLE)
        return
    for text in missing:
        say(f'Not on the page: {text}', WARNING_STYLE)
    say(f'Page: {page}')
