"""Checks of a whole chain that run before its first training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...config_files.reading import plain_model_cfg
from ...data.datasets import dataset_classes
from ...data.labels import agreed_names, read_labels
from ...errors import CheckpointFileError, ConfigError, prefix_errors
from ...preflight.checks import check_amp, check_before_start, check_count
from ...teachers.loading import Teacher
from ...training.class_order import check_teacher_labels
from ...training.runtime import prepare_config
from ..runs.metrics import main_metric
from ..runs.training_configs import training_budget
from .chain import Chain, ChainMember
from .chain_file import READING_KEYS


def check_chain(
    chain: Chain, configs: Mapping[str, Config], folder: Path
) -> dict[str, int]:
    """Raise for everything that would stop a later training.

    Args:
        chain: The chain.
        configs: Config of each member, by name.
        folder: Folder of the chain.

    Returns:
        Number of parameters of each plain model, by name.

    Raises:
        MkdError: A member could not be trained or tested.
    """
    sizes, metrics = {}, {}
    classes: dict[str, Any] = {}
    for member in chain.members:
        cfg, title = configs[member.name], f'chain: {member.name}'
        metrics[member.name], _ = main_metric(cfg, title, chain.metric)
        with prefix_errors(title):
            if member.checkpoint is None:
                training_budget(cfg, title)
                check_amp(cfg)
                model = check_before_start(prepare_config(cfg), teachers=False)
            else:
                check_given_checkpoint(member.checkpoint, folder)
                model = load_given(member, cfg).model
                check_count({'val': dataset_classes(cfg, 'val')}, model)
        labels = agreed_names(read_labels(cfg, 'val'))
        classes[member.name] = labels or dataset_classes(cfg, 'val')
        for branch in getattr(model, 'branches', {}).values():
            branch.detach()  # not a part of the plain student
        plain = getattr(model, 'student', model)
        sizes[member.name] = sum(p.numel() for p in plain.parameters())
    check_metrics_agree(metrics)
    check_classes_agree(classes)
    warn_of_order(chain, sizes)
    return sizes


def check_given_checkpoint(checkpoint: str, folder: Path) -> None:
    """Raise unless a given checkpoint is there, and the chain will not overwrite it.

    Args:
        checkpoint: File, or address on the web.
        folder: Folder of the chain.

    Raises:
        ConfigError: It lies where the chain writes.
        CheckpointFileError: It does not exist.
    """
    file = Path(checkpoint).resolve()
    if (folder / 'students').resolve() in file.parents:
        raise ConfigError(
            'its checkpoint lies where this chain writes',
            actual=checkpoint,
            fix='a copy elsewhere, or another --work-dir',
        )
    if '://' not in checkpoint and not file.is_file():
        raise CheckpointFileError(
            f'checkpoint {checkpoint} does not exist',
            actual=f'looked from {Path.cwd()}',
            fix='leave `checkpoint` out to train the member',
        )


def check_metrics_agree(metrics: Mapping[str, str]) -> None:
    """Raise ConfigError unless all members are measured by the same metric."""
    if len(set(metrics.values())) > 1:
        raise ConfigError(
            'chain: its members are measured by different metrics',
            actual=dict(metrics),
            fix="metric='coco/bbox_mAP', and the same evaluators for all",
        )


def check_classes_agree(classes: Mapping[str, Any]) -> None:
    """Raise ConfigError if two members are trained on different classes."""
    known = {name: names for name, names in classes.items() if names}
    for name, names in known.items():
        first = next(iter(known))
        if tuple(names) != tuple(known[first]):
            raise ConfigError(
                f'chain: {name} is trained on other classes than {first}, or in'
                ' another order',
                expected=known[first],
                actual=names,
            )


def load_given(member: ChainMember, cfg: Config) -> Teacher:
    """Load the model of a given member.

    Args:
        member: The member, with a checkpoint.
        cfg: Its config.

    Raises:
        MkdError: The weights do not fit, or belong to other classes than the data.
    """
    reading = {k: v for k, v in member.teacher.items() if k in READING_KEYS}
    whole = {'cfg': plain_model_cfg(cfg), 'checkpoint': member.checkpoint, **reading}
    teacher = Teacher.build(member.name, whole)
    teacher.load()
    for line in check_teacher_labels(teacher, cfg, 'val'):
        print(f'Warning: {line}')
    return teacher


def warn_of_order(chain: Chain, sizes: Mapping[str, int]) -> None:
    """Print a warning for each member that is larger than one before it.

    Args:
        chain: The chain.
        sizes: Number of parameters of each plain model, by name.
    """
    for group, after in zip(groups := list(chain.groups()), groups[1:]):
        smallest = min(group, key=lambda member: sizes[member.name])
        for member in after:
            if sizes[member.name] > sizes[smallest.name]:
                print(
                    f'Warning: {member.name} ({sizes[member.name] / 1e6:.2f} M'
                    f' parameters) is larger than {smallest.name} before it'
                    f' ({sizes[smallest.name] / 1e6:.2f} M): assistants should'
                    ' come in order of size'
                )
