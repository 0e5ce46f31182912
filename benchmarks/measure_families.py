#!/usr/bin/env python
"""Measure two-stage detectors and RTMDet on playing cards.

    python benchmarks/measure_families.py --weights FOLDER

FOLDER holds the teachers faster-rcnn_r18-w64_cards.pth and rtmdet-w050_cards.pth, the
last checkpoints of `mkd-det train` with their configs. The student alone, soft outputs
and M-KD are tried with three learning rates each on the validation images; then what
was best trains with all seeds and is tested (benchmarks/protocol.py). Writes
docs/results/cards_<family>. The trainings share the teacher's cache. Finished ones are
skipped, interrupted ones resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import protocol
from mmengine.config import Config

from mkd_det.cli.common import guard
from mkd_det.config_files.reading import load_config

# Rows of each family, and the teacher's file.
FAMILIES = {
    'faster-rcnn': (
        {
            'student alone': 'faster-rcnn_r18-w16_cards.py',
            'soft outputs': 'faster-rcnn_soft_r18-w64_r18-w16_cards.py',
            'M-KD': 'faster-rcnn_mkd_r18-w64_r18-w16_cards.py',
        },
        'faster-rcnn_r18-w64_cards.pth',
    ),
    'rtmdet': (
        {
            'student alone': 'rtmdet-w012_cards.py',
            'soft outputs': 'rtmdet_soft_w050_w012_cards.py',
            'M-KD': 'rtmdet_mkd_w050_w012_cards.py',
        },
        'rtmdet-w050_cards.pth',
    ),
}
STAGES = (protocol.Stage('lr', (1e-3, 3e-3, 6e-3)),)


def make_rows(family: str, weights: Path, cache: Path) -> dict[str, protocol.Make]:
    """Return what makes the config of each row.

    Args:
        family: Name of the family.
        weights: Folder of the teachers.
        cache: Folder of what the teacher has said.
    """
    files, teacher = FAMILIES[family]

    def make(file: str, settings: protocol.Settings) -> Config:
        cfg = load_config(f'mkd_det::cards/{file}')
        cfg.optim_wrapper.optimizer.lr = settings['lr']
        if 'teachers' in cfg.model:
            cfg.model.teachers.t.checkpoint = str((weights / teacher).absolute())
            cfg.model.teachers.t.cache = str(cache.absolute())
        return cfg

    return {row: partial(make, file) for row, file in files.items()}


@guard
def main(argv: Sequence[str] | None = None) -> None:
    """Measure each family."""
    parser = protocol.make_parser(__doc__, 'work_dirs/families')
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument(
        '--families', nargs='+', default=list(FAMILIES), choices=FAMILIES
    )
    args = parser.parse_args(argv)
    for family in args.families:
        out = args.out / f'cards_{family}'
        place = protocol.Place(args.work_dir / family, out, args.devices, args.epochs)
        rows = make_rows(family, args.weights, args.work_dir / 'cache')
        protocol.measure([protocol.Task(rows, place)], STAGES, args.seeds)


if __name__ == '__main__':
    raise SystemExit(main())
