"""The page of the demo: a table, pictures, and the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...io import markdown
from ...io.markdown import escape
from ..runs import TrainingResult

PAGE, RESULTS = 'index.html', 'results.json'
HEADER = ('model', 'parameters', 'box mAP', 'mAP50', 'seconds')


@dataclass(frozen=True)
class ModelResult:
    """One model of the demo.

    Args:
        title: Title shown to people.
        params: Number of parameters of the model that is shipped.
        training: Result of its training.
    """

    title: str
    params: int
    training: TrainingResult

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table as plain text, in the order of `HEADER`."""
        metrics = self.training.metrics
        return (
            self.title,
            f'{self.params / 1e6:.2f} M',
            f'{metrics["box_map"]:.3f}',
            f'{metrics["box_map_50"]:.3f}',
            f'{self.training.seconds:.0f}',
        )


def summary(results: Sequence[ModelResult]) -> str:
    """Return the outcome of the demo in two sentences."""
    maps = {r.training.name: r.training.metrics['box_map'] for r in results}
    gain = 100 * (maps['mkd'] - maps['student'])
    gap = 100 * (maps['teacher'] - maps['student'])
    more = 'more' if gain >= 0 else 'less'
    return (
        f'Taught by the teacher, the student reaches {maps["mkd"]:.3f} box mAP: '
        f'{abs(gain):.1f} points {more} than alone. The teacher is {gap:.1f} points '
        'above the student alone.'
    )


def write_page(
    path: Path, results: Sequence[ModelResult], pictures: Mapping[str, str]
) -> None:
    """Write the page.

    Args:
        path: The html file.
        results: The models; the last one, which the demo is about, is set in bold.
        pictures: Captions of the pictures, by their names beside `path`.
    """
    *others, last = ([escape(cell) for cell in result.cells()] for result in results)
    rows = [*others, [f'**{cell}**' for cell in last]]
    blocks = [
        '# A small detector learns from a big one',
        escape(summary(results)),
        markdown.table(HEADER, rows),
        *(markdown.picture(name, caption) for name, caption in pictures.items()),
        '## How it was made',
        'Real handwritten digits on photographs, made on this machine, and three'
        ' ordinary trainings. Each of these commands repeats one:',
        markdown.code_block(result.training.command for result in results),
        f'All numbers: [{RESULTS}]({RESULTS}).',
    ]
    markdown.write_page(path, 'mkd_det: the demo', '\n\n'.join(blocks))
