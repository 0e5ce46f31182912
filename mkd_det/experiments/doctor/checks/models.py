"""A teacher should be bigger than its student, and no teacher should be there twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ....training.resume import has_begun
from ..examination import Examination
from ..finding import OK, WARNING, Finding

POSITION = 20


def check(case: Examination) -> Iterator[Finding]:
    """Compare the sizes of the models, and the files of the teachers."""
    model = case.model
    student: Any = model.student
    own = _count(student)
    sizes = {name: _count(one.model) for name, one in model.teachers.items()}
    smaller = [name for name, size in sizes.items() if size < own]
    for name in smaller:
        yield Finding(
            'models',
            WARNING,
            f'teacher {name} has {_millions(sizes[name])} parameters, the student'
            f' {_millions(own)}',
            'look whether student and teacher are swapped',
        )
    yield from _same_files(case)
    folder = case.cfg.work_dir
    if has_begun(folder) and not case.cfg.get('resume'):
        yield Finding(
            'models',
            WARNING,
            f'the work dir {folder} holds another training',
            '--resume to go on with it, or another --work-dir',
        )
    if not smaller:
        listed = ', '.join(f'{n} {_millions(size)}' for n, size in sizes.items())
        yield Finding(
            'models', OK, f'parameters: student {_millions(own)}; teachers: {listed}'
        )


def _same_files(case: Examination) -> Iterator[Finding]:
    """Yield what is said of a checkpoint that is used twice."""
    seen: dict[str, str] = {}
    used = [
        (f'teacher {name}', teacher.config)
        for name, teacher in case.model.teachers.items()
    ]
    files = [(who, c.checkpoint) for who, c in used if not c.prune]
    files.append(('the student', case.cfg.get('load_from')))
    for who, path in files:
        if not isinstance(path, str):
            continue
        path = path if '://' in path else os.path.realpath(path)
        if path in seen:
            yield Finding(
                'models',
                WARNING,
                f'{seen[path]} and {who} have the same file: {path}',
                'a checkpoint of its own for each of them',
            )
        seen.setdefault(path, who)


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _millions(count: int) -> str:
    return f'{count / 1e6:.2f} M'
