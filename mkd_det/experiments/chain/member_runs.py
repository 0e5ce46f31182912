"""The members of a chain as trainings and tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...io.json_files import read_json, write_own_json
from ..runs import TrainingRun, digest
from ..runs.metrics import main_metric
from ..runs.recovery import is_complete_checkpoint
from ..runs.settings import checkpoint_id, settings_in
from ..runs.training_configs import make_training_run
from .chain import Chain, ChainMember
from .member_configs import config_file, student_files

# Settings that determine a given model and the result of its test.
_GIVEN_PREFIXES = (
    'model.',
    'data_preprocessor',
    'custom_imports',
    'default_scope',
    'val_',
)


@dataclass(frozen=True)
class MemberRun:
    """What is run for a member: its training, or the test of a given model.

    Args:
        member: The member.
        cfg: Config of the training, or of the test.
        folder: Folder of the chain.
        params: Number of parameters of the plain model.
        metric: Name of the metric that counts, and its key in the log.
        made_from: Everything that identifies the plain model, by name.
        training: The training; None for a given model.
    """

    member: ChainMember
    cfg: Config
    folder: Path
    params: int
    metric: tuple[str, str]
    made_from: Mapping[str, str]
    training: TrainingRun | None

    @property
    def student(self) -> tuple[Path, Path]:
        """Config and weights of the plain model."""
        return student_files(self.folder, self.member.name)

    @property
    def note(self) -> Path:
        """File beside the weights that says what they are made from."""
        return self.student[1].with_suffix('.json')

    @property
    def fingerprint(self) -> str:
        """Digest of what the plain model is made from."""
        return digest(sorted(self.made_from.items()))

    @property
    def guide_fingerprint(self) -> str:
        """Digest of what guided members depend on: not on how a model is tested."""
        if self.training is not None:
            return self.fingerprint
        items = self.made_from.items()
        return digest(sorted(item for item in items if not item[0].startswith('val_')))

    def has_student(self) -> bool:
        """Tell whether the plain model is written, undamaged and up to date."""
        known = read_json(self.note)
        current = bool(known) and known['of'] == self.fingerprint
        return current and is_complete_checkpoint(self.student[1])

    def write_note(self, **more: Any) -> None:
        """Note what the plain model is made from."""
        write_own_json(self.note, {'of': self.fingerprint, **more})


def make_member_runs(
    chain: Chain, configs: Mapping[str, Config], sizes: Mapping[str, int], folder: Path
) -> list[MemberRun]:
    """Return the run of each member.

    Args:
        chain: The chain.
        configs: Config of each member, by name.
        sizes: Number of parameters of each plain model, by name.
        folder: Folder of the chain.
    """
    runs: dict[str, MemberRun] = {}
    for member in chain.members:
        name, cfg = member.name, configs[member.name]
        made_from = settings_in(cfg, folder)
        metric = main_metric(cfg, f'chain: {name}', chain.metric)
        training = None
        if member.checkpoint is not None:
            # How it would be trained does not matter.
            made_from = {
                k: v for k, v in made_from.items() if k.startswith(_GIVEN_PREFIXES)
            }
            made_from |= {
                'checkpoint': checkpoint_id(member.checkpoint),
                'how it is loaded': json.dumps(member.teacher, default=str),
            }
        else:
            guides = {f'guide {g}': runs[g].guide_fingerprint for g in member.guides}
            guides['order of its guides'] = ', '.join(member.guides)
            taught = f', taught by {", ".join(member.guides)}' if member.guides else ''
            training = make_training_run(
                cfg,
                config_file(folder, name),
                Path(cfg.work_dir),
                name,
                title=name + taught,
                depends_on=guides,
                metrics=dict([metric]),
                settings=made_from,
            )
            made_from |= guides
        runs[name] = MemberRun(
            member, cfg, folder, sizes[name], metric, made_from, training
        )
    return list(runs.values())
