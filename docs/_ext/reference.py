"""Pages that are generated from the code when the site is built.

A page holds a line `<!-- generated: NAME -->`; `render(NAME)` gives the Markdown that
replaces it. So a key, command or error is documented where it is defined.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / 'configs' / '_base_' / 'recipes'
_MARK = re.compile(r'^<!-- generated: (\w+) -->$', re.MULTILINE)


def render(name: str) -> str:
    """Return the Markdown of one generated part."""
    return PARTS[name]()


def marks(text: str) -> list[str]:
    """Return the names of the generated parts that a page asks for."""
    return _MARK.findall(text)


# -- config ----------------------------------------------------------------------


def render_config() -> str:
    """Return the keys of a `Distiller`, class by class."""
    from mkd_det import config

    return _dataclass_sections(config, config.DistillConfig)


def render_chain() -> str:
    """Return the keys of a chain file, class by class."""
    from mkd_det.experiments.chain import chain_file

    return _dataclass_sections(chain_file, chain_file.ChainConfig)


def dataclasses_of(module: ModuleType, whole: type) -> list[type]:
    """Return the dataclasses that a module defines, `whole` before its parts."""
    found = [
        value
        for value in vars(module).values()
        if is_dataclass(value)
        and f'{getattr(value, "__module__", "")}.'.startswith(f'{module.__name__}.')
    ]
    return [whole, *(cls for cls in found if cls is not whole)]  # type: ignore[misc]


def _dataclass_sections(module: ModuleType, whole: type) -> str:
    return '\n\n'.join(map(_dataclass_section, dataclasses_of(module, whole)))


def _dataclass_section(cls: type) -> str:
    from mkd_det.parsing import documented

    texts = documented(cls)
    hints = get_type_hints(cls)
    rows = [
        f'| `{field.name}` | {_type_words(field, hints[field.name])} |'
        f' {_default(field)} | {_cell(texts[field.name])} |'
        for field in fields(cls)  # type: ignore[arg-type]
    ]
    head = ['| key | type | default | meaning |', '|---|---|---|---|']
    summary = (inspect.getdoc(cls) or '').partition('\n')[0]
    return '\n'.join([f'### {cls.__name__}', '', summary, '', *head, *rows])


def _type_words(field: Field, annotation: Any) -> str:
    """Say which values a key takes; refer to the section of another dataclass."""
    from mkd_det.parsing import words_of

    if field.metadata.get('rest'):
        return 'all other keys'
    inner = re.search(r'(\w+Config)\b', str(annotation))
    if inner:
        link = f'[`{inner[1]}`](#{inner[1].lower()})'
        if 'Mapping' in str(annotation):
            return f'{link} by name'
        return f'list of {link}' if 'tuple' in str(annotation) else link
    return _cell(field.metadata.get('words') or words_of(annotation))


def _default(field: Field) -> str:
    if field.metadata.get('rest'):
        return ''
    if field.default is not MISSING:
        plain = field.default is None or isinstance(field.default, (str, int, float))
        return f'`{field.default!r}`' if plain or field.default == () else ''
    return '' if field.default_factory is not MISSING else 'required'


# -- commands --------------------------------------------------------------------


def render_commands() -> str:
    """Return a section for each command: what it does, its arguments, an example."""
    from mkd_det.cli import commands

    return '\n\n'.join(
        _command_section(name, module.make_parser())
        for name, module in commands().items()
    )


def _command_section(name: str, parser: argparse.ArgumentParser) -> str:
    usage = ' '.join(parser.format_usage().removeprefix('usage: ').split())
    rows = [
        f'| {_option(action)} | {_cell(_plain(_help(parser, action)))} |'
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        and not isinstance(action, argparse._HelpAction)
    ]
    text = _plain((parser.description or '').strip())
    parts = [f'## {name}', text, f'```text\n{usage}\n```']
    if rows:
        parts.append('\n'.join(['| argument | meaning |', '|---|---|', *rows]))
    if parser.epilog:
        parts.append(f'```text\n{parser.epilog.strip()}\n```')
    return '\n\n'.join(parts)


def _option(action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar or action.dest)]
    return ', '.join(f'`{name}`' for name in names)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or '') % {**vars(action), 'prog': parser.prog}
    choices = action.choices or ()
    return text + (f' ({", ".join(map(str, choices))})' if choices else '')


# -- errors ----------------------------------------------------------------------


def render_errors() -> str:
    """Return a table of all typed errors: when they appear, and how to fix them."""
    rows = ['| error | it appears when | fix |', '|---|---|---|']
    for cls in errors():
        text = (inspect.getdoc(cls) or '').partition('\n\nArgs:')[0]
        when, _, fix = text.partition('Fix: ')
        rows.append(f'| `{cls.__name__}` | {_cell(when)} | {_cell(fix)} |')
    return '\n'.join(rows)


def errors() -> list[type]:
    """Return `MkdError` and every class below it, in the order of the tree."""
    from mkd_det.errors import MkdError

    return list(_tree(MkdError))


def _tree(cls: type) -> Iterator[type]:
    yield cls
    for below in cls.__subclasses__():
        if below.__module__ == 'mkd_det.errors':
            yield from _tree(below)


# -- heads -----------------------------------------------------------------------


def render_heads() -> str:
    """Return a table of all readers of heads, and what they do."""
    from mkd_det.heads.base import reader_classes
    from mkd_det.heads.readers.unread import REASONS

    rows = ['| reader | what it does |', '|---|---|']
    for cls in sorted(reader_classes(), key=lambda kind: kind.__name__):
        text = inspect.getdoc(cls) or ''
        rows.append(
            f'| `{cls.__name__}` | {_cell(_plain(text.partition(chr(10))[0]))} |'
        )
    lines = [f'- `{cls.__name__}`: {why}.' for cls, why in REASONS.items()]
    return '\n'.join([*rows, '', 'Heads that are refused, and why:', '', *lines])


# -- recipes ---------------------------------------------------------------------


def render_recipes() -> str:
    """Return a table of all recipes: what they do, and what they need."""
    from mmengine.config import Config

    rows = [
        '| recipe | what it does | student needs | teacher needs |',
        '|---|---|---|---|',
    ]
    for path in sorted(RECIPES.glob('*.py')):
        doc = re.match(r'"""(.*?)"""', path.read_text(encoding='utf-8'), re.DOTALL)
        assert doc, f'{path.name} has no docstring'
        needs = Config.fromfile(path).get('needs') or {}
        cells = [doc[1].partition('\n\n')[0], *(_needs(needs, s) for s in _SIDES)]
        rows.append(f'| `{path.name}` | {" | ".join(map(_cell, cells))} |')
    return '\n'.join(rows)


_SIDES = ('student', 'teacher')


def _needs(needs: dict[str, Any], side: str) -> str:
    """Return the modules that a recipe needs of a side, with the traits of heads."""
    heads = needs.get('heads') or {}
    words = []
    for path in needs.get(side) or ():
        traits = f' ({", ".join(heads[path])})' if path in heads else ''
        words.append(f'`{path}`{traits}')
    return ', '.join(words)


def _plain(text: str) -> str:
    """Return text that is no Markdown so that Markdown shows it as it is."""
    return re.sub(r'([\\`*_<>\[\]])', r'\\\1', text)


def _cell(text: str) -> str:
    """Return text of a docstring as one cell of a Markdown table."""
    text = re.sub(r':math:`([^`]*)`', r'$\1$', text)
    return ' '.join(text.split()).replace('|', '\\|')


PARTS: dict[str, Callable[[], str]] = {
    'config': render_config,
    'chain': render_chain,
    'commands': render_commands,
    'errors': render_errors,
    'recipes': render_recipes,
    'heads': render_heads,
}


def _replace_marks(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = _MARK.sub(lambda mark: render(mark[1]), source[0])


def _generated_pages(app: Sphinx, env: BuildEnvironment, *_: Any) -> list[str]:
    """Return the pages to read anew in every build: the code may have changed."""
    return [
        page
        for page in env.found_docs
        if marks(Path(env.doc2path(page)).read_text(encoding='utf-8'))
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx replace the marks of every page that it reads."""
    app.connect('source-read', _replace_marks)
    app.connect('env-get-outdated', _generated_pages)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
