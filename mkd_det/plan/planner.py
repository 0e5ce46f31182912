"""Turns a distill config into a checked plan.

Everything that can be wrong is found here, before the first step: names, shapes,
kinds of heads. Both models run once, on zeros, without leaving a trace; nothing is
written into a teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mmengine.model import BaseModel
from torch import nn

from ..adapters.base import Adapter
from ..branches.base import Branch
from ..class_maps.resolving import resolve_class_maps
from ..config import DistillConfig, Match
from ..errors import MkdError, PlanError, prefix_errors
from ..heads.activations import activation_at
from ..heads.base import Activation, HeadReader, TappedHead, find_reader, reader_classes
from ..heads.ground_truth import check_truth, no_truth
from ..heads.proofs.proof import ReadTwice, prove_head, reading
from ..probes.base import Probe
from ..registry import ADAPTERS, BRANCHES, LOSSES, argument_names, build_component
from ..structures import Levels, first_tensor
from ..taps import Tap, frozen_state
from ..weighting.schedules import WeightSchedule
from ..weighting.teacher_weights import check_logits
from .advice.fitting import suggest_recipes
from .checks.agreement import check_agreement
from .checks.classes import (
    advise_class_map,
    check_same_classes,
    find_restriction,
    is_mapped,
)
from .checks.demands import (
    check_activations,
    check_demands,
    check_features,
    check_heads,
    check_result,
    not_exclusive,
)
from .checks.presence import missing_modules
from .checks.teaching import (
    describe_idle_part,
    describe_uncompared,
    find_idle_parts,
)
from .matching import LevelMatch, match_levels, pick
from .plan import AdapterNode, HasModel, Plan, TeacherTruth, Term
from .probing import Probed, probe
from .refs import SIDES, Ref, References, adapter_class, loss_class
from .stored import use_stored_outputs
from .unlabeled import check_truth_reader, describe_unlabeled


class Planner:
    """Builds a `Plan`. One planner builds one plan.

    Args:
        student: The student. Branches are attached to it.
        teachers: The teachers by name.
        config: The parsed config.

    Raises:
        MkdError: The config does not fit the models; see `errors.py`.
    """

    def __init__(
        self,
        student: BaseModel,
        teachers: Mapping[str, HasModel],
        config: DistillConfig,
    ) -> None:
        self.student, self.teachers, self.config = student, teachers, config
        self.plan = Plan()
        self.refs = References(config, self.plan.branches)
        self.probed = Probed(config.probe_shape)
        # Further taps that the reader of a tapped head needs.
        self._beside: dict[Ref, dict[str, Ref]] = {}
        self._proved: dict[tuple[int, type, bool], ReadTwice | None] = {}

    def build(self, suggest: bool = True) -> Plan:
        """Build the plan.

        Args:
            suggest: Whether errors name the recipes that fit the pair.
        """
        try:
            return self._build()
        except MkdError as error:
            self.detach_branches()
            if suggest:
                ran = bool(self.probed.levels)
                suggest_recipes(error, self.student, self.teachers, self.config, ran)
            raise

    def _build(self) -> Plan:
        maps = resolve_class_maps(self.config, self.student, self.teachers)
        self.plan.class_maps = maps
        terms = self._terms_in_use()
        adapters = self._adapters_in_use(terms)
        self._build_branches(terms)
        for name in adapters:
            self._register_adapter(name)
        for name in terms:
            self._register_term(name)
        self._register_weighed_taps()
        truth = self._register_truth(terms)
        self._probe()
        for name in adapters:
            self.plan.adapters[name] = self._build_adapter(name)
        for name in terms:
            self.plan.terms[name] = self._build_term(name)
        self._check_weighed_terms()
        if truth is not None:
            self.plan.truth = self._build_truth(truth)
        self.plan.notes += describe_unlabeled(self.config, self.plan)
        use_stored_outputs(self.plan, self.config, self.student)
        return self.plan

    def detach_branches(self) -> None:
        """Take the branches of the plan out of the student again."""
        for branch in self.plan.branches.values():
            branch.detach()
        self.plan.branches.clear()

    # -- what is in use ------------------------------------------------------------

    def _terms_in_use(self) -> list[str]:
        """Return the terms of which nothing is missing; note the others as off."""
        off = []
        for name, term in self.config.terms.items():
            loss_class(name, term)
            given = term.arguments.get('schedule')
            WeightSchedule.parse(given, f'terms.{name}.schedule')
            lack = missing_modules(term, self.config, self._model)
            if lack and term.weight != 0:
                self.plan.notes.append(f'term {name} is off: {lack}')
            if lack or term.weight == 0:
                off.append(name)
        self.plan.off += [f'term {name}' for name in off]
        return [name for name in self.config.terms if name not in off]

    def _adapters_in_use(self, terms: list[str]) -> list[str]:
        """Return the adapters that some term reads; note the others as off."""
        read = set()
        for name in terms:
            term = self.config.terms[name]
            also = (term.arguments.get(side) for side in loss_class(name, term).also)
            texts = (term.student, term.teacher, *also)
            read |= {str(text).partition('.')[0] for text in texts}
        for name, adapter in self.config.adapters.items():
            adapter_class(name, adapter)
            if name not in read:
                self.plan.off.append(f'adapter {name}')
        return [name for name in self.config.adapters if name in read]

    def _build_branches(self, terms: list[str]) -> None:
        """Attach the branches and register their taps; without terms they are off."""
        if not terms:
            self.plan.off += [f'branch {name}' for name in self.config.branches]
            return
        for name, cfg in self.config.branches.items():
            where = f'branch {name!r}'
            branch: Branch = build_component(BRANCHES, cfg.to_build(), where)
            branch.attach(self.student)
            self.plan.branches[name] = branch
            for key in branch.taps():
                self._register(Ref(name, key))

    # -- taps ----------------------------------------------------------------------

    def _register_adapter(self, name: str) -> None:
        cls = adapter_class(name, self.config.adapters[name])
        for ref in self.refs.of_adapter(name).values():
            with prefix_errors(f'adapter {name!r}: {cls.__name__}'):
                if ref.owner in self.config.adapters:
                    raise PlanError(
                        'an adapter cannot read another one',
                        expected='taps',
                        actual=str(ref),
                    )
                self._register(ref)

    def _register_term(self, name: str) -> None:
        cls = loss_class(name, self.config.terms[name])
        where = f'term {name!r}: {cls.__name__}'
        check_truth(cls.truth, self.student, where)
        for ref in self.refs.of_term(name).values():
            with prefix_errors(where):
                self._register(ref)

    def _register_weighed_taps(self) -> None:
        """Register the taps that weigh those teachers that are read."""
        for teacher, tap in self.config.weighed_taps.items():
            if teacher in self.plan.taps:
                text, where = f'{teacher}.{tap}', 'teacher_weights'
                self._register(self.refs.parse(text, 'tap', 'teacher', where))

    def _register_truth(self, terms: list[str]) -> Ref | None:
        """Register the head whose boxes serve images without labels, if any does."""
        text = self.config.unlabeled.truth
        kinds = [loss_class(name, self.config.terms[name]).truth for name in terms]
        if text is None or 'boxes' not in kinds:
            return None
        ref = self.refs.parse(text, 'truth', 'teacher', 'unlabeled')
        self._register(ref)
        return ref

    def _register(self, ref: Ref) -> None:
        """Register the tap that a reference needs, and what its head needs beside."""
        if ref.owner in self.config.adapters:
            return
        if ref.owner in self.plan.branches:
            paths = self.plan.branches[ref.owner].taps()[ref.key]
            self.plan.taps.setdefault('student', {})[str(ref)] = Tap.parse(paths)
            return
        model, tap = self._model(ref.owner), Tap.parse(self._tap_text(ref))
        with self.refs.name_model(ref.owner, model):
            for kind in reader_classes():
                kind.check_tap(model, tap, ref.owner == 'student', f'tap {ref}')
            path, module = tap.resolve(model)[0]
        taps = self.plan.taps.setdefault(ref.owner, {})
        reader = None if tap.inputs else find_reader(module)
        if reader is not None:
            tap = replace(tap, layout=reader.layout)
            for name, text in reader.beside(path).items():
                key = f'{ref.key}.{name}'
                taps[key] = Tap.parse(text)
                self._beside.setdefault(ref, {})[name] = Ref(ref.owner, key)
        else:
            of_student = ref.owner == 'student'
            known = (k.layout_at(model, tap, of_student) for k in reader_classes())
            tap = replace(tap, layout=next(filter(None, known), None))
        taps[ref.key] = tap

    def _tap_text(self, ref: Ref) -> Any:
        own = {} if ref.owner == 'student' else self.config.teachers[ref.owner].taps
        return {**self.config.taps, **own}[ref.key]

    def _model(self, owner: str) -> nn.Module:
        return self.student if owner == 'student' else self.teachers[owner].model

    def _unread_taps(self) -> Iterator[str]:
        """Yield the taps that nothing reads: of all models, and a teacher's own."""
        read = {name for taps in self.plan.taps.values() for name in taps}
        yield from (f'tap {name}' for name in self.config.taps if name not in read)
        for owner, teacher in self.config.teachers.items():
            known = self.plan.taps.get(owner, {})
            yield from (f'tap {owner}.{n}' for n in teacher.taps if n not in known)

    # -- shapes --------------------------------------------------------------------

    def _probe(self) -> None:
        """Run both models once; note shapes, and what is read of each teacher."""
        plan = self.plan
        self.probed = probe(
            self.student,
            self.teachers,
            plan.taps,
            self.probed.size,
            self.config.probe,
            self.refs.name_model,
        )
        if self.probed.size != self.probed.wanted:
            height, width = self.probed.size
            plan.notes.append(
                f'shapes are those of {height}x{width} images: a model does not run on'
                ' the size of probe_size'
            )
        plan.specs, plan.reads = self.probed.specs, self.probed.reads
        for name, tap in plan.taps.get('student', {}).items():
            found = (kind.when_silent(tap) for kind in reader_classes())
            empty = next(filter(None, found), None)
            plan.taps['student'][name] = replace(tap, when_silent=empty)
        for name, reads in plan.reads.items():
            speed = self.config.teachers[name].speed
            count = len(reads.norm_pairs)
            folded = '' if speed == 'off' else f', {count} batch norms to fold'
            plan.speeds[name] = f'speed {speed!r}{folded}'
        plan.off += self._unread_taps()

    def _levels(self, refs: Mapping[str, Ref]) -> dict[str, Levels]:
        return {s: self.probed.levels[ref.owner, ref.key] for s, ref in refs.items()}

    # -- building ------------------------------------------------------------------

    def _build_adapter(self, name: str) -> AdapterNode:
        where = f'adapter {name!r}'
        refs = self.refs.of_adapter(name)
        levels = self._levels(refs)
        given = self.config.adapters[name]
        cls = adapter_class(name, given)
        for side, ref in refs.items():
            if side not in getattr(cls, 'reads_calls', ()):
                check_features(where, ref, levels[side])
        match = LevelMatch()
        if not issubclass(cls, Probe):
            match = self._match(refs, where, given.match)
        specs = {
            s: pick(self.plan.specs[ref.owner, ref.key], match.of(s))
            for s, ref in refs.items()
        }
        cfg = given.to_build()
        adapter: Adapter = build_component(ADAPTERS, cfg, where, **specs)
        teacher = refs['teacher']
        tap = self.plan.taps[teacher.owner][teacher.key]
        adapter.bind(self.teachers[teacher.owner].model, tap, where)
        if isinstance(adapter, Probe) and refs['student'].owner == 'student':
            tap = self.plan.taps['student'][refs['student'].key]
            adapter.bind_student(self.student, tap, where)
        node = AdapterNode(name, refs, adapter, match)
        with frozen_state(adapter):
            adapter.to(first_tensor(levels['student'][0]).device)
            output = node(levels)
        for side in adapter.yields:
            self.probed.note(name, side, tuple(getattr(output, side)))
        return node

    def _build_term(self, name: str) -> Term:
        where = f'term {name!r}'
        cls: Any = loss_class(name, self.config.terms[name])
        refs = self.refs.of_term(name)
        for kind in reader_classes():
            kind.check_term(list(self._student_taps(refs)), where)
        cfg = self.config.terms[name].to_build()
        rest = {key: value for key, value in cfg.items() if key not in cls.also}
        readers: dict[str, HeadReader] = {}
        if cls.reads == 'outputs':
            found = {side: self._reader(ref, where) for side, ref in refs.items()}
            activation = check_heads(where, refs, found, cls.matches_rows)
            activation = activation or self._plain_activation(where, refs)
            if activation is not None and 'activation' in argument_names(cls):
                rest['activation'] = activation
            if 'aligned' in argument_names(cls):
                rest['aligned'] = self.plan.is_aligned(refs)
            readers = {side: r for side, r in found.items() if r is not None}
        elif cls.of_classes and self._plain_activation(where, refs):
            raise not_exclusive(where, cls, refs)
        match = self._match(refs, where, self.config.terms[name].match, readers)
        if cls.reads != 'outputs' and 'channels' in argument_names(cls):
            rest.setdefault('channels', self._channels(refs, match, cls.also))
        beside = {side: self._beside.get(refs[side], {}) for side in readers}
        loss = build_component(LOSSES, rest, where)
        term = Term(name, refs, loss, readers, beside, match)
        with advise_class_map(self.plan, term):
            sides = self._read_heads(term) if readers else self._check_levels(term)
            like = next(self.student.parameters()).detach()
            truth = {'truth': no_truth(self.probed.size, like)} if cls.truth else {}
            # What only the loss can check, it checks now and not in the first step.
            with frozen_state(loss), prefix_errors(where):
                term.tried = check_result(where, term(sides, **truth))
            term.parts = tuple(term.tried)
        if term.classes is not None:
            sides = term.classes(sides, labels=False)
        if readers:
            left = loss.left_out(*(sides[side][0] for side in SIDES))
            self.plan.notes += describe_uncompared(term, left)
        for part, value in find_idle_parts(loss, sides, **truth).items():
            self.plan.notes.append(describe_idle_part(name, loss, part, value))
        return term

    def _plain_activation(
        self, where: str, refs: Mapping[str, Ref]
    ) -> Activation | None:
        """Return 'sigmoid' where plain logits are of independent classes."""
        found = {}
        for side, ref in refs.items():
            if side in SIDES and ref.owner in self.plan.taps:
                tap = self.plan.taps[ref.owner][ref.key]
                if not tap.inputs:
                    found[side] = activation_at(self._model(ref.owner), tap.paths[0])
        return check_activations(where, refs, found)

    def _build_truth(self, ref: Ref) -> TeacherTruth:
        reader: Any = self._reader(ref, 'unlabeled.truth')
        check_truth_reader(ref, reader)
        specs = self.plan.specs[ref.owner, ref.key]
        reader.strides = tuple(spec.stride for spec in specs)
        model, features = self._model(ref.owner), self.probed.features.get(ref.owner)
        head = self.plan.head_at(ref, self.student, self.teachers)
        prove_head(reader, model, head, features, 'unlabeled.truth')
        return TeacherTruth(ref, reader, self._beside.get(ref, {}))

    def _student_taps(self, refs: Mapping[str, Ref]) -> Iterator[Tap]:
        """Yield the taps of the student that are read, through adapters as well."""
        for ref in refs.values():
            if ref.owner == 'student':
                yield self.plan.taps['student'][ref.key]
            elif ref.owner in self.plan.adapters:
                yield from self._student_taps(self.plan.adapters[ref.owner].refs)

    def _reader(self, ref: Ref, where: str) -> HeadReader | None:
        """Make the reader of the head that a reference names; None for no head."""
        module = self.plan.head_at(ref, self.student, self.teachers)
        kind = find_reader(module)
        if module is None or kind is None:
            return None
        owner = self._owner(module)
        with self.refs.name_model(owner, self._model(owner)), prefix_errors(where):
            return kind(module)

    def _owner(self, module: nn.Module) -> str:
        """Return 'student', or the name of the teacher that a module is part of."""
        owners = ('student', *self.teachers)
        return next(o for o in owners if module in self._model(o).modules())

    def _match(
        self,
        refs: Mapping[str, Ref],
        where: str,
        how: Match,
        readers: Mapping[str, HeadReader] | None = None,
    ) -> LevelMatch:
        """Match the levels of both sides; tell the readers of heads."""
        pair = refs['student'], refs['teacher']
        strides = [
            tuple(spec.stride for spec in self.plan.specs[ref.owner, ref.key])
            for ref in pair
        ]
        if not readers:
            return match_levels(strides[0], strides[1], where, pair, how)
        for side, reader in readers.items():
            ref = refs[side]
            specs = self.plan.specs[ref.owner, ref.key]
            reader.strides = tuple(spec.stride for spec in specs)
        strides = [
            readers[side].level_strides(
                self.plan.head_at(refs[side], self.student, self.teachers)
            )
            for side in SIDES
        ]
        match = match_levels(strides[0], strides[1], where, pair, how, heads=True)
        for side, reader in readers.items():
            reader.kept = match.of(side)
        return match

    def _channels(
        self, refs: Mapping[str, Ref], match: LevelMatch, also: Mapping[str, str]
    ) -> list[tuple[int, ...]]:
        """Return the channels of all sides, level by level."""
        specs = (
            pick(self.plan.specs[ref.owner, ref.key], match.of(also.get(side, side)))
            for side, ref in refs.items()
        )
        return [tuple(spec.channels for spec in level) for level in zip(*specs)]

    def _read_heads(self, term: Term) -> dict[str, Any]:
        """Check that the heads of a term can be compared, and read them."""
        where = f'term {term.name!r}'
        levels = self._levels(term.refs)
        tapped = {
            side: TappedHead(
                self.plan.head_at(ref, self.student, self.teachers),
                levels[side],
                term.readers[side],
                is_mapped(self.plan, term),
            )
            for side, ref in term.refs.items()
        }
        sides: dict[str, Any] = {}
        for side, reader in term.readers.items():
            if side != 'student':
                reader.check_comparable(tapped['student'], tapped[side], where)
            beside = self._levels(term.beside[side])
            head, given = tapped[side].head, tapped[side].levels
            # The levels are of eval mode.
            with frozen_state(head), reading(f'{where}: {term.refs[side]}', head):
                sides[side] = (reader.read(head, given, **beside),)
        term.classes = find_restriction(self.plan, term, sides)
        decodes = term.loss.needs_boxes(*(sides[side][0] for side in SIDES))
        for side, reader in term.readers.items():
            reader.decodes = decodes
            self._prove(term, side, reader, tapped[side].head)
        return sides

    def _prove(self, term: Term, side: str, reader: HeadReader, head: Any) -> None:
        """Prove that a head is read exactly, once for each head.

        And that it has nothing to learn by the term from itself.
        """
        key = id(head), type(reader), reader.decodes
        ref = term.refs[side]
        owner = self._owner(head)
        where = f'term {term.name!r}: {ref}'
        if key not in self._proved:
            model, features = self._model(owner), self.probed.features.get(owner)
            with self.refs.name_model(owner, model):
                self._proved[key] = prove_head(reader, model, head, features, where)
        read = self._proved[key]
        if read is not None and side in SIDES:
            if term.classes is not None:
                read = ReadTwice(*(term.classes.of_side(side, out) for out in read))
            check_agreement(where, term, read, self.probed.size)

    def _check_levels(self, term: Term) -> dict[str, Any]:
        """Check that a term reads features that have the shapes that it demands."""
        where = f'term {term.name!r}'
        levels, student = self._levels(term.refs), term.refs['student']
        specs = {
            side: pick(self.plan.specs[ref.owner, ref.key], term.kept(side))
            for side, ref in term.refs.items()
        }
        kept = {side: pick(levels[side], term.kept(side)) for side in levels}
        for side, ref in term.refs.items():
            check_features(where, ref, levels[side])
        for side, ref in term.refs.items():
            if term.loss.also.get(side, side) == 'teacher':
                pair = specs['student'], specs[side]
                adapted = ref.owner in self.plan.adapters
                check_demands(where, term.loss, (student, ref), pair, adapted)
        term.classes = find_restriction(self.plan, term, kept)
        check_same_classes(where, term, kept)
        return kept

    def _check_weighed_terms(self) -> None:
        """Check that the terms of weighed teachers can be weighed by sample."""
        weighed = self.config.weighed_taps
        for teacher, tap in weighed.items():
            if teacher in self.plan.taps:
                levels = self.probed.levels[teacher, tap]
                check_logits(levels, f'teacher_weights, {teacher}')
        for name, term in self.plan.terms.items():
            teacher = self.plan.teacher_of(term)
            if teacher in weighed and not term.loss.weighs_samples:
                raise PlanError(
                    f'term {name!r}: {type(term.loss).__name__} cannot weigh samples',
                    expected='a loss that is a mean over samples',
                    fix=f'teacher_weights=dict(teachers=[...]) without {teacher!r}',
                )
