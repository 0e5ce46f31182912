"""Chains of assistants: a chain file becomes ordinary configs, one a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from mmengine.config import Config

from ...configs import add_custom_imports, custom_imports_of, load_config
from ...errors import (ConfigError, check_keys, check_string_keys, is_number, nearest_names, prefix_errors)
from ...registry import ADAPTERS, LOSSES, find_class, arguments_with_defaults
from ...training.runtime import DEFAULT_HOOKS
from ...weighting.sampler import SourceSampler
from ..runs.training import count_in_iterations

# Of the chain as a whole, over what stands in a stage.
_COMMON = ('recipe', 'guides', 'lam', 'ce_scale', 'sampling', 'options')
_CHAIN = ('root', 'stages', 'metric', 'custom_imports', *_COMMON)
# Folders beside those of the members.
RESERVED = ('configs', 'students')
_ROOT = ('name', 'cfg', 'checkpoint', 'options', 'teacher')
_STAGE = (*_ROOT, 'parallel', *_COMMON[:-1])
_SAMPLING = ('keep_prob', 'drop_exact', 'seed', 'drop_teacher')
# How a checkpoint that is given is to be read; the rest is for those it teaches.
LOADING = ('prefix', 'revise_keys', 'trust_checkpoint')
_TEACHING = ('taps', 'speed', 'cache', 'compile')
# What recipes call the teacher, what they hold, and what of it is each guide's.
_TEACHER = 't'
_DOUBLED = ('teachers', 'adapters', 'terms')
_RECIPE = (
    *_DOUBLED,
    'taps',
    'branches',
    'probe_size',
    'teacher_weights',
    'compile',
    'overlap',
    'balance',
)
_WEIGHED = {'adapters': ADAPTERS, 'terms': LOSSES}
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
        imports: Modules that recipes need.
    """

    members: tuple[Member, ...]
    metric: str = ''
    imports: tuple[str, ...] = ()

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
    for key in ('options', 'sampling', 'recipe'):
        check_string_keys(cfg.get(key), f'chain: {key}')
    stages = cfg.get('stages')
    if not isinstance(stages, (list, tuple)) or not stages:
        raise ConfigError(
            'chain: `stages` must list the assistants, and the student last',
            actual=stages,
            fix="stages=[dict(name='a', cfg='assistant.py'), dict(name='s', cfg=...)]",
        )
    root = _member(cfg.get('root'), cfg, 'root', _ROOT)
    members = [root]
    common = {key: cfg[key] for key in _COMMON if key in cfg}
    sampling = common.pop('sampling', None)
    for index, stage in enumerate(stages):
        last = index == len(stages) - 1
        given = {**common, **({'sampling': sampling} if last and sampling else {})}
        member = _member(stage, given, f'stages[{index}]', _STAGE)
        if any(member.name == other.name for other in members):
            raise ConfigError(
                f'chain: two of its members are called {member.name!r}',
                available=[other.name for other in members],
            )
        guides = {**given, **stage}.get('guides', DENSE)
        rest = [_dict(s).get('name') for s in stages[index:]]
        chosen = _guides(member, guides, members, rest)
        if member.checkpoint is not None:
            chosen = ()
        members.append(_taught(member, {**given, **stage}, chosen, root.name))
    chain = Chain(tuple(members), cfg.get('metric', ''), tuple(custom_imports_of(cfg)))
    _check_groups(chain)
    return chain


