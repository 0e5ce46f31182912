"""Runs the demo: makes the digits, trains three detectors, shows the results."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmengine.device import get_device

from ...config_files.reading import read_config
from ...data.digits import make_digits
from ...io.json_files import write_json
from ...io.lock import locked_folder
from ..detections import MIN_SCORE
from ..runs import (
    Display,
    History,
    TrainingResult,
    TrainingRun,
    make_display,
    read_history,
    run_training,
)
from . import pictures
from .report import PAGE, RESULTS, ModelResult, write_page
from .trainings import CONFIGS, FULL, SIDE, TITLES, DemoSize, make_trainings

_INTRODUCTION = """\
A big detector (the teacher), a small one alone (the student), and the same small one
taught by the big one (M-KD) learn to find handwritten digits in photographs. Pictures
without labels, new ones in every step, are taught beside the labelled ones.
Everything goes to {folder}. Ctrl-C stops; the same command then resumes.
"""


def run_demo(
    work_dir: str | Path, size: DemoSize = FULL, seed: int = 0
) -> list[ModelResult]:
    """Run the demo, or what is missing of it.

    Args:
        work_dir: Folder of the demo.
        size: Size of the demo.
        seed: Seed of data and trainings.

    Returns:
        The teacher, the student alone, and the student with M-KD. The page lies in
        the work dir.

    Raises:
        MkdError: A training failed, or another process works in the folder.
        KeyboardInterrupt: It was stopped; the same call resumes it.
    """
    work_dir = Path(work_dir)
    digits = work_dir / 'digits'
    # The configs find the data by this variable, in this process and in the trainings.
    environment = {'DIGITS_ROOT': str(digits)}
    os.environ.update(environment)
    with locked_folder(work_dir, 'demo'):
        runs = make_trainings(work_dir, size, seed)
        with make_display(len(runs) + 2, 'demo') as display:
            display.say(_INTRODUCTION.format(folder=work_dir))
            _make_data(digits, size, seed, display)
            trained = [run_training(run, environment, display) for run in runs]
            results = _make_report(work_dir, runs, trained, display)
        entries = [
            {**result.training.entry(), 'seed': seed, 'params': result.params}
            for result in results
        ]
        write_json(work_dir / RESULTS, {'data': asdict(size), 'runs': entries})
    return results


def _make_data(root: Path, size: DemoSize, seed: int, display: Display) -> None:
    total = size.train + size.val
    tracker = display.start('digits', total, 'images')
    make_digits(
        root,
        size.train,
        size.val,
        SIDE,
        seed,
        progress=lambda done, _: tracker.update(done),
    )
    tracker.finish(f'{total} images in {root}')


def _make_report(
    work_dir: Path,
    runs: Sequence[TrainingRun],
    trained: Sequence[TrainingResult],
    display: Display,
) -> list[ModelResult]:
    """Draw the pictures and write the page."""
    tracker = display.start('report', 4, 'parts')
    models = _load_models(runs)
    tracker.update(1)
    histories = {run.name: _read_epochs(run, runs[0]) for run in runs}
    pictures.draw_curves(histories, TITLES, work_dir / 'curves.png')
    tracker.update(2)
    pictures.draw_detections(
        models, TITLES, work_dir / 'digits', work_dir / 'detections.png'
    )
    tracker.update(3)
    results = [
        ModelResult(TITLES[one.name], _parameters(models[one.name]), one)
        for one in trained
    ]
    captions = {
        'detections.png': 'Detections on the first validation images, with a score of'
        f' at least {MIN_SCORE}.',
        'curves.png': 'Learning curves, by epochs of the labelled pictures. The loss'
        ' shown does not include the terms of M-KD.',
    }
    write_page(work_dir / PAGE, results, captions)
    tracker.finish(str(work_dir / PAGE))
    return results


def _read_epochs(run: TrainingRun, other: TrainingRun) -> History:
    """Return the history of a training by epochs, also if it counts iterations.

    Args:
        run: The training.
        other: One that counts epochs, of as many iterations.
    """
    history = read_history(run.folder)
    if run.by_epoch:
        return history
    length = other.iterations // other.budget
    metrics = {step // length: found for step, found in history.metrics.items()}
    return replace(history, metrics=metrics, iters_per_epoch=length)


def _load_models(runs: Sequence[TrainingRun]) -> dict[str, Any]:
    """Load the three detectors with stock mmdet.

    A checkpoint of M-KD is one of a plain student: the student's config loads it.
    """
    from mmdet.apis import init_detector

    models = {}
    for run in runs:
        config = read_config(CONFIGS['student' if run.name == 'mkd' else run.name])
        with redirect_stdout(io.StringIO()):  # mmengine prints what it loads
            models[run.name] = init_detector(
                config, str(run.checkpoint), device=get_device()
            )
    return models


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
