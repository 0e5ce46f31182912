"""References: where a config says that knowledge comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..branches.base import Branch
from ..config import AdapterConfig, DistillConfig, TermConfig
from ..errors import ConfigError, MkdError, nearest_names
from ..registry import ADAPTERS, LOSSES, find_class

# What every term and adapter reads; terms may read more, see `PairLoss.also`.
SIDES = ('student', 'teacher')


@dataclass(frozen=True)
class Ref:
    """Where knowledge comes from.

    A config writes it `tap`, `<teacher>.<tap>`, `<adapter>.<side>` or `<branch>.<key>`.

    Args:
        owner: 'student', or the name of a teacher, adapter or branch.
        key: Name of the tap, side or key.
    """

    owner: str
    key: str

    def __str__(self) -> str:
        return self.key if self.owner == 'student' else f'{self.owner}.{self.key}'


class References:
    """Parses the references of a config and knows all that could be written.

    Args:
        config: The config.
        branches: The branches of the student, by name.

    Raises:
        ConfigError: A term or adapter has a type that is not registered.
    """

    def __init__(self, config: DistillConfig, branches: Mapping[str, Branch]) -> None:
        self.config, self.branches = config, branches

    def of_term(self, name: str) -> dict[str, Ref]:
        """Parse all that a term reads, by side."""
        term = self.config.terms[name]
        given = {'student': term.student, 'teacher': term.teacher}
        also = loss_class(name, term).also
        given |= {side: term.arguments.get(side) for side in also}
        return self._parse_all(given, also, f'term {name!r}')

    def of_adapter(self, name: str) -> dict[str, Ref]:
        """Parse what an adapter reads, by side."""
        adapter = self.config.adapters[name]
        given = {'student': adapter.student, 'teacher': adapter.teacher}
        return self._parse_all(given, {}, f'adapter {name!r}')

    @contextmanager
    def name_model(self, owner: str, model: Any) -> Iterator[None]:
        """Say in typed errors raised inside which model they are about.

        Args:
            owner: 'student' or a teacher's name.
            model: The model.
        """
        try:
            yield
        except MkdError as error:
            words = f'the student, a {type(model).__name__}'
            if owner != 'student':
                file = self.config.teachers[owner].cfg
                words = f'teacher {owner!r}, a {type(model).__name__}'
                words += f' of {file}' if isinstance(file, str) else ''
            error.message = f'{error.message} ({words})'
            raise

    def _parse_all(
        self, given: Mapping[str, Any], also: Mapping[str, str], where: str
    ) -> dict[str, Ref]:
        return {
            side: self.parse(text, side, also.get(side, side), where)
            for side, text in given.items()
        }

    def parse(self, text: Any, side: str, whose: str, where: str) -> Ref:
        """Parse one reference.

        Args:
            text: The text in the config.
            side: Its key in the config.
            whose: Whose knowledge it must be: 'student' or 'teacher'.
            where: Name of the term or adapter, for messages.

        Raises:
            ConfigError: It is missing, or names nothing.
        """
        known = self._known(whose)
        if not isinstance(text, str) or not text:
            raise ConfigError(
                f'{where}: `{side}` is missing', actual=text or None, available=known
            )
        if text not in known:
            raise ConfigError(
                f'{where}: {side}={text!r} names no knowledge of the {whose}',
                actual=text,
                available=nearest_names(text, known, limit=20),
                fix=self._advice(text),
            )
        owner, _, key = text.rpartition('.')
        return Ref(owner or 'student', key)

    def _known(self, whose: str) -> list[str]:
        """Return all that can be read of the student, or of the teachers."""
        config = self.config
        known: list[str] = []
        if whose == 'student':
            known += config.taps
            for name, branch in self.branches.items():
                known += [f'{name}.{key}' for key in branch.taps()]
        else:
            for name, teacher in config.teachers.items():
                known += [f'{name}.{tap}' for tap in {**config.taps, **teacher.taps}]
        for name, adapter in config.adapters.items():
            if whose in adapter_class(name, adapter).yields:
                known.append(f'{name}.{whose}')
        return known

    def _advice(self, text: str) -> str:
        owner, _, side = text.rpartition('.')
        adapter = self.config.adapters.get(owner)
        if adapter is not None and side in SIDES:
            cls = adapter_class(owner, adapter)
            return f'{cls.__name__} yields ' + ' and '.join(
                f'{owner}.{side}' for side in cls.yields
            )
        return (
            "a tap of `taps`, '<teacher>.<tap>', '<adapter>.student',"
            " '<adapter>.teacher' or '<branch>.<key>'"
        )


def loss_class(name: str, term: TermConfig) -> Any:
    """Return the class of a term's loss; ConfigError if there is no such loss."""
    return find_class(LOSSES, term.to_build(), f'term {name!r}')


def adapter_class(name: str, adapter: AdapterConfig) -> Any:
    """Return the class of an adapter; ConfigError if there is no such adapter."""
    return find_class(ADAPTERS, adapter.to_build(), f'adapter {name!r}')
