"""The distill config: typed, frozen, parsed once.

`DistillConfig.parse` makes it from the arguments of `Distiller`. All checks that need
no model happen here; the planner checks what needs the models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import nn

from .errors import ConfigError, check_keys, check_string_keys
from .parsing import key, parse

# A tap in a config: 'neck', 'bbox_head:in', or a list of paths; see `taps.py`.
TapText = str | tuple[str, ...]
Speed = Literal['auto', 'fast', 'exact', 'off']
# How levels find each other: by input pixels per cell, or by their place in the row.
Match = Literal['stride', 'index']

# Arguments of `Distiller` that are not part of its `DistillConfig`.
BESIDE = ('student', 'data_preprocessor', 'init_cfg')
# Smallest and largest side of the image that shapes are probed with, in pixels.
PROBE_SIDES = (8, 4096)
_TEACHER_EXAMPLE = "cfg='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'"
_INHERIT_EXAMPLE = "inherit=dict(teacher='t', modules=['neck', 'bbox_head'])"


@dataclass(frozen=True)
class TeacherConfig:
    r"""One teacher: its model, its weights, and how it runs.

    Args:
        cfg: Its model: a config file, a name in a package (`mmdet::gfl/...py`) or a
            model config (a dict with `type`). A distill config stands for its student.
        checkpoint: File or address of its weights. None keeps random weights, for
            tests.
        taps: Its own taps. They replace those of the same name in `DistillConfig`.
        prefix: What stands before every key of the checkpoint.
        revise_keys: Pairs of a regular expression and its replacement, applied to the
            keys of the checkpoint one after another, as in mmengine's loader. `prefix`
            is cut off first.
        prune: Share of the weights of convolutions and linear layers that become zero
            when the checkpoint is loaded: those with the smallest absolute value.
        prune_of: Name of the teacher that this one is a pruned copy of. Keys that are
            not given are that teacher's; `prune` is 0.5 then.
        trust_checkpoint: Whether to unpickle anything in the checkpoint. It may run
            code.
        speed: How the teacher runs. 'exact': batch norms folded, channels-last, equal
            within float rounding. 'fast': also in half precision. 'auto': 'fast'
            on GPUs with tensor cores, else 'exact'. 'off': as it was loaded.
        cache: Folder that keeps the teacher's outputs for each image, for data without
            random transforms.
        class_map: Which classes of the teacher are which of the student, for a teacher
            of other classes: it teaches those that both know. 'auto': matched by name.
            A dict by name of the student's class, with the name or index of the
            teacher's class, a list of several, or None; `'*': 'auto'` matches all
            others by name. Or a list with an entry for each class of the student. None:
            both have the same classes.
        classes: Names of the teacher's classes in the order of its labels, for
            `class_map`. Without them, those of its checkpoint or config are taken.
    """

    cfg: str | Mapping[str, Any] = key(
        words='a config file or a model config', example=_TEACHER_EXAMPLE
    )
    checkpoint: str | os.PathLike | None = key(
        words='a path, an address or None', example="checkpoint='teacher.pth'"
    )
    taps: Mapping[str, TapText] = key(factory=dict)
    prefix: str = ''
    revise_keys: tuple[tuple[str, str], ...] = key(
        (),
        words='pairs of a regular expression and its replacement',
        example=r"revise_keys=[(r'^module\.', '')]",
    )
    prune: float = key(0.0, words='a share from 0 to below 1', example='prune=0.5')
    prune_of: str | None = None
    trust_checkpoint: bool = False
    speed: Speed = 'auto'
    cache: str | os.PathLike | None = key(None, words='a folder or None')
    class_map: Literal['auto'] | Mapping[str, Any] | tuple[Any, ...] | None = key(
        None,
        words="'auto', a dict by class of the student, or a list",
        example="class_map='auto'",
    )
    classes: tuple[str, ...] = key(
        (), words='a list of names', example="classes=('cat', 'dog')"
    )

    def __post_init__(self) -> None:
        if isinstance(self.cfg, Mapping) and 'type' not in self.cfg:
            raise ConfigError(
                'cfg must be a config file or a model config with `type`',
                actual=self.cfg,
                fix=_TEACHER_EXAMPLE,
            )
        if not 0 <= self.prune < 1:
            raise ConfigError(
                'prune must be a share from 0 to below 1',
                actual=repr(self.prune),
                fix='prune=0.5',
            )
        for pair in self.revise_keys:
            try:
                re.sub(*pair, '')
            except re.error as error:
                raise ConfigError(
                    'revise_keys must be pairs of a regular expression and its'
                    ' replacement',
                    actual=f'{pair!r}: {error}',
                    fix=r"revise_keys=[(r'^module\.', '')]",
                ) from error
        _check_tap_names(self.taps)


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter: a module between student and teacher knowledge.

    Args:
        type: A registered adapter or probe, or its class.
        student: What it reads of the student: a tap or `<branch>.<key>`.
        teacher: What it reads of a teacher: `<teacher>.<tap>`.
        match: How levels of student and teacher find each other: 'stride' (input
            pixels per cell; levels without partner are left out) or 'index'.
        arguments: All other keys: arguments of the adapter's class.
    """

    type: str | type
    student: str = ''
    teacher: str = ''
    match: Match = 'stride'
    arguments: dict[str, Any] = key(rest=True)

    def to_build(self) -> dict[str, Any]:
        """Return the dict that the adapter is built from."""
        return {'type': self.type, **self.arguments}


