"""Which classes of a detector are written as labels, and under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...class_maps.class_map import Classes
from ...class_maps.matching import as_named, match_names
from ...class_maps.resolving import ALL_OTHERS, resolve_class_map
from ...errors import ConfigError, nearest_names


@dataclass(frozen=True)
class ChosenClasses:
    """The classes that are written.

    Args:
        names: Their names, in the order of their categories.
        kept: Index in `names` by label of the detector.
        own: Names of the detector's classes by label.
        left_out: Names that are mapped to no class on purpose.
    """

    names: tuple[str, ...]
    kept: Mapping[int, int]
    own: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names that the detector does not know: they get no boxes."""
        known = {self.names[index] for index in self.kept.values()}
        known.update(self.left_out)
        return tuple(name for name in self.names if name not in known)

    def categories(self, known: Mapping[str, int]) -> dict[int, int]:
        """Return the category of labelled data that each label means.

        Args:
            known: Categories by name; they may be called as the detector calls them, or
                as they are written.

        Returns:
            By label; without those that the data does not have.
        """
        found: dict[int, int] = {}
        for names in ([self.name_of(i) for i in range(len(self.own))], self.own):
            matched = match_names(names, list(known))
            found |= {i: list(known.values())[at] for i, (at, _) in matched.items()}
        return {label: number for label, number in found.items() if label in self.kept}

    def name_of(self, label: int) -> str:
        """Return the name that is written for a label; '' for none."""
        return self.names[self.kept[label]] if label in self.kept else ''


def choose_classes(
    own: Sequence[str], wanted: Sequence[str], class_map: Mapping[str, Any]
) -> ChosenClasses:
    """Return the classes that are written.

    Args:
        own: Names of the detector's classes by label.
        wanted: Names to write, matched by name; all of the detector's if there are none
            here nor in `class_map`.
        class_map: What the detector calls a name: one of its classes, by name or index,
            several, or None.

    Raises:
        ConfigError: The detector has no such class, or none of all, or a class would
            have two names.
    """
    names = tuple(dict.fromkeys([*wanted, *class_map]))
    if not names:
        every = {index: index for index in range(len(own))}
        return ChosenClasses(tuple(own), every, tuple(own))
    by_hand = {
        ours: _several(as_named(theirs, own)) for ours, theirs in class_map.items()
    }
    for name in (name for theirs in by_hand.values() for name in theirs):
        if name not in own and name not in range(len(own)):
            raise ConfigError(
                f'the detector has no class {name!r}',
                available=nearest_names(str(name), list(own), limit=8),
                fix='--class-map OURS=THEIRS with names of the detector',
            )
    _check_twice(by_hand, wanted, own)
    if not match_names(names, own) and not any(by_hand.values()):
        raise ConfigError(
            'the detector knows none of these classes',
            actual=', '.join(names),
            available=list(own)[:20],
            fix='--classes with names of the detector; or --class-map OURS=THEIRS',
        )
    ours, theirs = Classes(len(names), names), Classes(len(own), tuple(own))
    given = {**by_hand, ALL_OTHERS: 'auto'}
    found = resolve_class_map('detector', given, ours, theirs)
    kept = {label: i for i, group in enumerate(found.sources) for label in group}
    left_out = tuple(ours for ours, theirs in by_hand.items() if not theirs)
    return ChosenClasses(names, kept, tuple(own), left_out)


def _check_twice(
    by_hand: Mapping[str, Sequence[Any]], wanted: Sequence[str], own: Sequence[str]
) -> None:
    """Raise where a class of the detector would have two names."""
    named: dict[str, str] = {}
    for ours, theirs in by_hand.items():
        for one in (own[t] if isinstance(t, int) else t for t in theirs):
            if one in named or (one in wanted and one not in by_hand):
                other = named.get(one, one)
                raise ConfigError(
                    f'{one!r} of the detector would be written as two classes',
                    actual=f'{other} and {ours}',
                    fix=f'--class-map {ours}={one}, without {other}',
                )
            named[one] = ours


def _several(theirs: Any) -> list[Any]:
    """Return the detector's classes that a name stands for."""
    if theirs is None:
        return []
    return list(theirs) if isinstance(theirs, (list, tuple)) else [theirs]
