"""Chain files for the tests of chains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

import tiny_images
from mkd_det.experiments.chain.chain import read_chain
from mkd_det.experiments.chain.member_configs import write_member_configs
from mkd_det.experiments.chain.member_runs import MemberRun, make_member_runs

SOFT = dict(
    type='SoftOutputKD', student='logits', teacher='t.logits', tau=4.0, weight=2.0
)
RECIPE = dict(taps=dict(logits='head'), terms=dict(loss_soft=SOFT), probe_size=16)


def member(name: str, **more: Any) -> dict[str, Any]:
    return dict(name=name, cfg=f'{name}.py', **more)


def chain(*names: str, **more: Any) -> dict[str, Any]:
    """A chain file: the first name is the root."""
    root, *stages = names
    cfg = dict(root=member(root), stages=[member(n) for n in stages], recipe=RECIPE)
    return {**cfg, **more}


def with_stage(**more: Any) -> dict[str, Any]:
    """A chain of three, with keys added to the last stage."""
    cfg = chain('t', 'a', 's')
    cfg['stages'][1].update(more)
    return cfg


def write_members(folder: Path) -> Path:
    """Configs of three tiny classifiers t, a and s, and the chain of them."""
    data = tiny_images.write_folder(folder / 'data', 8)
    for name, width in (('t', 8), ('a', 6), ('s', 4)):
        model = tiny_images.classifier(base_channels=width)
        cfg = tiny_images.runner_cfg(model, data, folder / name, 2)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        cfg.pop('work_dir')
        cfg.dump(folder / f'{name}.py')
    write_chain(folder)
    return folder


def write_chain(folder: Path, **more: Any) -> Path:
    """A chain file of the members t, a and s; keys of `more` replace its own."""
    cfg = chain('t', 'a', 's', **more)
    for one in [cfg['root'], *cfg['stages']]:
        one['cfg'] = str(folder / one['cfg'])
    for stage in cfg['stages']:
        # A guide that trained for two epochs is no better than chance.
        options = {'default_hooks.teacher_check': None}
        stage['options'] = {**options, **stage.get('options', {})}
    Config(cfg).dump(folder / 'chain.py')
    return folder / 'chain.py'


def member_runs(folder: Path, work: str = 'work') -> dict[str, MemberRun]:
    """The runs of the chain in a folder, by name."""
    read = read_chain(Config.fromfile(folder / 'chain.py').to_dict())
    configs = write_member_configs(read, folder / work)
    runs = make_member_runs(read, configs, dict.fromkeys(configs, 1), folder / work)
    return {run.member.name: run for run in runs}
