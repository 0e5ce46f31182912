"""Each model must get images in the colours and the scale that it was trained on."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import sqrt
from typing import Any

from ....hooks.teacher_check_hook import preprocessing_differences
from ....taps import frozen_state
from ....teachers.renormalize import image_preprocessor
from ..examination import Examination
from ..finding import OK, WARNING, WRONG, Finding
from ..teacher_metrics import configured_hook, measure, measured_teachers

POSITION = 50
# Factors by which a teacher is better with its colour channels in reverse order: for a
# warning, and for an error, which takes a difference beyond noise, too.
BETTER, CLEARLY = 1.2, 1.3
# What is less than this is no better than chance, whatever the factor.
LEAST = 0.02
# Times 1 / sqrt(n), for n images. A share of them has a standard deviation of at most
# 0.5 / sqrt(n), and the difference of two on the same images varies less.
NOISE = 0.6
# Images that were normalised have a mean and a standard deviation within these.
MEAN, DEVIATION = 3.0, (0.1, 5.0)


def check(case: Examination) -> Iterator[Finding]:
    """Compare preprocessors, with the files too, and try the channels reversed."""
    model, found = case.model, []
    found += list(_student_images(case))
    for name, teacher in model.teachers.items():
        theirs = image_preprocessor(teacher.model.get_submodule('data_preprocessor'))
        found += list(_not_as_trained(name, teacher, theirs))
        found += list(_reversed_is_better(case, name, theirs))
        ours = model.student.data_preprocessor
        lines = list(preprocessing_differences(ours, theirs))
        text = (
            '; '.join(lines) + ': its images are renormalised'
            if lines
            else ('normalises as the student does')
        )
        found.append(Finding('normalisation', OK, f'{name} {text}'))
    yield from found


def _student_images(case: Examination) -> Iterator[Finding]:
    """Yield a warning where the student's images are not in a usual range."""
    preprocessor: Any = case.model.student.data_preprocessor
    if getattr(preprocessor, 'mean', None) is None:
        return  # such as YOLOX, which takes images as they are
    inputs = preprocessor(next(case.batch_copies()), False)['inputs'].float()
    mean, deviation = float(inputs.mean()), float(inputs.std())
    if abs(mean) > MEAN or not DEVIATION[0] < deviation < DEVIATION[1]:
        yield Finding(
            'normalisation',
            WARNING,
            f"the student's images have mean {mean:.2f} and standard deviation"
            f' {deviation:.2f} after normalisation, not about 0 and 1',
            "mean and std of the student's data_preprocessor, in the unit of the"
            ' pixels (0 to 255), and no second normalisation in the pipeline',
        )


def _not_as_trained(name: str, teacher: Any, theirs: Any) -> Iterator[Finding]:
    """Yield where a teacher's preprocessor is not that of its checkpoint's config."""
    for key, wanted in _recorded(teacher.meta).items():
        has = getattr(theirs, key, None)
        has = [] if has is None else [round(v, 3) for v in has.flatten().tolist()]
        if has != wanted:
            yield Finding(
                'normalisation',
                WRONG,
                f'{name} normalises with {key} {has or None}, and was trained with'
                f' {wanted}, as its checkpoint says',
                f'data_preprocessor=dict({key}={wanted}) in the config of teacher'
                f' {name}',
            )


def _recorded(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of the preprocessor that a checkpoint was trained with.

    They are read from the text of its config, which is not run: a checkpoint is data.
    Empty where the text has none, or several (a distillation, say).

    Args:
        meta: `meta` of the checkpoint.
    """
    text = meta.get('cfg')
    try:
        tree = ast.parse(text) if isinstance(text, str) else ast.Module([], [])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = [
        dict(_numbers(node.value))
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == 'data_preprocessor'
        and isinstance(node.value, ast.Call)
    ]
    first = found[0] if found else {}
    return first if all(one == first for one in found) else {}


def _numbers(call: ast.Call) -> Iterator[tuple[str, list[float]]]:
    for keyword in call.keywords:
        with suppress(ValueError, TypeError):
            if keyword.arg in ('mean', 'std'):
                values = ast.literal_eval(keyword.value)
                yield keyword.arg, [round(float(value), 3) for value in values]


def _reversed_is_better(case: Examination, name: str, theirs: Any) -> Iterator[Finding]:
    """Yield where a teacher knows more with its colour channels reversed."""
    if case.cfg.get('val_dataloader') is None:
        return
    plain = measured_teachers(case).get(name)
    before = getattr(theirs, '_channel_conversion', None)
    if plain is None or before is None:
        return
    theirs._channel_conversion = not before
    try:
        with frozen_state(theirs):
            other = measure(case, name, case.settings.images)  # the same images
    finally:
        theirs._channel_conversion = before
    hook = configured_hook(case.cfg)
    key, had = hook.main_metric(plain.metrics)
    other_key, has = hook.main_metric(other.metrics)
    key = key or other_key
    unit = 100 if key and 'top' in key else 1  # mmpretrain's are in percent
    if has <= max(BETTER * had, LEAST * unit):
        return
    beyond = has - had > NOISE * unit / sqrt(plain.images)
    text = (
        f'{name} has {key} {has:.3f} with its colour channels reversed, and {had:.3f}'
        f' as it is configured, on {plain.images} images'
    )
    fix = (
        f'data_preprocessor=dict(bgr_to_rgb={not before}, rgb_to_bgr=False) in the'
        f' config of teacher {name}'
    )
    if has > CLEARLY * had and beyond:
        yield Finding('normalisation', WRONG, text, fix)
        return
    yield Finding(
        'normalisation',
        WARNING,
        f'{text}, which may be chance',
        f'more images (mkd-det doctor --images {4 * case.settings.images}); where it'
        f' stays so, {fix}',
    )
