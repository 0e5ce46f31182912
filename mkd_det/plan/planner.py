"""From a distill config to a checked plan: what is read where, what meets what.

Everything that can be wrong is found here, before the first step: names, keys,
shapes, kinds of head. Both models run once, on zeros, without leaving a trace.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import Registry
from rich.console import Console
from rich.table import Table
from torch import nn

from ..heads.regions import check_box_heads, check_sampler
from ..branches.base import Branch
from ..teachers.compiling import parts_to_compile
from ..weighting.teacher_weights import check_logits
from ..errors import (ConfigError, HeadKindError, PlanError, ShapeMismatchError, nearest_names, prefix_errors)
from ..heads.ground_truth import check_truth, no_truth
from ..losses.base import PairLoss
from ..heads.dense import DenseReader, check_comparable, is_dense_head
from .fitting import suggested
from ..registry import ADAPTERS, BRANCHES, LOSSES, argument_names, build_component, find_class
from ..teachers.engine import PairWatcher
from ..structures import (GroundTruth, Level, Levels, LevelSpec, channels_of, first_tensor)
from ..taps import Tap, capture, frozen_state, strides_of
from ..heads.running import run_features
from ..teachers.bank import TeacherBank

SIDES = ('student', 'teacher')
SECOND_STAGE = 'roi_head.'


@dataclass(frozen=True)
class Ref:
    """Where knowledge comes from: `tap`, `teacher.tap`, `adapter.side` or
    `branch.key` in a config.

    Args:
        owner: 'student', or the name of a teacher, adapter or branch.
        key: Name of the tap, side or key.
    """

    owner: str
    key: str

    def __str__(self) -> str:
        return self.key if self.owner == 'student' else f'{self.owner}.{self.key}'


@dataclass
class Link:
    """An adapter or a term, and the places it reads.

    Args:
        name: Its name in the config.
        refs: Where its sides come from: 'student', 'teacher', and what the loss reads
            beside them (`PairLoss.also`).
        module: The adapter or the loss.
        readers: For terms on heads: who reads the output, by side.
    """

    name: str
    refs: dict[str, Ref]
    module: Any  # Adapter or PairLoss; torch types its calls loosely
    readers: dict[str, DenseReader] = field(default_factory=dict)

    def __call__(self, sides: Mapping[str, Any], **more: Any) -> Any:
        """Run the module on what was read, by side."""
        also = {side: levels for side, levels in sides.items() if side not in SIDES}
        return self.module(sides['student'], sides['teacher'], **also, **more)

    def __str__(self) -> str:
        student, *rest = map(str, self.refs.values())
        return f'{type(self.module).__name__}: {student} <- {", ".join(rest)}'


@dataclass
class Plan:
    """The checked result of parsing a distill config.

    Args:
        taps: Taps by owner ('student' or a teacher) and name.
        specs: Shapes of the levels, by owner and name; adapters included.
        adapters: The adapters that some term reads.
        branches: The branches, attached to the student.
        terms: The terms whose weight is not zero.
        off: Names of what the config switches off.
        speeds: How each teacher is to run, in words.
    """

    taps: dict[str, dict[str, Tap]] = field(default_factory=dict)
    specs: dict[tuple[str, str], tuple[LevelSpec, ...]] = field(default_factory=dict)
    adapters: dict[str, Link] = field(default_factory=dict)
    branches: dict[str, Branch] = field(default_factory=dict)
    terms: dict[str, Link] = field(default_factory=dict)
    off: list[str] = field(default_factory=list)
    speeds: dict[str, str] = field(default_factory=dict)

    def teachers_of(self, link: Link) -> set[str]:
        """Names of the teachers that a term or adapter needs, on either side."""
        names: set[str] = set()
        for owner in (ref.owner for ref in link.refs.values()):
            if owner in self.adapters:
                names |= self.teachers_of(self.adapters[owner])
            elif owner in self.taps and owner != 'student':
                names.add(owner)
        return names

    def teacher_of(self, link: Link) -> str:
        """The teacher whom a term or adapter has the student resemble."""
        owner = link.refs['teacher'].owner
        adapter = self.adapters.get(owner)
        return self.teacher_of(adapter) if adapter else owner

    def module(
        self, ref: Ref, student: nn.Module, teachers: TeacherBank
    ) -> nn.Module | None:
        """The module that a tap names; of an adapter, the head that it runs, if any."""
        if ref.owner in self.adapters:
            return self.adapters[ref.owner].module.head
        model = student if ref.owner == 'student' else teachers[ref.owner].model
        return self.taps[ref.owner][ref.key].resolve(model)[0][1]

    def describe(self) -> dict[str, str]:
        """The plan in words, an entry a part: equal for equal plans. Weights,
        schedules and speeds are left out: they may change when a run is resumed."""
        lines: dict[str, str] = {}
        for owner, taps in self.taps.items():
            for name, tap in taps.items():
                shape = ' '.join(map(str, self.specs[owner, name]))
                lines[f'tap {Ref(owner, name)}'] = f'{tap} [{shape}]'
        for kind, links in (('adapter', self.adapters), ('term', self.terms)):
            for name, link in links.items():
                what = str(link)
                shape = self._shape(Ref(name, 'student'))  # of what an adapter yields
                count = sum(p.numel() for p in link.module.parameters())
                what += f' [{shape}]' if shape else ''
                lines[f'{kind} {name}'] = what + (
                    f', {count} parameters' if count else ''
                )
        for name, branch in self.branches.items():
            paths = [p for key in branch.taps().values() for p in key]
            lines[f'branch {name}'] = f'{type(branch).__name__}: {", ".join(paths)}'
        return lines

    def table(self, width: int = 110) -> str:
        """The plan as a table for people."""
        table = Table(title='Distillation plan', title_justify='left')
        for column in ('part', 'what', 'channels/stride', 'weight', 'parameters'):
            table.add_column(column, overflow='fold')
        for name, speed in self.speeds.items():
            table.add_row(f'teacher {name}', speed, '', '', '')
        for owner, taps in self.taps.items():
            for name, tap in taps.items():
                specs = self.specs[owner, name]
                trained = tap.position or all(s.grad for s in specs)
                frozen = '' if trained else ' (some frozen)'
                shape = ' '.join(map(str, specs)) + (
                    frozen if owner == 'student' else ''
                )
                table.add_row(f'tap {Ref(owner, name)}', str(tap), shape, '', '')
        for kind, links in (('adapter', self.adapters), ('term', self.terms)):
            for name, link in links.items():
                module = link.module
                count = sum(p.numel() for p in module.parameters())
                shape = ' <- '.join(self._shape(link.refs[side]) for side in SIDES)
                weight = f'{module.weight:g}' if isinstance(module, PairLoss) else ''
                table.add_row(f'{kind} {name}', str(link), shape, weight, f'{count:,}')
        for name, branch in self.branches.items():
            keys = ', '.join(f'{name}.{key}' for key in branch.taps())
            table.add_row(
                f'branch {name}', f'{type(branch).__name__}: {keys}', '', '', ''
            )
        for name in self.off:
            table.add_row(name, 'off', '', '', '')
        console = Console(file=io.StringIO(), width=width)
        console.print(table)
        return console.file.getvalue()  # type: ignore[attr-defined]

    def _shape(self, ref: Ref) -> str:
        return ' '.join(map(str, self.specs.get((ref.owner, ref.key), ())))


class Planner:
    """Builds a `Plan`. One use, one plan.

    Args:
        student: The student.
        teachers: The teachers.
        taps: Taps by name; a teacher's own taps come over them.
        adapters, branches, terms: Their configs by name.
        weighing: Tap of the class logits of teachers that are weighed by sample, by
            teacher's name; see `confidence.py`.
        probe_size: Side (or (H, W)) of the probe's zero image, in pixels.

    Raises:
        MkdError: The config does not fit the models; see `errors.py`.
    """

    def __init__(
        self,
        student: BaseModel,
        teachers: TeacherBank,
        taps: Mapping[str, Any],
        adapters: Mapping[str, Mapping[str, Any]],
        branches: Mapping[str, Mapping[str, Any]],
        terms: Mapping[str, Mapping[str, Any]],
        weighing: Mapping[str, str] | None = None,
        probe_size: int | Sequence[int] = 256,
    ) -> None:
        self.student, self.teachers = student, teachers
        self.tap_texts = dict(taps)
        self.weighing = dict(weighing or {})
        size = (probe_size, probe_size) if isinstance(probe_size, int) else probe_size
        self.size = (int(size[0]), int(size[1]))
        self.cfgs = {'adapter': adapters, 'branch': branches, 'term': terms}
        self.levels: dict[tuple[str, str], Levels] = {}
        self.plan = Plan()
        self._check_names()

    def build(self) -> Plan:
        """Parse, probe, check and build everything."""
        models = [teacher.model for teacher in self.teachers.values()]
        with suggested(self.student, models[0] if models else None):
            return self._build()

    def _build(self) -> Plan:
        live = self._live_terms()
        needed = self._adapters_read_by(live)
        self.plan.off += [
            f'adapter {n}' for n in self.cfgs['adapter'] if n not in needed
        ]
        if live:
            self._build_branches()
        else:
            self.plan.off += [f'branch {n}' for n in self.cfgs['branch']]
        self._read_by('adapter', needed, ADAPTERS)
        self._read_by('term', live, LOSSES)
        self._register_weights()
        self._probe()
        self.plan.off += self._unread_taps()
        for name, cfg in needed.items():
            self._build_adapter(name, cfg)
        for name, cfg in live.items():
            self._build_term(name, cfg)
        self._check_weights()
        self.levels.clear()
        return self.plan

    def _unread_taps(self) -> list[str]:
        """Taps that nothing reads: of all models, and a teacher's own."""
        read = {name for taps in self.plan.taps.values() for name in taps}
        unread = [f'tap {name}' for name in self.tap_texts if name not in read]
        for owner, teacher in self.teachers.items():
            known = self.plan.taps.get(owner, {})
            unread += [f'tap {owner}.{n}' for n in teacher.taps if n not in known]
        return unread

    # -- names and references ------------------------------------------------

    def _check_names(self) -> None:
        own = (name for teacher in self.teachers.values() for name in teacher.taps)
        for name in (*self.tap_texts, *own):
            if not name.isidentifier():
                raise ConfigError(
                    f'tap {name!r} cannot be a name',
                    expected='letters, digits and underscores',
                )
        taken: dict[str, str] = {name: 'teacher' for name in self.teachers}
        for kind, cfgs in self.cfgs.items():
            for name, cfg in cfgs.items():
                if not isinstance(cfg, Mapping) or 'type' not in cfg:
                    raise ConfigError(
                        f'{kind} {name!r} must be a dict with `type`', actual=cfg
                    )
                if kind == 'term':
                    _check_term_name(name)
                elif (
                    not name.isidentifier()
                    or name == 'student'
                    or name in taken
                    or hasattr(nn.ModuleDict, name)
                    or name == 'training'
                ):
                    raise ConfigError(
                        f'{kind} {name!r} cannot be a name',
                        actual=f'{taken[name]} {name!r}' if name in taken else name,
                        expected='a name that no teacher, adapter or branch has',
                    )
                else:
                    taken[name] = kind

    def _live_terms(self) -> dict[str, Mapping[str, Any]]:
        live = {n: c for n, c in self.cfgs['term'].items() if c.get('weight', 1.0) != 0}
        for name, cfg in self.cfgs['term'].items():
            find_class(LOSSES, dict(cfg), f'term {name!r}')
            if name not in live:
                self.plan.off.append(f'term {name}')
        return live

    def _adapters_read_by(
        self, terms: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Mapping[str, Any]]:
        adapters = self.cfgs['adapter']
        for name, cfg in adapters.items():
            find_class(ADAPTERS, dict(cfg), f'adapter {name!r}')
        read = {
            str(c.get(side)).split('.')[0]
            for c in terms.values()
            for side in _sides_of('term', c)
        }
        return {name: cfg for name, cfg in adapters.items() if name in read}

    def _refs(self, kind: str, name: str, cfg: Mapping[str, Any]) -> dict[str, Ref]:
        """Parse all that a term or adapter reads."""
        return {
            side: self._ref(cfg, side, whose, f'{kind} {name}')
            for side, whose in _sides_of(kind, cfg).items()
        }

    def _ref(self, cfg: Mapping[str, Any], side: str, whose: str, where: str) -> Ref:
        """Parse one thing that is read, of the student or of a teacher."""
        text = cfg.get(side)
        if not isinstance(text, str):
            raise ConfigError(
                f'{where}: `{side}` is missing',
                actual=text,
                available=list(self._known_refs(whose)),
            )
        owner, _, key = text.rpartition('.')
        ref = Ref(owner or 'student', key)
        if text not in self._known_refs(whose):
            raise ConfigError(
                f'{where}: {side}={text!r} names nothing that can be read of the'
                f' {whose}',
                actual=text,
                available=nearest_names(text, self._known_refs(whose), limit=20),
                fix="a tap of `taps`, '<teacher>.<tap>', '<adapter>.student',"
                " '<adapter>.teacher' or '<branch>.<key>'",
            )
        return ref

    def _known_refs(self, side: str) -> Iterator[str]:
        if side == 'student':
            yield from self.tap_texts
            for name, branch in self.plan.branches.items():
                yield from (f'{name}.{key}' for key in branch.taps())
        else:
            for name, teacher in self.teachers.items():
                taps = {**self.tap_texts, **teacher.taps}
                yield from (f'{name}.{tap}' for tap in taps)
        key = 'student' if side == 'student' else 'teacher'
        yield from (f'{name}.{key}' for name in self.cfgs['adapter'])

    def _register_weights(self) -> None:
        """Note the taps that weigh the teachers that are read."""
        for owner, tap in self.weighing.items():
            if owner not in self.teachers:
                raise ConfigError(
                    'teacher_weights: there is no such teacher',
                    actual=owner,
                    available=list(self.teachers),
                )
            if owner in self.plan.taps:
                where = 'teacher_weights'
                cfg = {'tap': f'{owner}.{tap}'}
                self._register(self._ref(cfg, 'tap', 'teacher', where))

    def _check_weights(self) -> None:
        for owner, tap in self.weighing.items():
            if owner in self.plan.taps:
                check_logits(self.levels[owner, tap], f'teacher_weights, {owner}')
        for name, link in self.plan.terms.items():
            weighed = self.plan.teacher_of(link) in self.weighing
            if weighed and not link.module.weighs_samples:
                raise PlanError(
                    f'term {name!r}: {type(link.module).__name__} cannot weigh samples',
                    expected='a loss that is a mean over samples',
                    fix='teacher_weights=dict(teachers=[...]) without'
                    f' {self.plan.teacher_of(link)!r}',
                )

    def _read_by(
        self, kind: str, cfgs: Mapping[str, Mapping[str, Any]], registry: Registry
    ) -> None:
        """Note all taps that adapters or terms need."""
        for name, cfg in cfgs.items():
            cls: Any = find_class(registry, dict(cfg), f'{kind} {name!r}')
            where = f'{kind} {name!r}: {cls.__name__}'
            if kind == 'term':
                check_truth(cls.truth, self.student, where)
            for ref in self._refs(kind, name, cfg).values():
                with prefix_errors(where):
                    self._register(ref)

    def _register(self, ref: Ref) -> None:
        """Note the tap that `ref` needs."""
        if ref.owner in self.cfgs['adapter']:
            return
        if ref.owner in self.plan.branches:
            paths = self.plan.branches[ref.owner].taps()[ref.key]
            self.plan.taps.setdefault('student', {})[str(ref)] = Tap.parse(paths)
            return
        own = self.teachers[ref.owner].taps if ref.owner != 'student' else {}
        tap = Tap.parse({**self.tap_texts, **own}[ref.key])
        if any(path.startswith(SECOND_STAGE) for path in tap.paths):
            if ref.owner != 'student':
                raise _of_other_regions(ref, tap)
            check_box_heads(self.student, f'tap {ref}')
            check_sampler(self.student, f'tap {ref}')
        ours = ref.owner == 'student'
        tap.resolve(self.student if ours else self.teachers[ref.owner].model)
        self.plan.taps.setdefault(ref.owner, {})[ref.key] = tap

    # -- probing -------------------------------------------------------------

    def _probe(self) -> None:
        """Run every model once on zeros and note what the taps yield."""
        for owner, taps in self.plan.taps.items():
            ours = owner == 'student'
            model = self.student if ours else self.teachers[owner].model
            parameter = next(model.parameters())
            image = parameter.new_zeros(1, 3, *self.size)
            watcher = PairWatcher()
            with (
                frozen_state(model),
                torch.set_grad_enabled(ours),
                nullcontext() if ours else watcher.watch(model),
                capture(model, taps, need_grad=ours) as seen,
            ):
                run_features(model, image, second_stage=ours)
            if not ours:
                teacher = self.teachers[owner]
                where = f'teachers.{owner}'
                parts_to_compile(model, teacher.compile, taps.values(), where)
                teacher.calls = dict(seen.calls)
                teacher.pairs = watcher.pairs(model, taps.values())
                self.plan.speeds[owner] = f'speed {teacher.speed!r}' + (
                    f', {len(teacher.pairs)} batch norms to fold'
                    if teacher.speed != 'off'
                    else ''
                )
            for name, levels in seen.items():
                # A branch's knowledge is filed under the branch.
                ref = Ref(*name.split('.')) if '.' in name else Ref(owner, name)
                self._note(ref, levels)
                self.plan.specs.setdefault((owner, name), self._specs(levels))

    def _note(self, ref: Ref, levels: Levels) -> None:
        self.levels[ref.owner, ref.key] = levels
        self.plan.specs[ref.owner, ref.key] = self._specs(levels)

    def _specs(self, levels: Levels) -> tuple[LevelSpec, ...]:
        strides = strides_of(levels, self.size)
        return tuple(
            LevelSpec(
                channels_of(level),
                stride,
                tuple(t.shape[2:]) if (t := first_tensor(level)).dim() == 4 else (),
                t.requires_grad,
            )
            for level, stride in zip(levels, strides, strict=True)
        )

    # -- building ------------------------------------------------------------

    def _build_branches(self) -> None:
        for name, cfg in self.cfgs['branch'].items():
            branch = build_component(BRANCHES, dict(cfg), f'branch {name!r}')
            branch.attach(self.student)
            self.plan.branches[name] = branch
            taps = {f'{name}.{k}': Tap.parse(p) for k, p in branch.taps().items()}
            self.plan.taps.setdefault('student', {}).update(taps)

    def _build_adapter(self, name: str, cfg: Mapping[str, Any]) -> None:
        where = f'adapter {name!r}'
        refs = self._refs('adapter', name, cfg)
        for ref in refs.values():
            if ref.owner in self.cfgs['adapter']:
                raise PlanError(f'{where} reads adapter {ref.owner!r}: taps only')
            _check_features(where, ref, self.levels[ref.owner, ref.key])
        specs = {s: self.plan.specs[ref.owner, ref.key] for s, ref in refs.items()}
        rest = {k: v for k, v in cfg.items() if k not in SIDES}
        module = build_component(ADAPTERS, rest, where, **specs)
        teacher = refs['teacher'].owner
        if teacher in self.teachers:
            tap = self.plan.taps[teacher][refs['teacher'].key]
            module.bind(self.teachers[teacher].model, tap, where)
        self.plan.adapters[name] = Link(name, refs, module)
        levels = {s: self.levels[ref.owner, ref.key] for s, ref in refs.items()}
        with frozen_state(module):
            module.to(first_tensor(levels['student'][0]).device)
            output = self.plan.adapters[name](levels)
        for side, levels in zip(SIDES, output[:2], strict=True):
            self._note(Ref(name, side), tuple(levels))

    def _build_term(self, name: str, cfg: Mapping[str, Any]) -> None:
        where = f'term {name!r}'
        cls: Any = find_class(LOSSES, dict(cfg), where)
        whose = _sides_of('term', cfg)
        refs = self._refs('term', name, cfg)
        _check_one_stage(where, self._taps_of_student(refs))
        sides: dict[str, Any] = {
            side: self.levels[ref.owner, ref.key] for side, ref in refs.items()
        }
        for side, ref in refs.items():
            if not sides[side]:
                raise PlanError(
                    f'{where}: {ref} yields nothing',
                    fix="of a probe take the other side: CrossHead's .student beside"
                    " '<teacher>.<tap>', ProposalHead's .teacher beside '<tap>'",
                )
        rest = {k: v for k, v in cfg.items() if k not in whose}
        readers: dict[str, DenseReader] = {}
        if cls.reads == 'outputs':
            found = {side: self._reader(ref) for side, ref in refs.items()}
            known = _check_outputs(where, refs, found)
            rest.update({k: v for k, v in known.items() if k in argument_names(cls)})
            readers = {side: r for side, r in found.items() if r is not None}
        elif 'channels' in argument_names(cls):
            rest.setdefault('channels', self._channels(refs))
        link = Link(name, refs, build_component(LOSSES, rest, where), readers)
        if readers:
            self._read_heads(link, sides, where)
        else:
            for side, ref in refs.items():
                _check_features(where, ref, sides[side])
                pair = refs['student'], ref
                specs = [self.plan.specs[r.owner, r.key] for r in pair]
                if whose[side] == 'teacher':
                    adapted = ref.owner in self.plan.adapters
                    _check_demands(where, link.module, pair, specs, adapted)
        # What the loss alone can tell, it tells now and not in the first step.
        truth = {'truth': self._no_truth()} if cls.truth else {}
        with frozen_state(link.module):
            _check_result(where, link(sides, **truth))
        self.plan.terms[name] = link

    def _taps_of_student(self, refs: Mapping[str, Ref]) -> Iterator[Tap]:
        """Taps of the student that a term reads, through adapters as well."""
        for ref in refs.values():
            if ref.owner == 'student':
                yield self.plan.taps['student'][ref.key]
            elif ref.owner in self.plan.adapters:
                yield from self._taps_of_student(self.plan.adapters[ref.owner].refs)

    def _read_heads(self, link: Link, sides: dict[str, Any], where: str) -> None:
        """Read what the heads of a term yield; they must speak of the same places."""
        ours = self._module(link.refs['student'])
        sizes = {
            side: [level[0].shape[-2:] for level in sides[side]]
            for side in link.readers
        }
        for side, reader in link.readers.items():
            head = self._module(link.refs[side])
            check_comparable(ours, head, (sizes['student'], sizes[side]), where)
            sides[side] = (reader(head, sides[side]),)
        heads = sides['student'][0], sides['teacher'][0]
        for reader in link.readers.values():
            reader.decodes = link.module.needs_boxes(*heads)

    def _channels(self, refs: Mapping[str, Ref]) -> list[tuple[int, ...]]:
        """Of student and teacher, level by level."""
        specs = (self.plan.specs[r.owner, r.key] for r in refs.values())
        return [tuple(spec.channels for spec in level) for level in zip(*specs)]

    def _no_truth(self) -> GroundTruth:
        return no_truth(self.size, next(self.student.parameters()).detach())

    def _module(self, ref: Ref) -> nn.Module | None:
        return self.plan.module(ref, self.student, self.teachers)

    def _reader(self, ref: Ref) -> DenseReader | None:
        """Who reads the head that `ref` taps; None for plain logits."""
        if ref.owner in self.plan.branches:
            return None
        module = self._module(ref)
        return DenseReader(module) if is_dense_head(module) else None


