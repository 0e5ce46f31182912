"""Renders formulas as MathML when the site is built.

Browsers draw MathML themselves, so that pages load no script from elsewhere and can be
read without a network.
"""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)


def visit_math(translator: HTML5Translator, node: nodes.Element) -> None:
    """Write a formula inside of a sentence."""
    translator.body.append(_convert(node, as_block=False))
    raise nodes.SkipNode


def visit_math_block(translator: HTML5Translator, node: nodes.Element) -> None:
    """Write a formula that stands by itself."""
    translator.body.append(
        f'<div class="math notranslate">{_convert(node, as_block=True)}</div>'
    )
    raise nodes.SkipNode


def _convert(node: nodes.Element, as_block: bool) -> str:
    """Return the MathML of a formula; warn and return its text if that fails."""
    tex = node.astext()
    try:
        return tex2mathml(tex, as_block=as_block)
    except Exception as error:
        logger.warning('formula %r: %s', tex, error, location=node)
        return f'<code>{tex}</code>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer as `mathml`."""
    app.add_html_math_renderer('mathml', (visit_math, None), (visit_math_block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
