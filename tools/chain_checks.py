"""What can be known to be wrong with a chain before its first stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from train import check_before_start, check_count

from mkd_det.chain import LOADING, Chain, Member
from mkd_det.cli import check_amp
from mkd_det.errors import ConfigError, nearest
from mkd_det.runtime import prepare
from mkd_det.teachers import Teacher

# What evaluators measure; the first counts, where the chain does not say.
METRICS = {
    'ClassAccuracy': ['accuracy/top1', 'accuracy/top5'],
    'CocoMetric': [
        f'coco/bbox_mAP{end}' for end in ('', '_50', '_75', '_s', '_m', '_l')
    ],
    'VOCMetric': ['pascal_voc/mAP', 'pascal_voc/AP50'],
}


def check_chain(
    chain: Chain, configs: Mapping[str, Config], folder: Path
) -> dict[str, int]:
    """Raise for whatever would stop a stage later.

    Returns:
        Parameters of each plain model.
    """
    sizes = {}
    classes: dict[str, Any] = {}
    for member in chain.members:
        cfg = configs[member.name]
        metric_of(chain, cfg, member)
        if member.checkpoint is None:
            steps_of(cfg, member)
            check_amp(cfg)
            model = check_before_start(prepare(cfg), teachers=False)
        else:
            if (folder / 'students') in Path(member.checkpoint).absolute().parents:
                raise ConfigError(
                    f'chain: {member.name}: its checkpoint is where this chain writes',
                    actual=member.checkpoint,
                    hint='a copy elsewhere, or another --work-dir',
                )
            model = load_given(member, cfg).model
            check_count(classes_in(cfg), model)
        classes[member.name] = classes_in(cfg)['val']
        # Without branches: the last check has taken them off.
        plain = getattr(model, 'student', model)
        sizes[member.name] = sum(p.numel() for p in plain.parameters())
    check_classes_agree(classes)
    warn_of_order(chain, sizes)
    return sizes


def classes_in(cfg: Config) -> dict[str, Any]:
    """Names of the classes of the validation data, where they are known."""
    from mkd_det.data.check import classes_of

    return {'val': classes_of(cfg, 'val')}


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
    whole = {'cfg': cfg.model, 'checkpoint': member.checkpoint, **loading}
    teacher = Teacher.build(member.name, whole)
    teacher.load()
    names = classes_in(cfg)['val']
    if names:
        teacher.check_classes(names)
    return teacher


def metric_of(chain: Chain, cfg: Config, member: Member) -> tuple[str, str]:
    """What counts for a member: its name, and its key in the log.

    Raises:
        ConfigError: Nothing is evaluated, by an evaluator that is not known, or it
            does not measure what is to count.
    """
    evaluators = cfg.get('val_evaluator') or []
    if isinstance(evaluators, Mapping):
        evaluators = [evaluators]
    kinds = [str(e.get('type')).rpartition('.')[2] for e in evaluators]
    measured = [key for kind, e in zip(kinds, evaluators) for key in keys_of(kind, e)]
    key = chain.metric or next(iter(measured), '')
    if not kinds or not key:
        raise ConfigError(
            f'chain: {member.name}: it is not known which metric counts',
            expected='a `val_evaluator`, and one of those, or `metric`',
            actual=kinds or None,
            available=METRICS,
            hint="metric='coco/bbox_mAP'",
        )
    if set(kinds) <= set(METRICS) and key not in measured:
        raise ConfigError(
            f'chain: {member.name}: `metric` is not measured by its evaluator',
            actual=key,
            available=nearest(key, measured),
        )
    return key.rpartition('/')[2], key


def keys_of(kind: str, evaluator: Mapping[str, Any]) -> list[str]:
    """Names of metrics, as logged, that an evaluator is known to measure."""
    if kind == 'ClassAccuracy':
        topk = evaluator.get('topk', (1,))
        topk = [topk] if isinstance(topk, int) else topk
        return [f'accuracy/top{k}' for k in topk]
    return METRICS.get(kind, [])


def steps_of(cfg: Config, member: Member) -> tuple[int, bool]:
    """How long a member is trained, and whether that is in epochs."""
    loop = cfg.get('train_cfg') or {}
    for key, by_epoch in (('max_epochs', True), ('max_iters', False)):
        if isinstance(loop.get(key), int):
            return loop[key], by_epoch
    raise ConfigError(
        f'chain: {member.name}: its config does not say how long it is trained',
        expected='train_cfg.max_epochs, or max_iters',
        actual=dict(loop) or None,
    )


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
