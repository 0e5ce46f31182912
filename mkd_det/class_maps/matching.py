"""Matches class names of a student and a teacher."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

# Similarity above which a name is proposed for one that is not matched.
_SIMILAR = 0.8

SAME_NAME = 'same name'
SAME_LETTERS = 'same name, written otherwise'


def match_names(
    student: Sequence[str], teacher: Sequence[str]
) -> dict[int, tuple[int, str]]:
    """Match classes by name: equal names first, then names that differ in writing.

    Case, spaces, '_' and '-' are ignored. Of several names that differ only in these,
    none is matched: which is which must be said by hand.

    Args:
        student: Names of the student's classes.
        teacher: Names of the teacher's.

    Returns:
        By index of each student's class that is matched: the index of the teacher's
        class, and how it was found.
    """
    found: dict[int, tuple[int, str]] = {}
    for index, name in enumerate(student):
        if name in teacher:
            found[index] = (list(teacher).index(name), SAME_NAME)
    taken = {theirs for theirs, _ in found.values()}
    ours = _by_letters(student, [i for i in range(len(student)) if i not in found])
    others = _by_letters(teacher, [i for i in range(len(teacher)) if i not in taken])
    for letters, indices in ours.items():
        theirs = others.get(letters, [])
        if len(indices) == len(theirs) == 1:
            found[indices[0]] = (theirs[0], SAME_LETTERS)
    return dict(sorted(found.items()))


def as_named(theirs: Any, names: Sequence[str]) -> Any:
    """Return what a class map gives for a class, with names in place of numbers.

    On a command line '3' may be the name of a class; it is an index where no class is
    called so.

    Args:
        theirs: A name, an index, several of them, or None.
        names: Names of the classes that are meant.
    """
    if isinstance(theirs, (list, tuple)):
        return [as_named(one, names) for one in theirs]
    return str(theirs) if isinstance(theirs, int) and str(theirs) in names else theirs


def similar_name(name: str, names: Iterable[str]) -> str:
    """Return the name that may mean the same ('cars', 'car'); '' if none is close.

    Args:
        name: A name without a match.
        names: The names of the other side.
    """
    known: Mapping[str, str] = {letters_of(other): other for other in names}
    close = get_close_matches(letters_of(name), known, 1, _SIMILAR)
    return known[close[0]] if close else ''


def letters_of(name: str) -> str:
    """Return what is compared of a name: no case, no spaces, '_' and '-'."""
    return re.sub(r'[\s_-]+', '', name).casefold()


def _by_letters(names: Sequence[str], indices: Iterable[int]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for index in indices:
        found[letters_of(names[index])].append(index)
    return found
