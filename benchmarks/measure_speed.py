#!/usr/bin/env python
"""Measure a training step at each speed of the teachers: docs/results/speed.*.

    python benchmarks/measure_speed.py

Runs `mkd-det benchmark` for three configs: the BCCD pair, GFL ResNet-50 to ResNet-18 at
320x256, and two teachers. Teachers without a file have random weights, which do not
change the time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mkd_det.cli import benchmark
from mkd_det.cli.common import guard
from mkd_det.io.json_files import write_json

SPEEDS = ['off', 'exact', 'fast', 'cached']
CASES = {
    'BCCD: GFL R18, 64 to 16 channels': [
        'mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py',
    ],
    'GFL R50 to R18, 320x256': [
        'mkd_det::coco/gfl_mkd_r50_r18_fpn_1x_coco.py',
        *('--image-size', '256', '320', '--batch-size', '8'),
    ],
    'BCCD, two teachers': [
        'mkd_det::bccd/ablation/two_teachers.py',
    ],
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--iters', type=int, default=20, help='rounds that count')
    parser.add_argument('--out', type=Path, default=Path('docs/results'))
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


def measure(argv: Sequence[str], iters: int) -> dict[str, Any]:
    """Return the results of `mkd-det benchmark`, with the command.

    Args:
        argv: Config and options.
        iters: Rounds that count.
    """
    argv = [*argv, '--iters', str(iters), '--speeds', *SPEEDS]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'out.json'
        if code := benchmark.main([*argv, '--json', str(file)]):
            raise SystemExit(code)  # it has printed the error
        result = json.loads(file.read_text())
    return dict(command=' '.join(['mkd-det', 'benchmark', *argv]), **result)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return K / (S + T) of every case and speed as a markdown table."""
    lines = [
        '| | S ms | T ms | ' + ' | '.join(SPEEDS) + ' |',
        '|---' * (len(SPEEDS) + 3) + '|',
    ]
    for case, result in results.items():
        s, t = (1e3 * result['phases'][name]['median_s'] for name in 'ST')
        ratios = [result['ratios'][f'K {speed}']['of_medians'] for speed in SPEEDS]
        shown = ' | '.join(f'{ratio:.2f}' for ratio in ratios)
        lines.append(f'| {case} | {s:.0f} | {t:.0f} | {shown} |')
    return '\n'.join(lines)


def draw(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw a group of bars for every case.

    1 is the student's step and the plain teachers' forward together.

    Args:
        results: Results by case.
        path: The PNG file.
    """
    figure = Figure(figsize=(8, 4), layout='constrained')
    axes = figure.subplots()
    width = 0.8 / len(SPEEDS)
    for index, speed in enumerate(SPEEDS):
        ratios = [result['ratios'][f'K {speed}'] for result in results.values()]
        middle = [ratio['of_medians'] for ratio in ratios]
        low = [max(m - r['q1'], 0) for m, r in zip(middle, ratios, strict=True)]
        high = [max(r['q3'] - m, 0) for m, r in zip(middle, ratios, strict=True)]
        left = [case + index * width for case in range(len(results))]
        axes.bar(left, middle, width, yerr=[low, high], capsize=2, label=speed)
    axes.axhline(1, color='0.4', ls='--', lw=1)
    axes.set_xticks([p + 0.4 - width / 2 for p in range(len(results))], list(results))
    axes.set_ylabel('K / (S + T)')
    # Above the bars, not on them.
    figure.legend(title='teachers', ncols=len(SPEEDS), loc='outside upper center')
    figure.savefig(path, dpi=150)


def write(out: Path, results: Mapping[str, Mapping[str, Any]], iters: int) -> None:
    """Write json, page and figure.

    Args:
        out: Folder of the files.
        results: Results by case.
        iters: Rounds that counted.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / 'speed.json', results)
    (out / 'speed.md').write_text(
        '# Cost of a step: all numbers\n\n'
        f'    python benchmarks/measure_speed.py --iters {iters}\n\n'
        "S: the plain student's training step. T: forward of the teachers as they are."
        ' The last columns: K / (S + T), the step of the distiller at each speed of the'
        ' teachers. Raw numbers, memory and the machine: [speed.json](speed.json).\n\n'
        f'{table(results)}\n\n![K / (S + T)](speed.png)\n'
    )
    draw(results, out / 'speed.png')


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Measure one case after the other; write after each."""
    args = parse_args(argv)
    results: dict[str, dict[str, Any]] = {}
    for case, options in CASES.items():
        results[case] = measure(options, args.iters)
        write(args.out, results, args.iters)
    print(table(results))


if __name__ == '__main__':
    raise SystemExit(main())
