"""Compares what a student starts with to what its teacher reaches."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from ...config import TeacherConfig
from ...hooks.teacher_evaluation import evaluate_teacher, sample_images
from ...teachers.loading import Teacher
from .examination import Examination, Settings
from .teacher_metrics import configured_hook, measured_teachers

# Validation images that both are measured on.
IMAGES = 32


def warn_of_better_student(case: Examination) -> list[str]:
    """Return a warning for a student that starts as good as its teacher, or better.

    Args:
        case: The training, with weights that the student starts from.

    Returns:
        Sentences; none where the teacher is better.

    Raises:
        MkdError: The two cannot be compared.
    """
    if case.cfg.get('val_dataloader') is None:
        return []
    measured = measured_teachers(case)
    hook = configured_hook(case.cfg)
    student = Teacher(
        'student', TeacherConfig(cfg='student', checkpoint=None), case.model.student
    )
    indices = sample_images(case.runner, IMAGES)
    own = evaluate_teacher(case.runner, student, indices)
    key, value = hook.main_metric(own)
    warnings = []
    for name, found in measured.items():
        theirs_key, theirs = hook.main_metric(found.metrics)
        if value >= theirs and value > 0:
            warnings.append(
                f'the student begins with {key or theirs_key} {value:.3f}, teacher'
                f' {name} has {theirs:.3f}, on {found.images} validation images: are'
                ' they swapped?'
            )
    return warnings


def examine_start(cfg: Config, folder: Path) -> Examination:
    """Return a training whose checks have passed, with the student's weights loaded.

    Args:
        cfg: A distill config, with `work_dir`.
        folder: Temporary folder for what runs write.

    Raises:
        MkdError: The training could not start.
    """
    case = Examination(cfg, Settings(images=IMAGES), folder)
    model = case.built
    if case.error is not None:
        raise case.error
    assert model is not None
    return case
