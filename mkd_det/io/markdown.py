"""Report pages: written as markdown, rendered to html with markdown-it-py."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from .atomic import write_own

# No raw html: pages consist of text, tables and pictures only.
_RENDERER = MarkdownIt('commonmark', {'html': False}).enable('table')


def escape(text: str) -> str:
    """Return markdown that shows a text as it is, on one line."""
    text = html.escape(text, quote=False)
    text = re.sub(r'([\\`*_\[\]|~#])', r'\\\1', text).replace('\n', ' ')
    # Signs that begin a list or a heading where a line begins.
    text = re.sub(r'^(\s*)([-+=])', r'\1\\\2', text)
    return re.sub(r'^(\s*\d+)([.)])', r'\1\\\2', text)


def bullet_list(items: Iterable[str]) -> str:
    """Return a list of markdown texts."""
    return '\n'.join(f'- {item}' for item in items)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of markdown texts: the first column left, the others right."""
    rules = [':---', *['---:'] * (len(header) - 1)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in (header, rules, *rows))


def picture(name: str, caption: str) -> str:
    """Return a picture that links to itself, with a caption below.

    Args:
        name: File name of the picture, beside the page.
        caption: Plain text.
    """
    caption = escape(caption)
    return f'[![{caption}]({name})]({name})\\\n*{caption}*'


def code_block(lines: Iterable[str]) -> str:
    """Return lines to be copied."""
    return '\n'.join(['```', *lines, '```'])


def write_page(path: Path, title: str, markdown: str, style: str = '') -> None:
    """Render markdown to an html page.

    Args:
        path: The html file.
        title: Title of the page, as plain text.
        markdown: Content of the page.
        style: CSS rules added to those of all pages.
    """
    body = _RENDERER.render(markdown)
    page = _PAGE.format(title=html.escape(title), body=body, style=_STYLE + style)
    write_own(path, page.encode())


_STYLE = """
body {
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  font: 1rem/1.5 system-ui, sans-serif; color: #222; background: #fff;
}
h1 { font-size: 1.5rem; }
table {
  display: block; overflow-x: auto; border-collapse: collapse; margin: 1.5rem 0;
}
th, td { padding: 0.4rem 1rem; border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; border: 1px solid #ddd; margin-top: 1rem; }
em { color: #555; font-style: normal; }
pre { overflow-x: auto; padding: 1rem; background: #f5f5f5; }
a { color: #0072B2; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""
