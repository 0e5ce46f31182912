"""Pages made of markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from mkd_det.io import markdown


def render(text: str, tmp_path: Path) -> str:
    markdown.write_page(tmp_path / 'page.html', 'a <b>', text)
    return (tmp_path / 'page.html').read_text()


@pytest.mark.parametrize(
    'text',
    ['a <b>|c_d*', '1. x', '- x', '+0.1', '# x', '[a](b)', '~x~', '`x`', 'x & \\y'],
)
def test_escaped_text_is_shown_as_it_is(text: str, tmp_path: Path) -> None:
    shown = text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    assert f'<p>{shown}</p>' in render(markdown.escape(text), tmp_path)
    listed = markdown.bullet_list([markdown.escape(text)])
    assert f'<li>{shown}</li>' in render(listed, tmp_path)
    table = markdown.table(('x', 'y'), [(markdown.escape(text), '')])
    assert f'>{shown}</td>' in render(table, tmp_path)


def test_a_page_has_its_title_and_no_raw_html(tmp_path: Path) -> None:
    page = render('<script>x</script>', tmp_path)
    assert '<title>a &lt;b&gt;</title>' in page
    assert '<script>' not in page


def test_pictures_have_captions_and_code_stands_by_itself(tmp_path: Path) -> None:
    text = '\n\n'.join(
        [
            markdown.picture('a.png', 'What *it* shows.'),
            markdown.bullet_list(['x']),
            markdown.code_block(['python <x> *']),
        ]
    )
    page = render(text, tmp_path)
    assert '<a href="a.png"><img src="a.png" alt="What *it* shows." /></a>' in page
    assert '<em>What *it* shows.</em>' in page
    assert '</ul>\n<pre><code>python &lt;x&gt; *\n</code></pre>' in page