def _sides_of(kind: str, cfg: Mapping[str, Any]) -> dict[str, str]:
    """Names of what a term or adapter reads, and whose it is."""
    sides = {side: side for side in SIDES}
    if kind != 'term':
        return sides
    cls: Any = find_class(LOSSES, dict(cfg), kind)
    return {**sides, **cls.also}


def _of_other_regions(ref: Ref, tap: Tap) -> PlanError:
    return PlanError(
        f'tap {ref} ({tap}): the second stage of a teacher has regions of its own,'
        " which are not the student's",
        fix="adapters=dict(proposals=dict(type='ProposalHead', student='rois',"
        f" teacher='{ref.owner}.pyramid')) runs it on the student's, with"
        " taps=dict(rois='roi_head.bbox_roi_extractor:in1', pyramid='neck')",
    )


def _check_one_stage(where: str, taps: Iterable[Tap]) -> None:
    """All that is read of a cascade must be of one stage: others have other regions."""
    stages = {
        (path.split('.') + [''])[2]: path
        for tap in taps
        for path in tap.paths
        if path.startswith(SECOND_STAGE)
    }
    numbers = {number for number in stages if number.isdigit()}
    if len(numbers) > 1:
        raise PlanError(
            f'{where} reads several stages of a cascade, which see other regions',
            expected='taps of one stage',
            actual=', '.join(stages[number] for number in sorted(numbers)),
        )


