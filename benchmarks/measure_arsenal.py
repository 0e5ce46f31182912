#!/usr/bin/env python
"""Measure published methods beside M-KD on BCCD, and write docs/results/arsenal*.

    python benchmarks/measure_arsenal.py --weights FOLDER

FOLDER holds the teachers: gfl_r18-w64_bccd.pth and retinanet_r18-w64_bccd.pth, the last
checkpoints of `mkd-det train` with their configs. Each pair is a comparison of
`mkd-det compare`. Finished trainings are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from mkd_det.cli import compare
from mkd_det.cli.common import add_devices, guard
from mkd_det.experiments.comparison.report.page import JSON
from mkd_det.io.json_files import read_json, write_json

RECIPES = 'mkd_det::_base_/recipes'
CONFIGS = 'mkd_det::bccd'
METHODS = {
    'soft outputs': f'{RECIPES}/soft_dense.py',
    'CWD': f'{RECIPES}/cwd_dense.py',
    'PKD': f'{RECIPES}/pkd_dense.py',
    'MGD': f'{RECIPES}/mgd_dense.py',
    'FGD': f'{RECIPES}/fgd_dense.py',
}
MKD = {
    'full M-KD': f'{RECIPES}/mkd_dense.py',
    'full M-KD, balanced': f'{RECIPES}/mkd_balanced_dense.py',
    'M-KD and FGD': f'{RECIPES}/mkd_fgd_dense.py',
    'M-KD and FGD, balanced': f'{RECIPES}/mkd_fgd_balanced_dense.py',
}
# Rows and seeds of each pair.
PAIRS: dict[str, tuple[Mapping[str, str], Sequence[int]]] = {
    'gfl': (
        {
            **METHODS,
            'LD': f'{RECIPES}/ld_dense.py',
            'CrossKD': f'{CONFIGS}/ablation/crosskd.py',
            **MKD,
        },
        (0, 1, 2),
    ),
    'retinanet': (
        {
            **METHODS,
            'CrossKD': f'{CONFIGS}/retinanet_crosskd_r18-w64_r18-w16_bccd.py',
            **MKD,
        },
        (0, 1),
    ),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: which pairs, and where the teachers are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--pairs', nargs='+', default=list(PAIRS), choices=PAIRS)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/arsenal'))
    parser.add_argument('--out', type=Path, default=Path('docs/results'))
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    add_devices(parser, 'trainings')
    return parser.parse_args(argv)


def arguments(args: argparse.Namespace, pair: str) -> list[str]:
    """Return the arguments of `mkd-det compare` for a pair."""
    rows, seeds = PAIRS[pair]
    student, teacher = (f'{pair}_r18-{width}_bccd' for width in ('w16', 'w64'))
    return [
        *(f'{name}={path}' for name, path in rows.items()),
        *('--base', f'student alone={CONFIGS}/{student}.py'),
        *('--seeds', *map(str, seeds)),
        *('--teacher', f'{args.weights / teacher}.pth'),
        *('--teacher-cfg', f'{CONFIGS}/{teacher}.py'),
        *('--work-dir', str(args.work_dir / pair)),
        *('--out', str(args.out / f'arsenal_{pair}')),
        *('--devices', *args.devices),
    ]


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Compare the pairs; collect all numbers in one file."""
    args = parse_args(argv)
    for pair in args.pairs:
        if code := compare.main(arguments(args, pair)):
            raise SystemExit(code)  # it has printed the error
        found = {
            name: read_json(args.out / f'arsenal_{name}' / JSON)
            for name in PAIRS
            if (args.out / f'arsenal_{name}' / JSON).is_file()
        }
        write_json(args.out / 'arsenal.json', found)


if __name__ == '__main__':
    raise SystemExit(main())
