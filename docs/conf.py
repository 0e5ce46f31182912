"""How Sphinx builds the site: `make docs`, into `docs/_build/html`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / '_ext'), str(HERE.parent)]

project = 'mkd_det'
author = 'The mkd_det authors'
copyright = author
release = re.search(
    r"^__version__ = '(.+)'$",
    (HERE.parent / 'mkd_det' / 'version.py').read_text(encoding='utf-8'),
    re.MULTILINE,
)[1]
version = release

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'mathml',
    'reference',
]
exclude_patterns = ['_build', '_ext']
html_theme = 'furo'
html_title = f'mkd_det {release}'
html_math_renderer = 'mathml'
html_show_sphinx = False
html_copy_source = False

# Pages are Markdown; `$...$` is a formula, and a heading can be linked to by its words.
myst_enable_extensions = ['deflist', 'dollarmath']
myst_heading_anchors = 3

# Docstrings write code in single backticks, and have Google's sections.
default_role = 'code'
smartquotes = False
autodoc_typehints = 'none'
autodoc_class_signature = 'mixed'
autodoc_member_order = 'bysource'
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [
    ('Shape', 'notes_style'),
    ('Class attributes', 'params_style'),
]


def mark_code(app, what, name, obj, options, lines):  # noqa: D103
    # Docstrings show code as an indented block after a line that ends in a colon;
    # reStructuredText wants two colons there.
    for i in range(len(lines) - 2):
        line, gap, block = lines[i : i + 3]
        depth = len(line) - len(line.lstrip())
        if line.endswith(':') and not gap and block.startswith(' ' * (depth + 4)):
            lines[i] += ':' if not line.endswith('::') else ''


def setup(app):  # noqa: D103
    # Before napoleon, which comes at 500.
    app.connect('autodoc-process-docstring', mark_code, priority=400)
