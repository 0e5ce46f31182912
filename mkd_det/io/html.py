"""Pages that tell what came out: one file of html, with pictures beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path


def write_page(path: Path, title: str, body: str, style: str = '') -> None:
    """Write a page.

    Args:
        path: Of the html file.
        title: As text.
        body: As html.
        style: Rules beyond those of all pages.
    """
    whole = _PAGE.format(title=html.escape(title), body=body, style=_STYLE + style)
    path.write_text(whole, encoding='utf-8')


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, as html."""
    lines = [('th', header), *(('td', row) for row in rows)]
    inner = ''.join(
        '<tr>' + ''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in line) + '</tr>\n'
        for tag, line in lines
    )
    return f'<table>\n{inner}</table>\n'


def figure(name: str, caption: str) -> str:
    """A picture that lies beside the page, as html."""
    name, caption = html.escape(name), html.escape(caption)
    return (
        f'<figure><a href="{name}"><img src="{name}" alt="{caption}">'
        f'</a><figcaption>{caption}</figcaption></figure>\n'
    )


_STYLE = """
body {
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  font: 1rem/1.5 system-ui, sans-serif; color: #222; background: #fff;
}
h1 { font-size: 1.5rem; }
table { border-collapse: collapse; margin: 1.5rem 0; }
th, td { padding: 0.4rem 1rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 2rem 0; }
img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figcaption { color: #555; }
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