def _check_term_name(name: str) -> None:
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


def _check_features(where: str, ref: Ref, levels: Sequence[Level]) -> None:
    if any(isinstance(level, tuple) for level in levels):
        raise PlanError(
            f'{where}: {ref} yields a tuple of tensors per level (a whole head)',
            expected='feature maps or logits',
            fix="tap one layer of it, as 'bbox_head.gfl_cls', or use SoftOutputKD",
        )


def _check_outputs(
    where: str, refs: Mapping[str, Ref], readers: Mapping[str, DenseReader | None]
) -> dict[str, str]:
    """All sides must be heads of one kind, or all plain logits."""
    heads = [reader for reader in readers.values() if reader is not None]
    if not heads:
        return {}
    if len(heads) < len(readers):
        raise PlanError(
            f'{where}: one side is a dense head, another is not',
            expected=' and '.join(map(str, refs.values())) + ' all tapped at the head',
            fix="taps=dict(head='bbox_head')",
        )
    kind, *kinds = (head.kind for head in heads)
    if any(other != kind for other in kinds):
        raise HeadKindError(
            f'{where}: the heads mean their class logits differently',
            expected=f'{kinds[0]}, as the teacher',
            actual=f'{kind} in the student',
        )
    return {'kind': kind}


def _check_result(where: str, result: Any) -> None:
    """A loss on zeros must be a finite number, or a dict of them."""
    parts = result if isinstance(result, dict) else {'': result}
    for name, part in parts.items():
        if not isinstance(part, torch.Tensor) or part.numel() != 1:
            shape = tuple(part.shape) if isinstance(part, torch.Tensor) else part
            raise ConfigError(
                f'{where} {name}: a loss must yield one number, or a dict of them',
                expected='a tensor of shape ()',
                actual=shape,
            )
        if not torch.isfinite(part):
            raise ConfigError(
                f'{where} {name}: the loss is not finite on zeros', actual=float(part)
            )


