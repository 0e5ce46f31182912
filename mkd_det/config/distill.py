"""The whole distill config: parsed once, and checked without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from ..errors import ConfigError, check_keys, check_string_keys
from ..parsing import key, parse
from .parts import (
    PROBE_SIDES,
    AdapterConfig,
    BalanceConfig,
    BranchConfig,
    ProbeConfig,
    SamplingConfig,
    TapText,
    TermConfig,
    UnlabeledConfig,
    check_tap_names,
)
from .teachers import (
    INHERIT_EXAMPLE,
    InheritConfig,
    TeacherConfig,
    TeacherWeightsConfig,
)

# Arguments of `Distiller` that are not part of its `DistillConfig`.
BESIDE = ('student', 'data_preprocessor', 'init_cfg')


@dataclass(frozen=True)
class DistillConfig:
    """The settings of a distillation: the arguments of `Distiller` but its student.

    Args:
        teachers: The teachers by name.
        taps: Named places that are read, in the student and in every teacher.
        adapters: The adapters by name.
        branches: The branches by name.
        terms: The terms by name. A name begins with `loss_`.
        sampling: How the teachers of a step are picked.
        task_weight: Factor on the student's own losses, 0 or more.
        teacher_weights: Weigh teachers by sample.
        inherit: Modules that the student copies from a teacher before the first step.
        balance: Keep the terms at a wanted share of the task's gradient.
        probe_size: Side, or (H, W), of the image that shapes are probed with, in
            pixels. Where a model cannot run on it, other sizes are tried; the plan
            says which was taken.
        probe: The input that shapes are probed with, where it is no usual image.
        classes: Names of the student's classes in the order of its labels, for
            `class_map` of teachers. Commands take them from the training data.
        unlabeled: What images without labels teach, if the data has such.
    """

    teachers: Mapping[str, TeacherConfig] = key(factory=dict)
    taps: Mapping[str, TapText] = key(factory=dict)
    adapters: Mapping[str, AdapterConfig] = key(factory=dict)
    branches: Mapping[str, BranchConfig] = key(factory=dict)
    terms: Mapping[str, TermConfig] = key(factory=dict)
    sampling: SamplingConfig = SamplingConfig()
    task_weight: float = 1.0
    teacher_weights: TeacherWeightsConfig | None = None
    inherit: InheritConfig | None = None
    balance: BalanceConfig | None = None
    probe_size: int | tuple[int, int] = key(
        256, words='a side, or (H, W), in pixels', example='probe_size=256'
    )
    probe: ProbeConfig = ProbeConfig()
    classes: tuple[str, ...] = key(
        (), words='a list of names', example="classes=('cat', 'dog')"
    )
    unlabeled: UnlabeledConfig = UnlabeledConfig()

    @classmethod
    def parse(cls, given: Mapping[str, Any], student: Any = None) -> DistillConfig:
        """Parse the arguments of `Distiller`.

        Args:
            given: The arguments, but for those of `BESIDE`.
            student: The config of the student, for messages.

        Raises:
            ConfigError: A key, a name or a value is not valid.
        """
        _check_merged(given, [f.name for f in fields(cls)], student)
        given = {**given, 'teachers': _expand_copies(given.get('teachers'))}
        given['probe'] = ProbeConfig.parse(given.get('probe'))
        return parse(cls, given, label='Distiller', beside=BESIDE)

    def __post_init__(self) -> None:
        if self.task_weight < 0:
            raise ConfigError('task_weight must be 0 or more', actual=self.task_weight)
        if self.task_weight == 0 and self.balance is not None:
            raise ConfigError(
                "balance keeps terms at a share of the task's gradient, which is 0 with"
                ' task_weight=0: every term would count for nothing',
                expected='task_weight above 0, or no balance',
                actual=f'task_weight=0, balance={self.balance.to_build()!r}',
                fix='balance=None, and `weight` instead of `share` in the terms',
            )
        low, high = PROBE_SIDES
        if not all(low <= side <= high for side in self.probe_shape):
            raise ConfigError(
                'probe_size must be a side, or (H, W), in pixels',
                expected=f'whole numbers from {low} to {high}',
                actual=repr(self.probe_size),
                fix='probe_size=256',
            )
        _check_names(self)
        _check_references(self)

    @property
    def probe_shape(self) -> tuple[int, int]:
        """Height and width of the image that shapes are probed with."""
        size = self.probe_size
        return (size, size) if isinstance(size, int) else size

    @property
    def pruned_copies(self) -> dict[str, str]:
        """By name of each pruned copy, the name of the teacher it is made of."""
        return {n: t.prune_of for n, t in self.teachers.items() if t.prune_of}

    @property
    def weighed_taps(self) -> dict[str, str]:
        """Tap of the class logits, by name of each teacher that is weighed."""
        if self.teacher_weights is None:
            return {}
        # A pruned copy says how difficult a sample is; it is no teacher to weigh.
        whole = [name for name in self.teachers if name not in self.pruned_copies]
        names = self.teacher_weights.teachers or whole
        return dict.fromkeys(names, self.teacher_weights.tap)


def _check_merged(given: Mapping[str, Any], known: list[str], student: Any) -> None:
    """Raise where the keys of a base's plain model were merged into the distiller."""
    own = student if isinstance(student, Mapping) else {}
    left = [name for name in given if name not in known and name in own]
    if left:
        raise ConfigError(
            'Distiller: keys of the plain model in `_base_` are merged into it',
            expected='a `model` that replaces the one of `_base_`',
            actual=', '.join(left),
            fix="model = dict(_delete_=True, type='Distiller', ...)",
        )


