"""Students, teachers and recipes for the tests of comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

import tiny
import tiny_images
from mkd_det.experiments.comparison.options import ComparisonOptions
from mkd_det.experiments.comparison.rows import read_rows

SOFT = dict(type='SoftOutputKD', student='logits', teacher='t.logits', tau=4.0)
RECIPE = dict(taps=dict(logits='head'), terms=dict(loss_soft=SOFT), probe_size=16)


def write_classifiers(folder: Path) -> Path:
    """Configs `alone` and `big`, the recipe `soft`, weights of the teacher `big`."""
    data = tiny_images.write_folder(folder / 'data', 6)
    rate = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2),
        dict(type='MultiStepLR', by_epoch=True, milestones=[6, 8], gamma=0.1),
    ]
    for name, width in (('alone', 4), ('big', 8)):
        model = tiny_images.classifier(base_channels=width)
        cfg = tiny_images.runner_cfg(
            model, data, folder, epochs=10, param_scheduler=rate
        )
        # After so little training a teacher is no better than chance.
        cfg.default_hooks.teacher_check = None
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        cfg.pop('work_dir')
        cfg.dump(folder / f'{name}.py')
    Config(dict(recipe=RECIPE)).dump(folder / 'soft.py')
    big, classes = tiny_images.classifier(base_channels=8), tiny_images.CLASSES
    tiny.write_checkpoint(big, folder / 'big.pth', classes=classes)
    return folder


def write_detectors(folder: Path, coco: Path) -> Path:
    """Configs and weights `alone` and `big`, and the recipe `attention`."""
    for name, model in (
        ('alone', tiny.gfl(base_channels=4, neck=8)),
        ('big', tiny.gfl(base_channels=8, neck=16)),
    ):
        model['test_cfg']['score_thr'] = 0.0
        cfg = tiny.runner_cfg(model, coco, folder, epochs=2)
        cfg.default_hooks.teacher_check = None
        cfg.dump(folder / f'{name}.py')
        tiny.write_checkpoint(model, folder / f'{name}.pth')
    attention = dict(type='AttentionKD', student='fpn', teacher='t.fpn')
    recipe = dict(
        taps=dict(fpn='neck'), terms=dict(loss_attention=attention), probe_size=64
    )
    Config(dict(recipe=recipe)).dump(folder / 'attention.py')
    return folder


def options_of(files: Path, **more: Any) -> ComparisonOptions:
    """Settings with the teacher `big`."""
    given: dict[str, Any] = dict(
        teachers={'t': str(files / 'big.pth')},
        teacher_cfgs={'t': str(files / 'big.py')},
    )
    return ComparisonOptions(**{**given, **more})


def configs_of(files: Path, *others: str, **more: Any) -> dict[str, Config]:
    """Configs of the row `alone`, and of the others (or `soft`), by name."""
    base, given = str(files / 'alone.py'), others or [str(files / 'soft.py')]
    rows = read_rows(base, given, options_of(files, **more))
    return {row.name: row.cfg for row in rows}


def changed(files: Path, name: str, **settings: Any) -> str:
    """Write a config like `alone` but for settings ('__' stands for '.')."""
    cfg = Config.fromfile(files / 'alone.py')
    cfg.merge_from_dict({key.replace('__', '.'): v for key, v in settings.items()})
    cfg.dump(files / f'{name}.py')
    return str(files / f'{name}.py')