@dataclass(frozen=True)
class BranchConfig:
    """One branch: a trainable addition to the student.

    Args:
        type: A registered branch, or its class.
        arguments: All other keys: arguments of the branch's class.
    """

    type: str | type
    arguments: dict[str, Any] = key(rest=True)

    def to_build(self) -> dict[str, Any]:
        """Return the dict that the branch is built from."""
        return {'type': self.type, **self.arguments}


@dataclass(frozen=True)
class TermConfig:
    """One term: a loss between knowledge of the student and of a teacher.

    Args:
        type: A registered loss, or its class.
        student: What it reads of the student: a tap, `<adapter>.student` or
            `<branch>.<key>`.
        teacher: What it reads of a teacher: `<teacher>.<tap>` or `<adapter>.teacher`.
        weight: Factor on the loss; 0 switches the term off. None: the default of the
            loss, which is 1 for those of this package.
        match: How levels of student and teacher find each other, as for adapters.
        only_with: Module paths that student and teacher must have for this term; it is
            off, and the plan says why, where one of them is missing.
        arguments: All other keys: `schedule`, arguments of the loss's class, and what
            the loss reads besides (`PairLoss.also`).
    """

    type: str | type
    student: str = ''
    teacher: str = ''
    weight: float | None = None
    match: Match = 'stride'
    only_with: tuple[str, ...] = ()
    arguments: dict[str, Any] = key(rest=True)

    def to_build(self) -> dict[str, Any]:
        """Return the dict that the loss is built from, and what it reads besides."""
        weight = {} if self.weight is None else {'weight': self.weight}
        return {'type': self.type, **weight, **self.arguments}


@dataclass(frozen=True)
class SamplingConfig:
    """How the teachers of a step are picked.

    Args:
        keep_prob: Probability to keep each teacher, above 0 and at most 1.
        drop_exact: Number of teachers to drop in each step, instead of `keep_prob`.
        seed: Seed of the picks.
        always: Teachers that are never dropped: a name or a list of names.
    """

    keep_prob: float = 1.0
    drop_exact: int = 0
    seed: int = 0
    always: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.keep_prob <= 1:
            raise ConfigError(
                'keep_prob must be above 0 and at most 1', actual=self.keep_prob
            )
        if self.drop_exact < 0:
            raise ConfigError('drop_exact must be 0 or more', actual=self.drop_exact)
        if self.drop_exact and self.keep_prob < 1:
            raise ConfigError('give keep_prob or drop_exact, not both')
        if isinstance(self.always, str):
            object.__setattr__(self, 'always', (self.always,))  # frozen


@dataclass(frozen=True)
class TeacherWeightsConfig:
    """Weigh teachers by sample, by how well they know its label.

    Args:
        tap: Tap that yields class logits of whole images.
        teachers: Names of the teachers to weigh; all but pruned copies if empty.
    """

    tap: str = key(
        words='the name of a tap that yields class logits',
        example="teacher_weights=dict(tap='logits')",
    )
    teachers: tuple[str, ...] = ()