def _check_groups(chain: Chain) -> None:
    names = [group[0].parallel for group in chain.groups() if group[0].parallel]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f'chain: other stages stand between those of the group {name!r}',
                actual=[m.name for m in chain.members if m.parallel == name],
                fix='its members one after another in `stages`',
            )


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _member(
    own: Any, given: Mapping[str, Any], where: str, keys: Sequence[str]
) -> Member:
    """A member but for those who teach it."""
    where = f'chain: {where}'
    if not isinstance(own, Mapping):
        raise ConfigError(
            f'{where} must be a dict', actual=repr(own), fix="dict(name='t', cfg=...)"
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
    if own['name'] in RESERVED:
        raise ConfigError(
            f'{where}: in a folder called {own["name"]!r} the chain keeps what is of'
            ' all members',
            expected='another name',
        )
    for key in ('options', 'teacher', 'sampling', 'recipe'):
        check_string_keys(own.get(key), f'{where}.{key}')
    teacher = own.get('teacher') or {}
    check_keys(teacher, (*LOADING, *_TEACHING), f'{where}.teacher')
    loading = [key for key in teacher if key in LOADING]
    if loading and own.get('checkpoint') is None:
        raise ConfigError(
            f'{where}.teacher: {loading[0]} says how a given checkpoint is read, and'
            ' none is given',
            fix="checkpoint='file.pth' beside it",
        )
    return Member(
        name=own['name'],
        cfg=own['cfg'],
        checkpoint=own.get('checkpoint'),
        options={**(given.get('options') or {}), **(own.get('options') or {})},
        parallel=own.get('parallel'),
        teacher=teacher,
    )


def _guides(
    member: Member, wanted: Any, before: Sequence[Member], after: Sequence[Any]
) -> tuple[str, ...]:
    """Names of those who teach a member, in the order of the chain."""
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
                fix=f'{name} before {member.name} in `stages`, or no guide of it',
            )
        raise ConfigError(
            f'chain: {member.name} is guided by {name!r}, which is never trained',
            available=nearest_names(str(name), names),
        )
    return tuple(name for name in names if name in wanted)


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
    sampling = dict(given.get('sampling') or {})
    if guides:
        check_keys(sampling, _SAMPLING, f'{where}: sampling')
        if not sampling.pop('drop_teacher', True) and root in guides:
            sampling['always'] = [root]
        SourceSampler(guides, **sampling)  # raises where nothing would be left
        for_guides(recipe, guides, lam)
    return replace(
        member,
        guides=guides,
        recipe=recipe,
        lam=lam,
        ce_scale=ce_scale,
        sampling=sampling if guides else {},
    )


# -- the stages' configs -------------------------------------------------------


def stage_config(
    member: Member, students: Mapping[str, tuple[str, str]], chain: Chain
) -> Config:
    """The config that trains a member: complete, plain, to be run by itself.

    Args:
        member: Who is trained.
        students: Config and weights of every member, by name.
        chain: For the settings of the guides, and modules to import.
    """
    with prefix_errors(f'chain: {member.name}'):
        cfg = load_config(member.cfg, dict(member.options), '`options`')
    cfg = Config(cfg.to_dict())
    cfg.pop('recipe', None)
    count_in_iterations(cfg)
    if not member.guides:
        if cfg.get('default_hooks'):
            cfg.default_hooks = {
                name: hook
                for name, hook in cfg.default_hooks.items()
                if hook is not None or name not in DEFAULT_HOOKS
            }
        return cfg
    count = len(member.guides)
    taught = for_guides(member.recipe, member.guides, member.lam)
    guides = {
        name: dict(
            cfg=students[name][0],
            checkpoint=students[name][1],
            **{k: v for k, v in chain[name].teacher.items() if k in _TEACHING},
        )
        for name in member.guides
    }
    cfg.model = dict(
        type='Distiller',
        student=cfg.model,
        teachers=guides | taught.pop('teachers', {}),
        **taught,
        sampling=dict(member.sampling),
        task_weight=(1 - member.lam) * (count if member.ce_scale else 1),
    )
    add_custom_imports(cfg, 'mkd_det', *chain.imports)
    return cfg


