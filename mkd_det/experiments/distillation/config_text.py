"""Writes the configs of a distillation: short, commented, to be edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any

from .data_part import Expression

_LINE = 79


def student_text(
    base: str,
    parts: Mapping[str, Any],
    lines: Sequence[str],
    who: str = 'The student, alone: it can be trained as it is.',
) -> str:
    """Return the config of the student on the data of the user.

    Args:
        base: The config that it inherits from.
        parts: What to change in it, by variable.
        lines: Comments for people, a line each.
        who: What config it is, in a sentence.
    """
    head = [who, *lines]
    body = [f'{name} = {format_value(value)}' for name, value in parts.items()]
    return '\n'.join([_docstring(head), f'_base_ = [{base!r}]', *body, ''])


def distill_text(
    base: str,
    recipe: str,
    teacher: Mapping[str, Any],
    lines: Sequence[str],
    parts: Mapping[str, Any],
) -> str:
    """Return the distill config.

    Args:
        base: Config of the student.
        recipe: Config of the recipe.
        teacher: Settings of the teacher.
        lines: Comments for people, a line each.
        parts: More variables of the config.
    """
    return '\n'.join(
        [
            _docstring(lines),
            '_base_ = [',
            f'    {base!r},',
            f'    {recipe!r}]',
            'model = dict(',
            '    _delete_=True,',
            "    type='Distiller',",
            '    student={{_base_.model}},',
            f'    teachers=dict(t={format_value(dict(teacher), 4)}),',
            "    **_base_.pop('recipe'))",
            *(f'{name} = {format_value(value)}' for name, value in parts.items()),
            '',
        ]
    )


def recipe_text(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the config of a recipe, for students that import modules as it does.

    Of two bases with `custom_imports`, none can be inherited.

    Args:
        name: Name of the recipe.
        arguments: Its arguments of `Distiller`.
    """
    head = _docstring([f'The recipe {name}.py of mkd_det, without its imports.'])
    return f'{head}\nrecipe = {format_value(arguments)}\n'


def options_text(base: str, options: Mapping[str, Any]) -> str:
    """Return a config with what the command line overrides.

    Args:
        base: The config that it inherits from.
        options: Overrides by dotted key. Entries of lists, `datasets.0.times`, cannot
            be inherited: a comment names them.
    """
    parts: dict[str, Any] = {}
    lines = [f'{base}, with what the command line says.']
    entries = list_overrides(options)
    for key, value in options.items():
        if key in entries:
            lines.append(f'Not here, to be given again: --cfg-options {key}={value}')
            continue
        *above, last = key.split('.')
        inner = parts
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return student_text(base, parts, lines[1:], lines[0])


def list_overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those overrides that change entries of lists, which no config inherits.

    Args:
        options: Overrides by dotted key.
    """
    return {
        key: value
        for key, value in options.items()
        if any(name.isdigit() for name in key.split('.'))
    }


def format_value(value: Any, indent: int = 0) -> str:
    """Return a value as text of a config, broken into lines where it is long.

    Args:
        value: Dicts, lists and plain values; an `Expression` is written as it is.
        indent: Spaces before the line that it begins on.
    """
    flat = _flat(value)
    if len(flat) + indent <= _LINE or not isinstance(value, (Mapping, list, tuple)):
        return flat
    inner = ' ' * (indent + 4)
    if isinstance(value, Mapping):
        plain = _has_plain_keys(value)
        parts = [
            (f'{k}=' if plain else f'{k!r}: ') + format_value(v, indent + 4)
            for k, v in value.items()
        ]
        lines = ',\n'.join(f'{inner}{part}' for part in parts)
        return f'dict(\n{lines})' if plain else f'{{\n{lines}}}'
    opening, closing = ('[', ']') if isinstance(value, list) else ('(', ')')
    if not any(isinstance(one, (Mapping, list, tuple)) for one in value):
        return opening + '\n' + _filled(value, inner) + closing
    parts = [format_value(one, indent + 4) for one in value]
    lines = ',\n'.join(f'{inner}{part}' for part in parts)
    return f'{opening}\n{lines}{closing}'


def _filled(values: Sequence[Any], indent: str) -> str:
    """Return plain values as lines that are as full as they can be."""
    lines = [indent]
    for index, value in enumerate(values):
        text = repr(value) + ',' * (index < len(values) - 1)
        if lines[-1] != indent and len(lines[-1]) + len(text) >= _LINE:
            lines.append(indent)
        lines[-1] += text if lines[-1] == indent else f' {text}'
    return '\n'.join(lines)


def _flat(value: Any) -> str:
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, Mapping):
        if _has_plain_keys(value):
            return f'dict({", ".join(f"{k}={_flat(v)}" for k, v in value.items())})'
        return f'{{{", ".join(f"{k!r}: {_flat(v)}" for k, v in value.items())}}}'
    if isinstance(value, list):
        return f'[{", ".join(map(_flat, value))}]'
    if isinstance(value, tuple):
        return f'({", ".join(map(_flat, value))}{"," * (len(value) == 1)})'
    return repr(value)


def _has_plain_keys(value: Mapping[Any, Any]) -> bool:
    """Return whether the keys can be written as keywords."""
    return all(
        isinstance(key, str) and key.isidentifier() and not iskeyword(key)
        for key in value
    )


def _docstring(lines: Sequence[str]) -> str:
    first, *rest = (line.replace('"""', "'''").replace('\\', '/') for line in lines)
    return '\n'.join([f'"""{first}', *([''] if rest else []), *rest, '"""', ''])
