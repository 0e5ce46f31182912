"""A chain of assistants: its members, and who guides whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any

from ...config import SamplingConfig
from ...config_files.reading import custom_imports_of
from ...errors import ConfigError, nearest_names, prefix_errors
from ...parsing import parse
from ...plan.recipes import repeat_recipe
from ...weighting.sampler import TeacherSampler
from .chain_file import ChainConfig, ChainSamplingConfig, Guides, StageConfig

RECIPE = 'recipe'  # its name in messages


@dataclass(frozen=True)
class ChainMember:
    """The root, an assistant, or the student.

    Args:
        name: Name in the chain.
        cfg: Config of the plain model with its data and schedule.
        checkpoint: Weights of a trained model; None for a member that is trained.
        guides: Names of its teachers, in the order of the chain; none for the root.
        options: Overrides of `cfg`.
        recipe: How one teacher `t` teaches it.
        lam: Weight of the guides' terms.
        ce_scale: Whether the task's weight is multiplied by the number of guides.
        sampling: Argument `sampling` of `Distiller`.
        parallel: Name of its parallel group.
        teacher: How it runs as a teacher, and how its checkpoint is read.
    """

    name: str
    cfg: str
    checkpoint: str | None = None
    guides: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    lam: float = 0.5
    ce_scale: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)
    parallel: str | None = None
    teacher: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chain:
    """A checked chain.

    Args:
        members: All members, the root first.
        metric: Key of the metric that counts; '' for the first one of the evaluator.
        imports: Modules that the recipes need.
    """

    members: tuple[ChainMember, ...]
    metric: str = ''
    imports: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ChainMember:
        """Return the member of that name."""
        return next(member for member in self.members if member.name == name)

    def groups(self) -> Iterator[list[ChainMember]]:
        """Yield the members in order, those of one parallel group together."""
        by_group = groupby(self.members, lambda m: (m.parallel, m.parallel or m.name))
        return (list(members) for _, members in by_group)


def read_chain(cfg: Mapping[str, Any]) -> Chain:
    """Read the content of a chain file.

    Densely Guided Knowledge Distillation (Son et al., ICCV 2021, arXiv 2009.08825):
    assistants are trained in the order of their size, each by the teacher and all
    assistants before it, and then the student by all of them. With
    `guides='previous'` each is taught by the one before it alone: Mirzadeh et al.:
    "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, arXiv
    1902.03393 (TAKD).

    Args:
        cfg: The content, see `ChainConfig`.

    Raises:
        ConfigError: The chain cannot be trained. Models and files are not looked at.
    """
    config = ChainConfig.parse(cfg)
    root = config.root
    options = {**config.options, **root.options}
    members = [
        ChainMember(
            root.name,
            root.cfg,
            root.checkpoint,
            options=options,
            teacher=root.teacher,
        )
    ]
    for index, stage in enumerate(config.stages):
        later = [other.name for other in config.stages[index:]]
        with prefix_errors(f'chain: {stage.name}'):
            members.append(_member(stage, config, members, later))
    imports = custom_imports_of({'custom_imports': config.custom_imports})
    return Chain(tuple(members), config.metric, tuple(imports))


def _member(
    stage: StageConfig,
    config: ChainConfig,
    before: Sequence[ChainMember],
    later: Sequence[str],
) -> ChainMember:
    """Return the member of a stage.

    Args:
        stage: The stage.
        config: The chain file.
        before: Members of the stages before it.
        later: Names of the stages from it on.
    """
    wanted = config.guides if stage.guides is None else stage.guides
    guides = _guides(stage, wanted, before, later)
    if stage.checkpoint is not None:
        guides = ()
    recipe = config.recipe if stage.recipe is None else stage.recipe
    lam = config.lam if stage.lam is None else stage.lam
    chain_sampling = config.sampling if len(later) == 1 else None
    sampling = {}
    if guides:
        sampling = _sampling(stage.sampling or chain_sampling, guides, before[0].name)
        repeat_recipe(recipe, guides, lam, RECIPE)  # raises if it cannot be repeated
    return ChainMember(
        name=stage.name,
        cfg=stage.cfg,
        checkpoint=stage.checkpoint,
        guides=guides,
        options={**config.options, **stage.options},
        recipe=recipe,
        lam=lam,
        ce_scale=config.ce_scale if stage.ce_scale is None else stage.ce_scale,
        sampling=sampling,
        parallel=stage.parallel,
        teacher=stage.teacher,
    )


def _guides(
    stage: StageConfig,
    wanted: Guides,
    before: Sequence[ChainMember],
    later: Sequence[str],
) -> tuple[str, ...]:
    """Return the names of a stage's guides, in the order of the chain."""
    group = stage.parallel
    # Members of its own group are trained at the same time.
    ready = [m for m in before if group is None or m.parallel != group]
    names = [m.name for m in ready]
    if wanted == 'dense':
        return tuple(names)
    if wanted == 'previous':
        last = ready[-1]
        same_group = last.parallel is not None
        return tuple(
            m.name
            for m in ready
            if m is last or (same_group and m.parallel == last.parallel)
        )
    for name in wanted:
        if name in names:
            continue
        if name in [*later, *(m.name for m in before)]:
            raise ConfigError(
                f'its guide {name!r} is not trained before it: a cycle',
                available=names,
                fix=f'{name} before {stage.name} in `stages`, or no guide of it',
            )
        raise ConfigError(
            f'its guide {name!r} is not in the chain',
            available=nearest_names(name, names),
        )
    return tuple(name for name in names if name in wanted)


def _sampling(
    config: ChainSamplingConfig | None, guides: tuple[str, ...], root: str
) -> dict[str, Any]:
    """Return the argument `sampling` of `Distiller`.

    Raises:
        ConfigError: No guide would be left.
    """
    if config is None:
        return {}
    sampling = {
        f.name: value
        for f in fields(config)
        if f.name != 'drop_teacher' and (value := getattr(config, f.name)) != f.default
    }
    if not config.drop_teacher and root in guides:
        sampling['always'] = list(dict.fromkeys([root, *config.always]))
    TeacherSampler(guides, parse(SamplingConfig, sampling, 'sampling'))
    return sampling