def for_guides(
    recipe: Mapping[str, Any], guides: Sequence[str], lam: float
) -> dict[str, Any]:
    r"""What a recipe says of one teacher `t`, for several guides.

    .. math:: L = (n + 1) (1 - \lambda) L_\mathrm{task} + \lambda \sum_g KD(g, S)

    with n assistants and the teacher as guides g: the recipe's terms are KD, each for
    every guide and with :math:`\lambda` times its weight, and so are the losses of
    adapters that have a weight (Son et al., with one term; their published code leaves
    out :math:`n + 1` and has :math:`\lambda = 1`). Adapters and pruned copies are
    doubled as terms are; taps and branches are the student's, once.

    Args:
        recipe: Arguments of `Distiller`, with a teacher called `t`. Of `teachers`,
            pruned copies of it alone.
        guides: Names of the teachers.
        lam: Weight of what they say.

    Returns:
        Arguments of `Distiller`.

    Raises:
        ConfigError: The recipe has nothing that reads a teacher `t`, or what cannot
            be said to several.
    """
    _check_recipe(recipe)
    made = deepcopy(dict(recipe))
    parts = {key: dict(made.pop(key, None) or {}) for key in _DOUBLED}
    owners = {_TEACHER, *parts['teachers']}
    each = {'teachers': set(parts['teachers'])}
    for kind in ('adapters', 'terms'):
        each[kind] = {n for n, cfg in parts[kind].items() if owners & _owners(cfg)}
        owners |= each[kind]
    if not each['terms']:
        raise ConfigError(
            'chain: the recipe has no term that reads a teacher `t`',
            expected="terms=dict(loss_soft=dict(..., teacher='t.head'))",
            actual=sorted(parts['terms']) or None,
            fix="_base_ = ['mkd_det::_base_/recipes/mkd_dense.py']",
        )
    for kind, cfgs in parts.items():
        new = {name: cfg for name, cfg in cfgs.items() if name not in each[kind]}
        for guide in guides:
            names = {name: f'{name}_{guide}' for name in owners} | {_TEACHER: guide}
            for name in (n for n in cfgs if n in each[kind]):
                if names[name] in new:
                    raise ConfigError(
                        f'chain: recipe.{kind}: {names[name]} is what {name} is called'
                        f' for the guide {guide}',
                        fix='another name for one of them',
                    )
                new[names[name]] = _for_guide(kind, name, cfgs[name], names, lam)
        if new:
            made[kind] = new
    return made


def _check_recipe(recipe: Mapping[str, Any]) -> None:
    """Raise for what cannot be said to several guides."""
    check_keys(recipe, _RECIPE, 'chain: recipe')
    for kind in _DOUBLED:
        check_string_keys(recipe.get(kind), f'chain: recipe.{kind}')
        for name, cfg in (recipe.get(kind) or {}).items():
            if not isinstance(cfg, Mapping):
                raise ConfigError(
                    f'chain: recipe.{kind}.{name} must be a dict',
                    actual=repr(cfg),
                    fix="dict(type='...')",
                )
    for name, cfg in (recipe.get('teachers') or {}).items():
        if cfg.get('prune_of') != _TEACHER:
            raise ConfigError(
                f'chain: recipe.teachers.{name} is no pruned copy of `t`',
                expected="dict(prune_of='t', prune=0.5)",
                actual=cfg,
                fix='the chain itself says who teaches',
            )
    shares = _dict(recipe.get('balance')).get('shares')
    if isinstance(shares, Mapping):
        raise ConfigError(
            'chain: recipe.balance: each term is there once for each guide',
            expected='one share for all',
            actual=shares,
            fix='shares=0.5',
        )


def _owners(cfg: Mapping[str, Any]) -> set[str]:
    """Whom an adapter or term reads, as far as names say."""
    words = [value for value in cfg.values() if isinstance(value, str)]
    return {word.partition('.')[0] for word in words if '.' in word}


def _for_guide(
    kind: str, name: str, cfg: Mapping[str, Any], names: Mapping[str, str], lam: float
) -> dict[str, Any]:
    """A part of a recipe that reads `t`, reading a guide."""
    made = dict(cfg)
    for key, value in cfg.items():
        owner, dot, tap = value.partition('.') if isinstance(value, str) else ('',) * 3
        if owner in names and (dot or key == 'prune_of'):
            made[key] = names[owner] + dot + tap
    if kind in _WEIGHED:
        cls = find_class(_WEIGHED[kind], made, name)
        told = arguments_with_defaults(cls, made)
        if 'weight' in told:
            if not is_number(told['weight']):
                raise ConfigError(
                    f'chain: recipe.{kind}.{name}: its weight must be a number',
                    actual=repr(told['weight']),
                )
            made['weight'] = lam * told['weight']
        elif kind == 'terms':  # adapters may have no loss
            raise ConfigError(
                f'chain: recipe.terms.{name}: {cls.__name__} takes no weight, so `lam`'
                ' could not weigh it',
                fix='def __init__(self, ..., **base): super().__init__(**base)',
            )
    return made