@dataclass(frozen=True)
class InheritConfig:
    """Modules that the student copies from a teacher before the first step.

    Args:
        teacher: Name of the teacher.
        modules: Paths of the modules, the same in both models.
    """

    teacher: str = key(example=_INHERIT_EXAMPLE)
    modules: tuple[str, ...] = key(words='a list of paths', example=_INHERIT_EXAMPLE)

    def __post_init__(self) -> None:
        if not self.modules:
            raise ConfigError(
                'there is nothing to inherit',
                expected='at least one module',
                fix=_INHERIT_EXAMPLE,
            )


@dataclass(frozen=True)
class BalanceConfig:
    """What keeps the terms at a wanted share of the task's gradient.

    Args:
        type: A registered balance (`GradientShare`), or its class.
        arguments: All other keys: arguments of the balance's class.
    """

    type: str | type
    arguments: dict[str, Any] = key(rest=True)

    def to_build(self) -> dict[str, Any]:
        """Return the dict that the balance is built from."""
        return {'type': self.type, **self.arguments}


@dataclass(frozen=True)
class ProbeConfig:
    """The input that shapes are probed with, for models that get no usual images.

    Args:
        shape: Its shape without the batch, such as (C, H, W) or, for videos,
            (C, T, H, W). None: the channels of the model's preprocessor, and
            `probe_size`.
        function: A function that gets a model and returns inputs and data samples for
            one forward, as the model's preprocessor would make them. For models that
            need data samples. `probe='my_module.example'` is the short form.
    """

    shape: tuple[int, ...] | None = key(
        None, words='a shape without the batch', example='probe=dict(shape=(1, 64, 64))'
    )
    function: Any = key(None, words='a function, or its module and name')

    @classmethod
    def parse(cls, given: Any) -> ProbeConfig:
        """Parse the value of `probe`: a dict, or a function alone."""
        if isinstance(given, str) or callable(given):
            given = dict(function=given)
        return parse(cls, given, 'probe')

    def __post_init__(self) -> None:
        shape, function = self.shape, self.function
        named = (isinstance(function, str) and '.' in function) or callable(function)
        good = function is None or (named and shape is None)
        if not good or (shape is not None and (len(shape) < 2 or min(shape) < 1)):
            raise ConfigError(
                'probe must be a shape (two or more numbers above 0) or a function',
                actual=repr(shape if function is None else function),
                fix="probe=dict(shape=(1, 64, 64))\nprobe='my_module.example'",
            )


@dataclass(frozen=True)
class UnlabeledConfig:
    """What images without labels teach; see `UnlabeledImages`.

    Args:
        weight: How much such an image counts in the terms; a labelled one counts 1.
        terms: Names of the terms that read such images; all that need no ground truth
            if None.
        truth: `<teacher>.<tap>` of a dense head, whose confident boxes serve as ground
            truth of such images for the terms that need boxes. Those terms read
            labelled images only if None.
        score_thr: Least score of these boxes.
    """

    weight: float = 1.0
    terms: tuple[str, ...] | None = key(
        None, words='a list of terms', example="unlabeled=dict(terms=['loss_soft'])"
    )
    truth: str | None = None
    score_thr: float = 0.5

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError('unlabeled.weight must be 0 or more', actual=self.weight)
        if not 0 <= self.score_thr <= 1:
            raise ConfigError(
                'unlabeled.score_thr must be between 0 and 1', actual=self.score_thr
            )


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
    _check_tap_names(config.taps)
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


def _check_tap_names(taps: Mapping[str, Any]) -> None:
    for name in taps:
        if not name.isidentifier():
            raise ConfigError(
                f'tap {name!r} cannot be a name',
                expected='letters, digits and underscores',
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
            fix=_INHERIT_EXAMPLE,
        )
    if teacher.checkpoint is None:
        raise ConfigError(
            'inherit: there is nothing to inherit',
            expected='a teacher with a checkpoint',
            actual=f'teachers.{config.inherit.teacher}.checkpoint is None',
        )
