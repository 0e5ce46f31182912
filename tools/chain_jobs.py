"""The members of a chain as trainings, with configs that can be read and run alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mkd_det.experiments.chain.chain import Chain, Member, stage_config
from mkd_det.training.runtime import student_config
from mkd_det.experiments.runs import Stage, digest
from mkd_det.experiments.runs.training import (
    metric_of,
    settings_in,
    source_of,
    stage_of,
    write_config,
)

# Settings that make a given member what it is, and its result.
_OF_GIVEN = ('model.', 'data_preprocessor', 'custom_imports', 'default_scope', 'val_')


@dataclass(frozen=True)
class Job:
    """A member of the chain and what is done with it.

    Args:
        member: The member.
        cfg: Of its training, or of its test where it is given.
        folder: Of all stages.
        params: Of the plain model.
        metric: What counts: name and key in the log.
        made_from: What it is, in names and words.
        stage: Its training, or None where it is given.
    """

    member: Member
    cfg: Config
    folder: Path
    params: int
    metric: tuple[str, str]
    made_from: Mapping[str, str]
    stage: Stage | None

    @property
    def student(self) -> tuple[Path, Path]:
        """Files of the plain model: config and weights."""
        return student_files(self.folder, self.member.name)

    @property
    def fingerprint(self) -> str:
        """Of what the plain model is made from."""
        return digest(sorted(self.made_from.items()))

    @property
    def as_guide(self) -> str:
        """Of what it teaches: how a given member is tested does not matter."""
        if self.stage is not None:
            return self.fingerprint
        told = self.made_from.items()
        return digest(sorted(one for one in told if not one[0].startswith('val_')))


def student_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Config and weights of a plain model in the folder of a chain."""
    return folder / 'students' / f'{name}.py', folder / 'students' / f'{name}.pth'


def make_configs(chain: Chain, folder: Path) -> dict[str, Config]:
    """Write the configs of every member: of its training, and of its plain model."""
    students: dict[str, tuple[str, str]] = {}
    configs: dict[str, Config] = {}
    for member in chain.members:
        cfg = stage_config(member, students, chain)
        cfg.work_dir = str(folder / member.name)
        if member.checkpoint is not None:
            # What a training would say of it at its end.
            cfg.test_dataloader = cfg.get('val_dataloader')
            cfg.test_evaluator = cfg.get('val_evaluator')
            cfg.test_cfg = dict(type='TestLoop')
        config, weights = student_files(folder, member.name)
        write_config(config, student_config(cfg))
        write_config(folder / 'configs' / f'{member.name}.py', cfg)
        students[member.name] = str(config), str(weights)
        configs[member.name] = cfg
    return configs


def make_jobs(
    chain: Chain, configs: Mapping[str, Config], sizes: Mapping[str, int], folder: Path
) -> list[Job]:
    """What is to be done for each member."""
    jobs: dict[str, Job] = {}
    for member in chain.members:
        name, cfg = member.name, configs[member.name]
        made_from = settings_in(cfg, folder)
        if member.checkpoint is not None:
            # How it would be trained does not matter.
            made_from = {k: v for k, v in made_from.items() if k.startswith(_OF_GIVEN)}
        metric = metric_of(cfg, f'chain: {name}', chain.metric)
        stage = None
        if member.checkpoint is not None:
            made_from |= {
                'checkpoint': source_of(member.checkpoint),
                'how it is loaded': json.dumps(member.teacher, default=str),
            }
        else:
            guides = {f'guide {g}': jobs[g].as_guide for g in member.guides}
            guides['order of its guides'] = ', '.join(member.guides)
            taught = f', taught by {", ".join(member.guides)}' if member.guides else ''
            stage = stage_of(
                cfg,
                folder / 'configs' / f'{name}.py',
                Path(cfg.work_dir),
                name=name,
                title=name + taught,
                after=guides,
                figures=dict([metric]),
                settings=made_from,
            )
            made_from |= guides
        size = sizes[name]
        jobs[name] = Job(member, cfg, folder, size, metric, made_from, stage)
    return list(jobs.values())
