"""The chain file: typed, frozen, parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...config import SamplingConfig, TeacherConfig
from ...config_files.reading import RECIPE_VARIABLES
from ...errors import ConfigError, prefix_errors
from ...parsing import key, parse

# Names of folders that a chain itself writes to.
RESERVED_NAMES = ('configs', 'students')
# Keys of a teacher that say how a given checkpoint is read. The students that the
# chain writes need none of them.
READING_KEYS = ('prefix', 'revise_keys', 'trust_checkpoint')
# Keys of a teacher that the chain sets, or that would make it another model.
_FIXED_KEYS = ('cfg', 'checkpoint', 'prune', 'prune_of')

Guides = Literal['dense', 'previous'] | tuple[str, ...]


@dataclass(frozen=True)
class ChainSamplingConfig(SamplingConfig):
    """How the guides of a training are sampled.

    Args:
        keep_prob: Probability to keep each guide, above 0 and at most 1.
        drop_exact: Number of guides to drop in each step, instead of `keep_prob`.
        seed: Seed of the picks.
        always: Guides that are never dropped: a name or a list of names.
        drop_teacher: Whether the root may be dropped.
    """

    drop_teacher: bool = True


@dataclass(frozen=True)
class MemberConfig:
    """One model of a chain; as such, the root.

    Args:
        name: Name in the chain. It is the name of the teacher for all whom it guides.
        cfg: Config of the plain model with its data and schedule.
        checkpoint: Weights of a trained model. The member is then not trained.
        options: Overrides of `cfg`, as for `--cfg-options`.
        teacher: How the member runs as a teacher, and how its `checkpoint` is read:
            keys of `TeacherConfig`.
    """

    name: str
    cfg: str
    checkpoint: str | None = None
    options: Mapping[str, Any] = key(factory=dict)
    teacher: Mapping[str, Any] = key(factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.name.isidentifier():
            raise ConfigError(
                f'name {self.name!r} cannot be the name of a teacher',
                expected='letters, digits and _, not beginning with a digit',
            )
        if self.name in RESERVED_NAMES:
            raise ConfigError(
                f'name {self.name!r} is reserved for a folder of the chain',
                available=(f'{self.name}_',),
            )
        if not self.cfg:
            raise ConfigError('cfg is empty', expected='a config file')
        self._check_teacher()

    def _check_teacher(self) -> None:
        for name in self.teacher:
            if name in _FIXED_KEYS:
                raise ConfigError(
                    f'teacher.{name} cannot be set in a chain', fix=f'remove {name}'
                )
            if name in READING_KEYS and self.checkpoint is None:
                raise ConfigError(
                    f'teacher.{name} says how a given checkpoint is read, and there'
                    ' is none',
                    fix="checkpoint='file.pth' beside it",
                )
        whole = {'cfg': self.cfg, 'checkpoint': self.checkpoint, **self.teacher}
        parse(TeacherConfig, whole, 'teacher')


@dataclass(frozen=True)
class StageConfig(MemberConfig):
    """One stage of a chain: an assistant, or the student.

    Args:
        name: Name in the chain. It is the name of the teacher for all whom it guides.
        cfg: Config of the plain model with its data and schedule.
        checkpoint: Weights of a trained model. The member is then not trained.
        options: Overrides of `cfg`, over those of the chain.
        teacher: How the member runs as a teacher, and how its `checkpoint` is read:
            keys of `TeacherConfig`.
        parallel: Name of a group of stages next to each other that are trained in
            parallel and do not guide each other.
        recipe: As in the chain file, which it replaces for this stage.
        guides: As in the chain file, which it replaces for this stage.
        lam: As in the chain file, which it replaces for this stage.
        ce_scale: As in the chain file, which it replaces for this stage.
        sampling: How the guides of this stage are sampled.
    """

    parallel: str | None = None
    recipe: Mapping[str, Any] | None = None
    guides: Guides | None = None
    lam: float | None = None
    ce_scale: bool | None = None
    sampling: ChainSamplingConfig | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        _check_lam(self.lam)
        _check_guides(self.guides)


@dataclass(frozen=True)
class ChainConfig:
    r"""A chain file.

    Args:
        root: The largest model. Nobody guides it.
        stages: The assistants in order of size, and the student last.
        recipe: How one teacher `t` teaches: arguments of `Distiller`.
        guides: Who guides a stage. 'dense': all members before it; 'previous': the
            member, or parallel group, right before it; or names.
        lam: Weight :math:`\lambda` of the guides' terms, above 0 and at most 1. The
            task has the weight :math:`1 - \lambda`.
        ce_scale: Whether the task's weight is multiplied by the number of guides.
        sampling: How the guides of the last stage are sampled.
        options: Overrides of the configs of all members.
        metric: Key of the metric that counts, such as 'coco/bbox_mAP_50'; default: the
            first one of the evaluator.
        custom_imports: Modules that the recipe needs, as in mmengine.
    """

    root: MemberConfig = key(example="root=dict(name='t', cfg='teacher.py')")
    stages: tuple[StageConfig, ...] = key(
        words='a list of dicts: the assistants, and the student last',
        example="stages=[dict(name='a', cfg='assistant.py'), dict(name='s', cfg=...)]",
    )
    recipe: Mapping[str, Any] = key(factory=dict)
    guides: Guides = 'dense'
    lam: float = 0.5
    ce_scale: bool = True
    sampling: ChainSamplingConfig | None = None
    options: Mapping[str, Any] = key(factory=dict)
    metric: str = ''
    custom_imports: Mapping[str, Any] = key(factory=dict)

    @classmethod
    def parse(cls, cfg: Mapping[str, Any]) -> ChainConfig:
        """Parse the content of a chain file.

        Args:
            cfg: The content.

        Raises:
            ConfigError: A key, a name or a value is not valid.
        """
        # A recipe file says what it needs; a chain file that builds on it has it, too.
        given = {
            name: value for name, value in cfg.items() if name not in RECIPE_VARIABLES
        }
        with prefix_errors('chain'):
            return parse(cls, given, label='chain')

    def __post_init__(self) -> None:
        """Check the values."""
        _check_lam(self.lam)
        _check_guides(self.guides)
        if not self.stages:
            raise ConfigError('`stages` is empty', expected='the student at least')
        known: list[str] = []
        for member in (self.root, *self.stages):
            if member.name in known:
                raise ConfigError(
                    f'two members are called {member.name!r}', available=known
                )
            known.append(member.name)
        _check_groups(self.stages)


def _check_lam(lam: float | None) -> None:
    if lam is not None and not 0 < lam <= 1:
        raise ConfigError('lam must be above 0 and at most 1', actual=lam)


def _check_guides(guides: Guides | None) -> None:
    if guides == ():
        raise ConfigError(
            'guides is empty',
            expected="'dense', 'previous' or a list of names",
            fix="guides='dense'",
        )


def _check_groups(stages: tuple[StageConfig, ...]) -> None:
    """Raise ConfigError unless the stages of each parallel group are neighbours."""
    groups = [stage.parallel for stage in stages]
    for index, group in enumerate(groups):
        if group and group in groups[:index] and groups[index - 1] != group:
            raise ConfigError(
                f'other stages stand between those of the group {group!r}',
                actual=[stage.name for stage in stages if stage.parallel == group],
                fix='write its stages one after another in `stages`',
            )
