"""What can be known to be wrong with a chain before its first stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mkd_det.experiments.chain.chain import LOADING, Chain, Member
from mkd_det.training.preflight import check_amp, check_before_start, check_count
from mkd_det.configs import plain_model_cfg
from mkd_det.data.check import dataset_classes
from mkd_det.errors import CheckpointFileError, ConfigError, prefix_errors
from mkd_det.training.runtime import prepare_config
from mkd_det.experiments.runs.training import metric_of, steps_of
from mkd_det.teachers.bank import Teacher


def check_chain(
    chain: Chain, configs: Mapping[str, Config], folder: Path
) -> dict[str, int]:
    """Raise for whatever would stop a stage later.

    Returns:
        Parameters of each plain model.
    """
    sizes, metrics = {}, {}
    classes: dict[str, Any] = {}
    for member in chain.members:
        cfg = configs[member.name]
        metrics[member.name], _ = metric_of(cfg, f'chain: {member.name}', chain.metric)
        with prefix_errors(f'chain: {member.name}'):
            if member.checkpoint is None:
                steps_of(cfg, f'chain: {member.name}')
                check_amp(cfg)
                model = check_before_start(prepare_config(cfg), teachers=False)
            else:
                check_place(member.checkpoint, folder)
                model = load_given(member, cfg).model
                check_count({'val': dataset_classes(cfg, 'val')}, model)
        classes[member.name] = dataset_classes(cfg, 'val')
        # Without branches: the last check has taken them off.
        plain = getattr(model, 'student', model)
        sizes[member.name] = sum(p.numel() for p in plain.parameters())
    check_metrics_agree(metrics)
    check_classes_agree(classes)
    warn_of_order(chain, sizes)
    return sizes


def check_place(checkpoint: str, folder: Path) -> None:
    """Raise where a given checkpoint is not there, or where the chain writes."""
    file = Path(checkpoint).resolve()
    if (folder / 'students').resolve() in file.parents:
        raise ConfigError(
            'its checkpoint is where this chain writes',
            actual=checkpoint,
            fix='a copy elsewhere, or another --work-dir',
        )
    if '://' not in checkpoint and not file.is_file():
        raise CheckpointFileError(
            f'there is no file {checkpoint}',
            actual=f'looked for from {Path.cwd()}',
            fix='leave `checkpoint` out, and it is trained',
        )


def check_metrics_agree(metrics: Mapping[str, str]) -> None:
    """Raise ConfigError where members are not measured by one and the same."""
    if len(set(metrics.values())) > 1:
        raise ConfigError(
            'chain: its members are measured by different metrics',
            actual=dict(metrics),
            fix="metric='coco/bbox_mAP', and the same evaluators for all",
        )


def check_classes_agree(classes: Mapping[str, Any]) -> None:
    """Raise ConfigError where two members are trained on other classes."""
    known = {name: names for name, names in classes.items() if names}
    for name, names in known.items():
        first = next(iter(known))
        if tuple(names) != tuple(known[first]):
            raise ConfigError(
                f'chain: {name} is trained on other classes than {first}, or in another'
                ' order',
                expected=known[first],
                actual=names,
            )


def load_given(member: Member, cfg: Config) -> Teacher:
    """The model of a member that is taken as trained, with its weights.

    Raises:
        MkdError: They do not fit, or are of other classes than the data.
    """
    loading = {k: v for k, v in member.teacher.items() if k in LOADING}
    whole = {'cfg': plain_model_cfg(cfg), 'checkpoint': member.checkpoint, **loading}
    teacher = Teacher.build(member.name, whole)
    teacher.load()
    names = dataset_classes(cfg, 'val')
    if names:
        teacher.check_classes(names)
    return teacher


def warn_of_order(chain: Chain, sizes: Mapping[str, int]) -> None:
    """Say which members are larger than one that is before them."""
    for group, after in zip(groups := list(chain.groups()), groups[1:]):
        least = min(group, key=lambda m: sizes[m.name])
        for member in after:
            if sizes[member.name] > sizes[least.name]:
                print(
                    f'Warning: {member.name} ({sizes[member.name] / 1e6:.2f} M'
                    f' parameters) is larger than {least.name} before it'
                    f' ({sizes[least.name] / 1e6:.2f} M): assistants are to come in'
                    ' order of size'
                )
