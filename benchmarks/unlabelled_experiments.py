"""The rows that measure_unlabelled.py compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bccd_val import use_val
from mmengine.config import Config

from mkd_det.config_files.reading import load_config
from mkd_det.plan.recipes import apply_recipe, read_recipe

PACKAGED = 'mkd_det::'
SOFT = 'mkd_det::_base_/recipes/soft_dense.py'
# For stored outputs: those of PackDetInputs, and what was done to the image.
META_KEYS = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'homography_matrix',
)
# Shares of the images of a step that have no labels, for its cost.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
COST_BATCH = 16


@dataclass(frozen=True)
class Experiment:
    """A comparison.

    Args:
        data: Name of the data set's folder of configs.
        unlabelled: The config with images without labels, in that folder.
        teacher: The config of the teacher.
        part: Whether the rows have a part of the labels only.
        no_labels: Whether one of them learns from nothing but the teacher.
        soft: Whether soft outputs are learned alone as well, from a teacher in the loop
            and from what it has said once.
    """

    data: str
    unlabelled: str
    teacher: str
    part: bool = True
    no_labels: bool = False
    soft: bool = False


def _bccd(share: int, **more: bool) -> Experiment:
    config = f'gfl_mkd_r18-w64_r18-w16_unlabeled{share}_bccd.py'
    return Experiment('bccd', config, 'gfl_r18-w64_bccd.py', **more)


EXPERIMENTS = {
    'bccd20': _bccd(20, soft=True),
    'bccd50': _bccd(50),
    'bccd100': _bccd(100, part=False, no_labels=True),
    'pcb': Experiment(
        'pcb',
        'gfl_mkd_r18-w64_r18-w16_unlabeled_pcb.py',
        'gfl_r18-w64_pcb.py',
    ),
    'demo': Experiment(
        'demo',
        'gfl_mkd_r18-w48_r18-w16_unlabeled_digits.py',
        'gfl_r18-w48_digits.py',
        part=False,
    ),
}


def read(experiment: Experiment, file: str, split: str, work_dir: Path) -> Config:
    """Return a config that is measured on a split.

    Args:
        experiment: The experiment.
        file: Its config file.
        split: 'val' or 'test'. The demo has val only.
        work_dir: Where `write_val` has written the val split of BCCD.
    """
    cfg = load_config(f'{PACKAGED}{experiment.data}/{file}')
    if experiment.data == 'bccd' and split == 'val':
        use_val(cfg, work_dir)
    elif experiment.data == 'pcb' and split == 'test':
        cfg.val_dataloader = cfg.test_dataloader
        cfg.val_evaluator = cfg.test_evaluator
    parts = cfg.train_dataloader.dataset.get('datasets')
    if parts and split == 'val':
        parts[1] = _without_val(parts[1])
    return cfg


def _without_val(part: Any) -> Any:
    """Leave out the images that are measured on; None if nothing is left."""
    inner = part.get('datasets')
    if inner is None:
        return None if 'val.txt' in str(part.get('images', '')) else part
    kept = [one for one in map(_without_val, inner) if one is not None]
    return kept[0] if len(kept) == 1 else {**part, 'datasets': kept}


def labelled_part(cfg: Config) -> Any:
    """Return the data set with labels, of a config with images without."""
    return cfg.train_dataloader.dataset.datasets[0]


def unlabelled_part(cfg: Config) -> Any:
    """Return the data set without labels; None if it has only images of val."""
    return cfg.train_dataloader.dataset.datasets[1]


def with_data(cfg: Config, dataset: Any, model: Any) -> Config:
    """Return the config of a training on one data set, in batches of 8."""
    made = Config(cfg.to_dict())
    made.model = model
    made.train_dataloader = dict(
        cfg.train_dataloader.to_dict(),
        batch_size=8,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dataset,
    )
    return made


def rows(
    experiment: Experiment,
    cfg: Config,
    teachers: Mapping[str, Path],
    hard: Any,
    soft: Path | None = None,
) -> dict[str, Config]:
    """Return the configs of all rows; the first is the student alone.

    Args:
        experiment: The experiment.
        cfg: Its config with images without labels.
        teachers: Checkpoints of the teachers, by 'part' and 'all'.
        hard: The data set of hard pseudo-labels; None for none.
        soft: The soft labels of the teacher of the rows; None for none.
    """
    part, rest = labelled_part(cfg), unlabelled_part(cfg)
    everything = {k: v for k, v in part.items() if k != 'indices'}

    def taught(by: str, **more: Any) -> Any:
        return {**with_checkpoint(cfg.model, teachers[by]), **more}

    own = 'part' if experiment.part else 'all'
    made = {'student alone': with_data(cfg, part, cfg.model.student)}
    if experiment.part:
        made['student alone, all labels'] = with_data(
            cfg, everything, cfg.model.student
        )
    made['M-KD'] = with_data(cfg, part, taught(own))
    if rest is not None:
        for by in dict.fromkeys((own, 'all')):
            name = 'M-KD, unlabelled' + (', teacher of all labels' * (by != own))
            made[name] = Config(cfg.to_dict())
            made[name].model = taught(by)
    if hard is not None:
        name = 'hard pseudo-labels'
        made[name] = Config(cfg.to_dict())
        made[name].model = cfg.model.student
        made[name].train_dataloader.dataset.datasets[1] = hard
    if soft is not None:
        made |= soft_rows(cfg, teachers[own], soft)
    if experiment.no_labels:
        made['no labels at all'] = with_data(
            cfg, as_unlabelled(everything, rest), taught('all', task_weight=0)
        )
    return made


def soft_rows(cfg: Config, checkpoint: Path, soft: Path) -> dict[str, Config]:
    """Return rows that learn soft outputs alone: in the loop, and stored.

    Args:
        cfg: A config whose teacher is in the loop.
        checkpoint: The teacher.
        soft: What it has said.
    """
    teacher = with_checkpoint(cfg.model, checkpoint)['teachers']['t']
    stored = {**teacher, 'checkpoint': None, 'stored': str(soft.absolute())}
    made = {}
    for name, one in (('in the loop', teacher), ('stored', stored)):
        row = Config(cfg.to_dict())
        recipe = read_recipe(SOFT).arguments
        row.model = apply_recipe(cfg.model.student, dict(t=one), recipe)
        loader = row.train_dataloader.to_dict()
        loader['dataset'] = with_homography(loader['dataset'])
        row.train_dataloader = loader
        made[f'soft outputs, unlabelled, {name}'] = row
    return made


def with_homography(dataset: Any) -> Any:
    """Return a data set whose samples say how their images were transformed."""
    found = dict(dataset)
    if 'datasets' in found:
        found['datasets'] = [with_homography(part) for part in found['datasets']]
        return found
    *steps, pack = found['pipeline']
    found['pipeline'] = [*steps, dict(pack, meta_keys=META_KEYS)]
    return found


def with_checkpoint(model: Any, checkpoint: Path) -> Any:
    """Return the model with a file of its teacher."""
    teacher = {**model.teachers.t, 'checkpoint': str(checkpoint.absolute())}
    return {**model.to_dict(), 'teachers': dict(t=teacher)}


def as_unlabelled(labelled: Any, more: Any) -> Any:
    """Return the images of labelled data, and others, without labels."""
    given = dict(
        type='UnlabeledImages',
        data_root=labelled['data_root'],
        data_prefix=dict(img='JPEGImages'),
        images=labelled['ann_file'],
        pipeline=labelled['pipeline'],
    )
    return given if more is None else dict(type='ConcatDataset', datasets=[given, more])


def teacher_name(experiment: Experiment, kind: str) -> str:
    """Return the name of a teacher; one of all labels serves several experiments."""
    if kind == 'all':
        return f'{experiment.data}_all'
    return Path(experiment.unlabelled).stem + '_part'


def teacher_config(experiment: Experiment, kind: str, work_dir: Path) -> Config:
    """Return the config of a teacher, which is measured on val."""
    cfg = read(experiment, experiment.teacher, 'val', work_dir)
    if kind == 'part':
        unlabelled = read(experiment, experiment.unlabelled, 'val', work_dir)
        model = cfg.model
        cfg = with_data(unlabelled, labelled_part(unlabelled), model)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    return cfg


def cost_config(share: float) -> Config:
    """Return a config whose steps have a share of images without labels."""
    experiment = EXPERIMENTS['bccd20']
    cfg = read(experiment, experiment.unlabelled, 'test', Path())
    loader = cfg.train_dataloader
    loader.update(batch_size=COST_BATCH, num_workers=0)
    if share in (0.0, 1.0):
        part = labelled_part(cfg) if share == 0 else unlabelled_part(cfg)
        cfg = with_data(cfg, part, cfg.model)
        cfg.train_dataloader.batch_size = COST_BATCH
        cfg.model.task_weight = 1.0 - share
        return cfg
    count = round(COST_BATCH * share)
    ratio = [COST_BATCH - count, count]
    loader.sampler.update(batch_size=COST_BATCH, source_ratio=ratio)
    return cfg
