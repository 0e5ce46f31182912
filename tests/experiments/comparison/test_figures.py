"""Labels and colours of figures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from mkd_det.experiments.comparison.report import figures


def test_labels_that_matplotlib_would_hide_or_typeset_are_shown() -> None:
    axes = Figure().add_subplot()
    for name in ('_soft', 'x$y'):
        axes.plot([0, 1], [0, 1], label=figures.as_label(name))
    labels = axes.get_legend_handles_labels()[1]
    assert [label.strip() for label in labels] == ['_soft', r'x\$y']


def test_rows_have_colours_of_their_own() -> None:
    assert len({figures._colour(number) for number in range(21)}) == 21


def test_references_are_drawn_beside_the_rows(tmp_path: Path) -> None:
    path = tmp_path / 'runs.png'
    figures.draw_runs({'a': [1.0, 2.0], 'b': [1.5]}, {'teacher': 3.0}, 'mAP', path)
    assert path.stat().st_size > 5000