def _check_demands(
    where: str,
    loss: Any,
    refs: Sequence[Ref],
    specs: Sequence[tuple[LevelSpec, ...]],
    adapted: bool = False,
) -> None:
    student, teacher = specs
    unknown = set(loss.demands) - {'same_channels', 'same_spatial'}
    if unknown:
        raise ConfigError(
            f'{where}: {type(loss).__name__} demands what nobody checks',
            actual=', '.join(sorted(unknown)),
            available=('same_channels', 'same_spatial'),
        )
    if len(student) != len(teacher):
        raise ShapeMismatchError(
            f'{where}: {refs[0]} has {len(student)} levels, {refs[1]} {len(teacher)}',
            expected=f'{len(teacher)} levels: ' + ' '.join(map(str, teacher)),
            actual=f'{len(student)} levels: ' + ' '.join(map(str, student)),
            fix=f'{refs[1].owner}.student, or a tap of the student with as many levels'
            if adapted
            else f'teachers.{refs[1].owner}.taps=dict({refs[1].key}=...) for a tap of'
            " the teacher's own, or a list of paths, a level each",
        )
    for index, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if 'same_channels' in loss.demands and s.channels != t.channels:
            raise ShapeMismatchError(
                f'{where}: {type(loss).__name__} needs equal channels; level {index}'
                f' has {s.channels} in the student and {t.channels} in the teacher',
                expected=f'{t.channels} channels',
                actual=f'{s.channels} channels',
                fix=f'{refs[1].owner}.student; of class logits, equal num_classes of'
                ' both heads'
                if adapted
                else f"adapters=dict(guide=dict(type='GuidanceLayer',"
                f" student='{refs[0]}', teacher='{refs[1]}'))\n"
                f"and student='guide.student', teacher='guide.teacher' in {where}",
            )
        if 'same_spatial' in loss.demands and s.size != t.size:
            raise ShapeMismatchError(
                f'{where}: {type(loss).__name__} needs maps of equal size; level'
                f' {index} differs',
                expected=f'{t.size} (stride {t.stride})',
                actual=f'{s.size} (stride {s.stride})',
                fix='taps of equal stride: see tools/inspect_model.py --teacher',
            )
