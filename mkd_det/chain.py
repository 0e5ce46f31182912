"""Chains of assistants: a chain file becomes ordinary configs, one a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from mmengine.config import Config

from .cli import load_config
from .errors import ConfigError, check_keys, check_mapping, is_number, nearest
from .registry import LOSSES, find_class, settings_of
from .sampler import SourceSampler

# Of the chain as a whole, over what stands in a stage.
_COMMON = ('recipe', 'guides', 'lam', 'ce_scale', 'sampling', 'options')
_CHAIN = ('root', 'stages', 'metric', 'custom_imports', *_COMMON)
_ROOT = ('name', 'cfg', 'checkpoint', 'options', 'teacher')
_STAGE = (*_ROOT, 'parallel', *_COMMON[:-1])
_SAMPLING = ('keep_prob', 'drop_exact', 'seed', 'drop_teacher')
# How a checkpoint that is given is to be read; the rest is for those it teaches.
LOADING = ('prefix', 'revise_keys', 'trust_checkpoint')
_TEACHING = ('taps', 'speed', 'cache', 'compile')
# What recipes call the teacher.
_TEACHER = 't.'
DENSE, PREVIOUS = 'dense', 'previous'


@dataclass(frozen=True)
class Member:
    """The root teacher, an assistant, or the student.

    Args:
        name: In the chain; as a teacher of others, too.
        cfg: Config of the plain model, its data and schedule.
        checkpoint: Its weights, if it is taken as trained.
        guides: Names of those who teach it; none for the root.
        options: Over `cfg`.
        recipe: Arguments of `Distiller` that say how a teacher `t` teaches.
        lam: Weight of what guides say, in (0, 1].
        ce_scale: Whether the task counts once for each guide.
        sampling: Of its guides, arguments of `SourceSampler`.
        parallel: The group that it is trained side by side with.
        teacher: Settings of it as a teacher.
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
    """What a chain file says, checked.

    Args:
        members: In their order, the root first.
        metric: Key of the metric that counts; '' for the one of the evaluator.
    """

    members: tuple[Member, ...]
    metric: str = ''

    def __getitem__(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def groups(self) -> Iterator[list[Member]]:
        """Members, those of one parallel group together."""
        by_group = groupby(self.members, lambda m: (m.parallel, m.parallel or m.name))
        return (list(members) for _, members in by_group)


def read_chain(cfg: Mapping[str, Any]) -> Chain:
    """Read a chain file's content.

    Densely Guided Knowledge Distillation (Son et al., ICCV 2021, arXiv 2009.08825):
    assistants are trained in the order of their size, each by the teacher and by all
    before it, and then the student by all of them. `guides='previous'` has each taught
    by the one before it alone: Mirzadeh et al.: "Improved Knowledge Distillation via
    Teacher Assistant", AAAI 2020, arXiv 1902.03393 (TAKD).

    Args:
        cfg: dict(root, stages, recipe, guides, lam, ce_scale, sampling, options,
            metric); see `configs/chain`.

    Raises:
        ConfigError: The chain cannot be trained; all of it is checked but for models
            and files.
    """
    check_keys(cfg, _CHAIN, 'chain')
    stages = cfg.get('stages')
    if not isinstance(stages, (list, tuple)) or not stages:
        raise ConfigError(
            'chain: `stages` must list the assistants, and the student last',
            actual=stages,
            hint="stages=[dict(name='a', cfg='assistant.py'), dict(name='s', cfg=...)]",
        )
    root = _member(cfg.get('root'), cfg, 'root', _ROOT)
    members = [root]
    common = {key: cfg[key] for key in _COMMON if key in cfg}
    sampling = common.pop('sampling', None)
    for index, stage in enumerate(stages):
        last = index == len(stages) - 1
        given = {**common, **({'sampling': sampling} if last and sampling else {})}
        member = _member(stage, {**given, **_dict(stage)}, f'stages[{index}]', _STAGE)
        if any(member.name == other.name for other in members):
            raise ConfigError(
                f'chain: two of its members are called {member.name!r}',
                available=[other.name for other in members],
            )
        guides = {**given, **stage}.get('guides', DENSE)
        rest = [_dict(s).get('name') for s in stages[index:]]
        chosen = _guides(member, guides, members, rest)
        members.append(_taught(member, {**given, **stage}, chosen, root.name))
    return Chain(tuple(members), cfg.get('metric', ''))


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _member(
    own: Any, given: Mapping[str, Any], where: str, keys: Sequence[str]
) -> Member:
    """A member but for those who teach it."""
    where = f'chain: {where}'
    if not isinstance(own, Mapping):
        raise ConfigError(
            f'{where} must be a dict', actual=repr(own), hint="dict(name='t', cfg=...)"
        )
    check_keys(own, keys, where)
    for key in ('name', 'cfg'):
        if not isinstance(own.get(key), str) or not own[key]:
            raise ConfigError(
                f'{where} needs `{key}`', expected='a string', actual=own.get(key)
            )
    if not own['name'].isidentifier():
        raise ConfigError(
            f'{where}: {own["name"]!r} is no name for a teacher',
            expected='letters, digits and _, no digit first',
        )
    for key in ('options', 'teacher'):
        check_mapping(own.get(key), f'{where}.{key}')
    check_keys(own.get('teacher') or {}, (*LOADING, *_TEACHING), f'{where}.teacher')
    return Member(
        name=own['name'],
        cfg=own['cfg'],
        checkpoint=own.get('checkpoint'),
        options={**(given.get('options') or {}), **(own.get('options') or {})},
        parallel=own.get('parallel'),
        teacher=own.get('teacher') or {},
    )


def _guides(
    member: Member, wanted: Any, before: Sequence[Member], after: Sequence[Any]
) -> tuple[str, ...]:
    """Names of those who teach a member."""
    if member.checkpoint is not None:
        return ()
    # Those of its own group are trained at the same time.
    ready = [
        m for m in before if member.parallel is None or m.parallel != member.parallel
    ]
    if wanted == DENSE:
        return tuple(m.name for m in ready)
    if wanted == PREVIOUS:
        last = ready[-1]
        return tuple(m.name for m in ready if m is last or _side_by_side(m, last))
    if not isinstance(wanted, (list, tuple)) or not wanted:
        raise ConfigError(
            f'chain: {member.name}: guides must be {DENSE!r}, {PREVIOUS!r} or names',
            actual=wanted,
            available=[m.name for m in ready],
        )
    names = [m.name for m in ready]
    for name in wanted:
        if name in names:
            continue
        if name in [*after, *(m.name for m in before)]:
            raise ConfigError(
                f'chain: {member.name} is guided by {name!r}, which is not trained'
                ' before it: a cycle',
                available=names,
                hint=f'{name} before {member.name} in `stages`, or no guide of it',
            )
        raise ConfigError(
            f'chain: {member.name} is guided by {name!r}, which is never trained',
            available=nearest(str(name), names),
        )
    return tuple(dict.fromkeys(wanted))


def _side_by_side(one: Member, other: Member) -> bool:
    return one.parallel is not None and one.parallel == other.parallel


def _taught(
    member: Member, given: Mapping[str, Any], guides: tuple[str, ...], root: str
) -> Member:
    """The member with its guides, and how they teach."""
    where = f'chain: {member.name}'
    lam, ce_scale = given.get('lam', 0.5), given.get('ce_scale', True)
    if not is_number(lam) or not 0 < lam <= 1:
        raise ConfigError(f'{where}: lam must be above 0 and at most 1', actual=lam)
    if not isinstance(ce_scale, bool):
        raise ConfigError(f'{where}: ce_scale must be True or False', actual=ce_scale)
    recipe = given.get('recipe') or {}
    check_mapping(recipe, f'{where}: recipe')
    sampling = dict(given.get('sampling') or {})
    if guides:
        check_keys(sampling, _SAMPLING, f'{where}: sampling')
        if not sampling.pop('drop_teacher', True) and root in guides:
            sampling['always'] = [root]
        SourceSampler(guides, **sampling)  # raises where nothing would be left
        for_guides(recipe, guides, lam)
    return Member(
        **{
            **member.__dict__,
            'guides': guides,
            'recipe': recipe,
            'lam': lam,
            'ce_scale': ce_scale,
            'sampling': sampling if guides else {},
        }
    )


# -- the stages' configs -------------------------------------------------------


def stage_config(
    member: Member, students: Mapping[str, tuple[str, str]], teachers: Chain
) -> Config:
    """The config that trains a member: complete, plain, to be run by itself.

    Args:
        member: Who is trained.
        students: Config and weights of every member, by name.
        teachers: The chain, for the settings of the guides.
    """
    cfg = load_config(member.cfg, dict(member.options))
    cfg = Config(cfg.to_dict())
    cfg.pop('recipe', None)
    if not member.guides:
        return cfg
    count = len(member.guides)
    task = (1 - member.lam) * (count if member.ce_scale else 1)
    cfg.model = dict(
        type='Distiller',
        student=cfg.model,
        teachers={
            name: dict(
                cfg=students[name][0],
                checkpoint=students[name][1],
                **{k: v for k, v in teachers[name].teacher.items() if k in _TEACHING},
            )
            for name in member.guides
        },
        **for_guides(member.recipe, member.guides, member.lam),
        sampling=dict(member.sampling),
        task_weight=task,
    )
    imports = dict(cfg.get('custom_imports') or {})
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    imports['imports'] = list(dict.fromkeys(['mkd_det', *names]))
    cfg.custom_imports = imports
    return cfg


def for_guides(
    recipe: Mapping[str, Any], guides: Sequence[str], lam: float
) -> dict[str, Any]:
    r"""What a recipe says of one teacher `t`, for several guides.

    .. math:: L = (n + 1) (1 - \lambda) L_\mathrm{task} + \lambda \sum_g KD(g, S)

    with n assistants and the teacher as guides g: the recipe's terms are KD, each for
    every guide and with :math:`\lambda` times its weight (Son et al., eq. 4, with one
    term; their published code leaves out :math:`n + 1` and has :math:`\lambda = 1`).
    Adapters are doubled as terms are; taps and branches are the student's, once.

    Args:
        recipe: Arguments of `Distiller`, with a teacher called `t`.
        guides: Names of the teachers.
        lam: Weight of what they say.

    Returns:
        Arguments of `Distiller`.

    Raises:
        ConfigError: The recipe has nothing that reads a teacher `t`.
    """
    made = deepcopy(dict(recipe))
    adapters, terms = dict(made.get('adapters') or {}), dict(made.get('terms') or {})
    doubled = {name for name, cfg in adapters.items() if _reads(cfg, [_TEACHER])}
    sources = [_TEACHER, *(f'{name}.' for name in doubled)]
    taught = {name for name, cfg in terms.items() if _reads(cfg, sources)}
    if not taught:
        raise ConfigError(
            'chain: the recipe has no term that reads a teacher `t`',
            expected="terms=dict(loss_soft=dict(..., teacher='t.head'))",
            actual=sorted(terms) or None,
            hint="_base_ = ['mkd_det::_base_/recipes/mkd_dense.py']",
        )
    new: dict[str, dict[str, Any]] = {'adapters': {}, 'terms': {}}
    for kind, cfgs, each in (('adapters', adapters, doubled), ('terms', terms, taught)):
        for name, cfg in cfgs.items():
            if name not in each:
                new[kind][name] = cfg
                continue
            for guide in guides:
                new[kind][f'{name}_{guide}'] = _for_guide(cfg, guide, doubled)
    for name, cfg in new['terms'].items():
        if name not in terms:
            weight = settings_of(find_class(LOSSES, cfg, name), cfg)['weight']
            cfg['weight'] = lam * weight
    return {**made, **{kind: cfgs for kind, cfgs in new.items() if cfgs}}


def _reads(cfg: Mapping[str, Any], sources: Sequence[str]) -> bool:
    return any(
        isinstance(v, str) and v.startswith(tuple(sources)) for v in cfg.values()
    )


def _for_guide(
    cfg: Mapping[str, Any], guide: str, adapters: set[str]
) -> dict[str, Any]:
    """An adapter or term that reads `t`, reading `guide`."""
    named = {name: f'{name}_{guide}' for name in adapters} | {_TEACHER[:-1]: guide}
    made = dict(cfg)
    for key, value in cfg.items():
        owner, dot, tap = value.partition('.') if isinstance(value, str) else ('',) * 3
        if dot and owner in named:
            made[key] = f'{named[owner]}.{tap}'
    return made