def _expand_copies(teachers: Any) -> dict[str, Any]:
    """Give every pruned copy the settings of the teacher that it is made of."""
    check_string_keys(teachers, 'teachers')
    teachers = dict(teachers or {})
    expanded = dict(teachers)
    for name, given in teachers.items():
        if not isinstance(given, Mapping) or given.get('prune_of') is None:
            continue
        whole = {
            other: settings
            for other, settings in teachers.items()
            if not isinstance(settings, Mapping) or settings.get('prune_of') is None
        }
        if given['prune_of'] not in list(whole):
            raise ConfigError(
                f'teachers.{name}: prune_of must name another teacher',
                actual=given['prune_of'],
                available=list(whole),
                fix="pruned=dict(prune_of='t', prune=0.5)",
            )
        source = whole[given['prune_of']]
        check_string_keys(source, f'teachers.{given["prune_of"]}')
        # A cache belongs to one teacher.
        inherited = {k: v for k, v in (source or {}).items() if k != 'cache'}
        expanded[name] = {**inherited, 'prune': 0.5, **given}
    return expanded


def _check_names(config: DistillConfig) -> None:
    """Raise unless names can be attributes, and references to them are unique."""
    check_tap_names(config.taps)
    for name in config.teachers:
        if not name.isidentifier() or name == 'student':
            raise ConfigError(
                f'teachers: {name!r} cannot be a name',
                expected="an identifier other than 'student'",
            )
    taken = dict.fromkeys(config.teachers, 'teacher')
    for kind, names in (('adapter', config.adapters), ('branch', config.branches)):
        for name in names:
            _check_part_name(kind, name, taken)
            taken[name] = kind
    for name in config.terms:
        if not name.startswith('loss_'):
            raise ConfigError(
                f"term {name!r}: a term's name begins with 'loss_', or mmengine would"
                ' log it and not train on it',
                actual=name,
                fix=f'loss_{name}=dict(...)',
            )
        if not name.isidentifier():
            raise ConfigError(
                f'term {name!r} cannot be a name',
                expected='letters, digits and underscores',
            )


def _check_part_name(kind: str, name: str, taken: Mapping[str, str]) -> None:
    # Adapters are children of an `nn.ModuleDict`, whose attributes must stay.
    reserved = name in ('student', 'training') or hasattr(nn.ModuleDict, name)
    if not name.isidentifier() or reserved or name in taken:
        raise ConfigError(
            f'{kind} {name!r} cannot be a name',
            actual=f'{taken[name]} {name!r}' if name in taken else name,
            expected='a name that no teacher, adapter or branch has',
        )


def _check_references(config: DistillConfig) -> None:
    """Raise where a key names a teacher that is not there."""
    names = list(config.teachers)
    check_keys(config.sampling.always, names, 'sampling.always')
    check_keys(config.unlabeled.terms or (), list(config.terms), 'unlabeled.terms')
    for name in config.teacher_weights.teachers if config.teacher_weights else ():
        if name not in names:
            raise ConfigError(
                'teacher_weights: there is no such teacher',
                actual=name,
                available=names,
            )
    if config.inherit is None:
        return
    teacher = config.teachers.get(config.inherit.teacher)
    if teacher is None:
        raise ConfigError(
            'inherit: there is no such teacher',
            actual=config.inherit.teacher,
            available=names,
            fix=INHERIT_EXAMPLE,
        )
    if teacher.checkpoint is None or teacher.stored is not None:
        lacks = 'checkpoint is None' if teacher.stored is None else 'stored is given'
        raise ConfigError(
            'inherit: there is nothing to inherit',
            expected='a teacher with a checkpoint',
            actual=f'teachers.{config.inherit.teacher}.{lacks}',
        )
