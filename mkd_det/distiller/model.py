"""The wrapper that trains a student with its teachers' knowledge."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..weighting.gradient_share import TASK, shared_parameters
from ..teachers.compiling import Wanted, compile_parts
from ..weighting.teacher_weights import TeacherWeights, as_mask
from ..errors import ConfigError, check_keys, check_string_keys, is_number, is_integer
from ..heads.ground_truth import read_truth
from ..teachers.inherit import Inheritance
from ..plan.planner import SIDES, Link, Plan, Planner, Ref
from ..registry import BALANCES, argument_names, build_component, arguments_with_defaults
from ..teachers.renormalize import Renormalizer
from ..weighting.sampler import SourceSampler
from ..weighting.schedules import Progress
from ..teachers.streams import SideStream
from ..structures import GroundTruth, Knowledge, Levels
from ..taps import capture
from ..teachers.bank import TeacherBank

_MAPPINGS = (
    'teachers',
    'taps',
    'adapters',
    'branches',
    'terms',
    'sampling',
    'teacher_weights',
    'inherit',
    'balance',
)
# What is logged and not trained on begins with it.
STATISTIC = 'stat_'
_SAMPLING = ('keep_prob', 'drop_exact', 'seed', 'always')


class _Original:
    """Marks the distiller that its teachers move with. Copies are not marked:
    they share the teachers, and EMA may keep its copy on another device."""

    def __deepcopy__(self, memo: dict) -> None:
        return None


class _Observers(list):
    """Hooks that watch a distiller. Copies of the model start unwatched: a
    hook holds the runner, which EMA must not copy."""

    def __deepcopy__(self, memo: dict) -> _Observers:
        return _Observers()


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains `student` on its own task and on what `teachers` know.

    What is shipped is the student alone: `predict` is the student's, and
    `state_dict()` has the plain student's keys and loads into the plain
    student. Adapters, branches and parameters of losses travel in the state
    dict's metadata (torch's own channel for what a module needs to read its
    state back), which ends up in the same file and which nobody else reads.

    Args:
        student: Config of any mmengine `BaseModel`.
        teachers: By name, dict(cfg, checkpoint, taps, prefix, revise_keys, prune,
            trust_checkpoint, speed, cache, compile), see `teachers.Teacher`; or
            dict(prune_of, prune, ...): another teacher once more.
        taps: By name, what to read: see `taps.py`.
        adapters: By name, dict(type, student, teacher, ...).
        branches: By name, dict(type, on, ...).
        terms: By name (`loss_...`), dict(type, student, teacher, weight, ...).
        sampling: dict(keep_prob | drop_exact, seed, always): which teachers take part
            in a step; see `sampler.py`.
        task_weight: Of the student's own losses.
        teacher_weights: dict(tap, teachers): weigh teachers (all but pruned) by sample,
            by what they say of its label at that tap; see `confidence.py`.
        inherit: dict(teacher, modules): what the student starts with; see `inherit.py`.
        balance: dict(type='GradientShare', shares): see `balance.py`.
        compile: Modules of the student to compile, see `compiling.py`.
        overlap: On a GPU, whether the teachers run beside the student; see
            `streams.py`.
        probe_size: Side, or (H, W), of the image that shapes are probed with.
        data_preprocessor: Config for the student, if it has none of its own.
        init_cfg: As in every mmengine model.

    Raises:
        MkdError: The config does not fit the models; see `errors.py`.
    """

    def __init__(
        self,
        student: dict,
        teachers: Mapping[str, Mapping[str, Any]] | None = None,
        taps: Mapping[str, Any] | None = None,
        adapters: Mapping[str, Mapping[str, Any]] | None = None,
        branches: Mapping[str, Mapping[str, Any]] | None = None,
        terms: Mapping[str, Mapping[str, Any]] | None = None,
        sampling: Mapping[str, Any] | None = None,
        task_weight: float = 1.0,
        teacher_weights: Mapping[str, Any] | None = None,
        inherit: Mapping[str, Any] | None = None,
        balance: Mapping[str, Any] | None = None,
        overlap: bool = False,
        probe_size: int | Sequence[int] = 256,
        compile: Wanted = (),
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        **unknown: Any,
    ) -> None:
        check_keys(unknown, argument_names(type(self)), 'Distiller')
        for name in _MAPPINGS:
            check_string_keys(locals()[name], name)
        self.weigher = TeacherWeights(_weighing(teacher_weights, teachers or {}))
        _check_probe_size(probe_size)
        self.task_weight = _checked_weight(task_weight)
        if data_preprocessor is not None:
            student = {'data_preprocessor': data_preprocessor, **student}
        model = MODELS.build(student)
        super().__init__(model.data_preprocessor, init_cfg)
        self.student = model
        # Of each loss of the last step that is not the student's own: its term, adapter
        # or branch.
        self.origins: dict[str, str] = {}
        self.observers: list[Any] = _Observers()
        self._original: _Original | None = _Original()
        # What follows draws random numbers (teachers, adapters). The student's
        # own initialisation must not notice.
        with torch.random.fork_rng(devices=[]):
            self.teachers = TeacherBank(teachers or {})
            self.inherit = _inheritance(inherit, model, self.teachers)
            self.plan = Planner(
                model,
                self.teachers,
                taps or {},
                adapters or {},
                branches or {},
                terms or {},
                self.weigher.taps,
                probe_size,
            ).build()
        read = self.plan.taps.get('student', {}).values()
        compile_parts(model, compile, read, 'the student')
        self._take_parts(terms or {})
        self.side = SideStream(overlap)
        self.balance = _balancing(balance, list(terms or {}), model)
        self.sampler = _sampler(sampling or {}, teachers or {}, self.plan)
        self.renormalizers = _renormalizers(model.data_preprocessor, self.teachers)
        self._register_state_dict_hook(_to_plain)
        self._register_load_state_dict_pre_hook(_from_plain, with_module=True)

    def _take_parts(self, terms: Mapping[str, Mapping[str, Any]]) -> None:
        """Make the parts of the plan children.

        Raises:
            ConfigError: Teachers would be loaded for nothing.
        """
        if self.teachers and not terms and not self.inherit:
            raise ConfigError(
                'there are teachers, but no terms: nothing would be distilled',
                fix="**_base_.pop('recipe') at the end of model=dict(...), with a"
                ' recipe in _base_; or terms=dict(...)',
            )
        self.branches = self.plan.branches
        self.adapters = _modules(self.plan.adapters)
        self.losses = _modules(self.plan.terms)
        self._told = _settings(self.plan.terms, terms)

    # -- the training step ---------------------------------------------------

    def forward(
        self,
        inputs: Tensor,
        data_samples: list | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """As the student's, but for mode 'loss', which adds the terms.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: A data sample per image.
            mode: 'loss', 'predict' or 'tensor'.
        """
        if mode != 'loss':
            return self.student(inputs, data_samples, mode=mode)
        return self.loss(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        """The student's losses and the terms, each a scalar or list of scalars.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: A data sample per image, with its ground truth.
        """
        self.teachers.load()
        progress = Progress.now()
        weights = self._active_weights(progress)
        active = {name: self.plan.terms[name] for name in weights}
        sources = set().union(*map(self.plan.teachers_of, active.values()))

        with self.side.beside(inputs.device):
            known = self._ask(sources, inputs, data_samples)
        grad = torch.is_grad_enabled()
        with capture(self.student, self.plan.taps.get('student', {}), grad) as seen:
            losses = self._task(self.student(inputs, data_samples, mode='loss'))
        self.side.join(inputs.device, known)
        known['student'] = seen
        self._notify_knowledge(known)

        self.origins = {}
        shares = self.weigher(known, data_samples)
        truths = _truths(active, inputs, data_samples)
        for name, link in self._read_by(active).items():
            output = link({side: _at(known, ref) for side, ref in link.refs.items()})
            known[name] = {'student': output.student, 'teacher': output.teacher}
            for key, value in output.losses.items():
                share = shares.get(self.plan.teacher_of(link))
                self._add(losses, f'loss_{name}_{key}', _mean(value, share), name)
        for name, branch in self.branches.items():
            levels = {key: _at(known, Ref(name, key)) for key in branch.taps()}
            for key, value in branch.losses(levels).items():
                self._add(losses, f'loss_{name}_{key}', value, name)
        for name, link in active.items():
            for key, part in self._parts(link, known, shares, truths).items():
                if grad and not part.requires_grad:
                    raise ConfigError(
                        f'term {name!r} {key} has no gradient: it would train nothing',
                        fix='a loss that computes with what it gets of the student',
                    )
                named = f'{name}_{key}' if key else name
                self._add(losses, named, weights[name] * part, name)
        self._balance_terms(losses, progress)
        for name, value in self._idle(active).items():
            self._add(losses, name, value, 'idle')
        for observer in self.observers:
            observer.on_terms(losses)
        return losses

    def _ask(
        self, sources: set[str], inputs: Tensor, data_samples: list | None
    ) -> dict[str, dict[str, Levels]]:
        """What teachers say of the images, each shown as it is used to see them."""
        shown: dict[tuple, Tensor] = {}
        known = {}
        for name in (name for name in self.teachers if name in sources):
            renormalize = self.renormalizers[name]
            if renormalize.key not in shown:
                shown[renormalize.key] = renormalize(inputs, data_samples)
            images = shown[renormalize.key]
            known[name] = self.teachers.run(name, images, self.plan.taps[name])
        return known

    def _task(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """The student's own losses, weighted."""
        if self.task_weight == 1:
            return dict(losses)
        return {
            name: _times(self.task_weight, value) if 'loss' in name else value
            for name, value in losses.items()
        }

    def _active_weights(self, progress: Progress) -> dict[str, float]:
        """Weights of the terms that take part in this step."""
        picked = self.sampler.pick(progress.iter)
        weights = {
            name: link.module.weight_at(progress)
            for name, link in self.plan.terms.items()
            if self.plan.teachers_of(link) <= picked
        }
        return {name: weight for name, weight in weights.items() if weight}

    def _read_by(self, terms: Mapping[str, Link]) -> dict[str, Link]:
        """The adapters that `terms` read."""
        owners = {ref.owner for term in terms.values() for ref in term.refs.values()}
        return {n: link for n, link in self.plan.adapters.items() if n in owners}

    def _parts(
        self,
        link: Link,
        known: dict[str, dict[str, Levels]],
        shares: dict[str, Tensor],
        truths: dict[str, GroundTruth],
    ) -> dict[str, Tensor]:
        """The parts of a term's loss, without its weight."""
        sides: dict[str, Any] = {}
        for side, ref in link.refs.items():
            levels: Any = _at(known, ref)
            if side in link.readers:
                head = self.plan.module(ref, self.student, self.teachers)
                levels = (link.readers[side](head, levels),)
            sides[side] = levels
        kind = link.module.truth
        more: dict[str, Any] = {'truth': truths[kind]} if kind else {}
        share = shares.get(self.plan.teacher_of(link))
        if share is not None:
            more['mask'] = [as_mask(share, level) for level in sides['student']]
        value = link(sides, **more)
        parts = value if isinstance(value, dict) else {'': value}
        # A loss divides by the sum of its mask.
        return (
            parts if share is None else {k: v * share.mean() for k, v in parts.items()}
        )

    def _add(
        self, losses: dict[str, Any], name: str, value: Tensor, origin: str
    ) -> None:
        """Add a loss; never in the place of another, the student's own above all."""
        if name in losses:
            raise ConfigError(
                f'two losses are called {name!r}',
                available=sorted(losses),
                fix='another name for the term, adapter or branch: the student has'
                ' losses of its own, and a term has one for each of its parts',
            )
        losses[name], self.origins[name] = value, origin

    def totals(self, losses: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of the last step, each with the term, adapter or branch that it
        comes from; the student's own as 'task'."""
        parts: dict[str, list[Tensor]] = {}
        for name, value in losses.items():
            if 'loss' in name and not name.startswith(STATISTIC):
                values = value if isinstance(value, list) else [value]
                part = parts.setdefault(self.origins.get(name, TASK), [])
                part += [v.mean() for v in values]
        parts.pop('idle', None)
        return {name: torch.stack(values).sum() for name, values in parts.items()}

    def parse_losses(self, losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """As mmengine's: the sum, and what is logged. Statistics are logged alone,
        even those in whose name there is a loss."""
        stats = {k: v for k, v in losses.items() if k.startswith(STATISTIC)}
        total, logged = super().parse_losses(
            {k: v for k, v in losses.items() if k not in stats}
        )
        logged.update({name: value.detach().mean() for name, value in stats.items()})
        return total, logged

    def _balance_terms(self, losses: dict[str, Any], progress: Progress) -> None:
        """Bring terms to their share of the gradient."""
        if self.balance is None:
            return
        totals = self.totals(losses)
        if torch.is_grad_enabled() and self.balance.is_due(progress.iter, totals):
            # What a schedule takes away is not to be given back.
            for name in totals.keys() & self.plan.terms.keys():
                factor = self.plan.terms[name].module.schedule.factor(progress)
                totals[name] = totals[name] / factor
            on = shared_parameters(self.student, self.balance.on)
            self.balance.measure(totals, on)
        factors = self.balance.factors()
        for name in list(losses):
            term = self.origins.get(name, TASK)
            if term in factors:
                losses[name] = losses[name] * factors[term]
                losses[f'{STATISTIC}{term}_factor'] = factors[term]

    def _idle(self, active: Mapping[str, Link]) -> dict[str, Tensor]:
        """Zero, with a gradient of zero for every module that sat out, if only
        with one side: DDP then needs no `find_unused_parameters`."""
        read = {(r.owner, r.key) for t in active.values() for r in t.refs.values()}
        used = {n for n in self.adapters if {(n, side) for side in SIDES} <= read}
        used |= set(active)
        parameters = [
            parameter
            for modules in (self.adapters, self.losses)
            for name, module in modules.items()
            if name not in used
            for parameter in module.parameters()
        ]
        if not parameters:
            return {}
        return {'loss_idle': torch.stack([p.sum() for p in parameters]).sum() * 0.0}

    def _notify_knowledge(self, known: dict[str, dict[str, Levels]]) -> None:
        if not self.observers:
            return
        knowledge: dict[str, dict[str, Knowledge]] = {}
        for owner, taps in known.items():
            knowledge[owner] = {}
            for tap, levels in taps.items():
                strides = tuple(spec.stride for spec in self.plan.specs[owner, tap])
                knowledge[owner][tap] = Knowledge(owner, tap, levels, strides)
        student = knowledge.pop('student')
        for observer in self.observers:
            observer.on_knowledge(student, knowledge)

    @property
    def settings(self) -> dict[str, str]:
        """What the plan does not say and a resumed training must share all the same:
        the teachers' weights, and what terms are told but weight and schedule."""
        used = {n: t for n, t in self.teachers.items() if n in self.plan.taps}
        weights = {f'teacher {n}': t.weights for n, t in used.items() if t.weights}
        return {**weights, **self._told}

    # -- one model with the student ------------------------------------------

    def init_weights(self) -> None:
        """Initialise the student as it would be alone; load the teachers."""
        for branch in self.branches.values():
            branch.detach()
        self.student.init_weights()
        self.teachers.load()
        if self.inherit is not None:
            self.inherit.copy(self.student, self.teachers)
        for branch in self.branches.values():
            branch.attach(self.student)

    def _apply(self, fn: Any, recurse: bool = True) -> Distiller:
        # `.to()`, `.cuda()`, `.double()`, also of a module around this one.
        super()._apply(fn, recurse)
        if self._original is not None:
            self.teachers.apply(fn)
        return self

    def __getattr__(self, name: str) -> Any:
        # Hooks of mmdet reach for `model.bbox_head` and the like.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith('_') or 'student' not in self.__dict__['_modules']:
                raise
            return getattr(self.student, name)


def _truths(
    terms: Mapping[str, Link], inputs: Tensor, data_samples: list | None
) -> dict[str, GroundTruth]:
    """What terms ask to know of the ground truth, by kind."""
    kinds = {link.module.truth for link in terms.values()} - {''}
    return {kind: read_truth(kind, inputs, data_samples) for kind in kinds}


def _renormalizers(ours: nn.Module, teachers: TeacherBank) -> dict[str, Renormalizer]:
    return {
        name: Renormalizer(ours, teacher.model.get_submodule('data_preprocessor'), name)
        for name, teacher in teachers.items()
    }


def _sampler(
    sampling: Mapping[str, Any], teachers: Mapping[str, Any], plan: Plan
) -> SourceSampler:
    """Of the teachers that a term reads; pruned copies come with their sources."""
    check_keys(sampling, _SAMPLING, 'sampling')
    read = set().union(*map(plan.teachers_of, plan.terms.values()))
    sources = {name: (cfg or {}).get('prune_of') for name, cfg in teachers.items()}
    copies = {name: source for name, source in sources.items() if source in read}
    names = [name for name in teachers if name in read and name not in copies]
    return SourceSampler(names, **sampling, copies=copies)


def _weighing(
    cfg: Mapping[str, Any] | None, teachers: Mapping[str, Any]
) -> dict[str, str]:
    """Tap of the class logits by teacher, from `teacher_weights`."""
    if cfg is None:
        return {}
    check_keys(cfg, ('tap', 'teachers'), 'teacher_weights')
    if not isinstance(cfg.get('tap'), str):
        raise ConfigError(
            'teacher_weights: `tap` is missing',
            expected='the name of a tap that yields class logits',
            actual=cfg.get('tap'),
            fix="teacher_weights=dict(tap='logits')",
        )
    # A pruned copy says how difficult a sample is; it is no teacher to weigh.
    whole = [name for name, c in teachers.items() if 'prune_of' not in (c or {})]
    return dict.fromkeys(cfg.get('teachers') or whole, cfg['tap'])


def _settings(
    terms: Mapping[str, Link], cfgs: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """What terms are told, in words: equal for configs that mean the same."""
    words: dict[str, str] = {}
    for name, link in terms.items():
        told = arguments_with_defaults(type(link.module), cfgs[name])
        words[f'term {name}'] = ', '.join(
            f'{key}={json.dumps(value, default=_name, sort_keys=True)}'
            for key, value in sorted(told.items())
            if key not in (*link.refs, 'weight', 'schedule')
        )
    return words


def _name(value: Any) -> str:
    return getattr(value, '__name__', type(value).__name__)


def _check_probe_size(size: Any) -> None:
    sides = [size] if is_integer(size) else size
    whole = isinstance(sides, (tuple, list)) and all(map(is_integer, sides))
    if not whole or len(sides) > 2 or not all(8 <= side <= 4096 for side in sides):
        raise ConfigError(
            'probe_size must be a side, or (H, W), in pixels',
            expected='whole numbers from 8 to 4096',
            actual=repr(size),
            fix='probe_size=256',
        )


def _times(weight: float, value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    if isinstance(value, Tensor):
        return weight * value
    return [weight * part for part in value]


def _mean(value: Tensor, share: Tensor | None) -> Tensor:
    """Of a loss by sample, each with its share."""
    if value.dim() == 0:
        return value
    return value.mean() if share is None else (value * share).mean()


def _inheritance(
    cfg: Mapping[str, Any] | None, student: nn.Module, teachers: TeacherBank
) -> Inheritance | None:
    return None if cfg is None else Inheritance(cfg, student, teachers)


def _balancing(
    cfg: Mapping[str, Any] | None, terms: Sequence[str], student: nn.Module
) -> Any | None:
    if not cfg:
        return None
    made = build_component(BALANCES, dict(cfg), 'balance', terms=terms)
    shared_parameters(student, made.on)
    return made


def _checked_weight(value: Any) -> float:
    if not is_number(value) or value < 0:
        raise ConfigError('task_weight must be a number >= 0', actual=value)
    return value


def _modules(links: Mapping[str, Link]) -> nn.ModuleDict:
    return nn.ModuleDict({name: link.module for name, link in links.items()})


def _at(known: dict[str, dict[str, Levels]], ref: Ref) -> Levels:
    if ref.owner in known:
        return known[ref.owner][ref.key]
    return known['student'][str(ref)]  # a branch's


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in state.items()}


def _to_plain(
    module: Distiller, state: OrderedDict, prefix: str, local_metadata: dict
) -> OrderedDict:
    """State dict hook: leave the plain student's keys under `prefix`; what they
    leave out goes into the metadata, with the plan in words."""
    own = {
        key.removeprefix(prefix): state.pop(key)
        for key in [k for k in state if k.startswith(prefix)]
    }
    student = _below('student.', own)
    plain = dict(student)
    for branch in module.branches.values():
        branch.fold(plain)
    state.update({prefix + key: value for key, value in plain.items()})
    local_metadata['distill'] = {
        'plan': module.plan.describe(),
        'settings': module.settings,
        'speeds': module.teachers.speeds,
        'adapters': _on_cpu(_below('adapters.', own)),
        'losses': _on_cpu(_below('losses.', own)),
        'balance': _on_cpu(_below('balance.', own)),
        'branches': _on_cpu({k: v for k, v in student.items() if k not in plain}),
    }
    return state


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _from_plain(
    module: Distiller, state: dict, prefix: str, local_metadata: dict, *_: Any
) -> None:
    """Load hook: the reverse, for plain students and for our own checkpoints.
    Without distillation state the adapters stay as they are, and branches start
    anew beside the weights."""
    plain = {
        key.removeprefix(prefix): state.pop(key)
        for key in [k for k in state if k.startswith(prefix)]
    }
    distill = local_metadata.get('distill', {})
    same_plan = distill.get('plan') == module.plan.describe()
    branches = distill['branches'] if same_plan else {}
    apart = _stands_apart(module, branches, plain)
    for branch in module.branches.values():
        branch.unfold(plain)
    if apart:
        plain.update(branches)
    state.update({f'{prefix}student.{key}': value for key, value in plain.items()})
    # The preprocessor is the student's and ours: one module, by two names.
    shared = {k: v for k, v in plain.items() if k.startswith('data_preprocessor.')}
    state.update({prefix + key: value for key, value in shared.items()})
    for name in ('adapters', 'losses', 'balance'):
        if (part := getattr(module, name)) is not None:
            own = part.state_dict()
            saved = distill.get(name, {}) if same_plan else own
            if name == 'balance':  # shares may be changed, as weights may
                saved = {k: saved.get(k, v) for k, v in own.items()}
            state.update({f'{prefix}{name}.{k}': v for k, v in saved.items()})


def _stands_apart(
    module: Distiller, branches: Mapping[str, Tensor], plain: Mapping[str, Tensor]
) -> bool:
    """Whether the saved branches are to be loaded beside the weights.

    Not if the weights are others than those the branches were folded into (an
    averaged student's, say). And not into an averaged copy, where nothing is
    trained: it stays folded, so that what averages its state dict averages it.
    """
    if not any(p.requires_grad for p in module.student.parameters()):
        return False
    folded = dict(branches)
    for branch in module.branches.values():
        branch.fold(folded)
    return all(
        key in plain and torch.equal(value.to(plain[key]), plain[key])
        for key, value in folded.items()
    )
