"""Frozen teachers, outside of the module tree."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils import prune

from .cache import TeacherCache, hash_weights
from ..io.checkpoint import (check_weight_values, compare_state_dicts, read_checkpoint, extract_state_dict, drop_batch_counters)
from .compiling import Wanted, compile_parts
from ..configs import plain_model_cfg, read_config
from ..errors import (CheckpointFileError, ConfigError, TeacherClassesError, TeacherError, TeacherFileError, TeacherKeysError, check_keys, check_string_keys, is_number)
from ..registry import build_mmengine_model
from .engine import SPEEDS, Engine, Pairs, settle
from ..structures import Levels
from ..taps import Tap

_KEYS = (
    'cfg',
    'checkpoint',
    'taps',
    'prefix',
    'trust_checkpoint',
    'speed',
    'cache',
    'compile',
    'revise_keys',
    'prune',
)


def load_teacher_cfg(cfg: str | Mapping[str, Any]) -> tuple[dict, Config | None]:
    """The model config of a teacher, and the whole config if it came from a file.

    Args:
        cfg: A model config (dict with `type`), a config file, or a name in a
            package (`mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py`). A distill config
            stands for its student.
    """
    if isinstance(cfg, Mapping) and 'type' in cfg:
        return dict(cfg), None
    if not isinstance(cfg, str):
        raise ConfigError(
            'a teacher needs `cfg`: a config file or a model config',
            actual=cfg,
            fix="cfg='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'",
        )
    whole = _read_config(cfg)
    if whole.get('model') is None:
        raise TeacherFileError(f'teacher config {cfg} has no `model`')
    return plain_model_cfg(whole), whole


def _read_config(name: str) -> Config:
    try:
        return read_config(name)
    except ConfigError as error:
        there = Path(name).is_file()
        raise TeacherFileError(
            f'teacher config {name} '
            + ('cannot be read' if there else 'does not exist'),
            expected="a file, or 'package::folder/name.py'",
            actual=error.actual,
            available=error.available,
            fix=error.fix,
        ) from error


@dataclass
class Teacher:
    """One frozen model.

    Args:
        name: Its name in the config.
        model: The model, in eval mode, without gradients.
        checkpoint: Where its weights are; None keeps random weights (tests).
        taps: Its own taps, over those of the config.
        prefix: What stands before every key of the checkpoint.
        revise_keys: Pairs of a regular expression and what to write in its place, for
            the keys of the checkpoint, one after another; as mmengine's loader has
            them, before which `prefix` is cut.
        prune: Share of the weights of convolutions and linear layers that become
            zero when the checkpoint is loaded: the smallest of all (Zhang et al., see
            `losses/dlkd.py`).
        trust_checkpoint: Unpickle anything in the checkpoint.
        speed: How it runs. 'exact': batch norms folded, channels-last, equal within
            float rounding. 'fast': in half precision, too. 'auto': the faster of
            them, by the clock, on the first batch. 'off': as it is.
        cache: A folder that keeps what it says about each image, for data without
            random transforms; see `cache.py`.
        compile: Modules to compile, see `compiling.py`.
        cfg: The whole config, if `cfg` named a file.
        meta: The checkpoint's `meta`, once loaded.
        weights: Which weights it has, in words, once loaded.
        calls: Calls of each tap in one whole forward, found by the probe.
        pairs: Convolutions and the batch norms to fold into them, found by the probe.
        settled: What 'auto' came to in the part of the training that is resumed:
            speed and type of device.
        engine: What runs in its place, once the first batch has come.
        store: The cache, once the first batch has come.
    """

    name: str
    model: nn.Module
    checkpoint: str | None = None
    taps: dict[str, Any] = field(default_factory=dict)
    prefix: str = ''
    revise_keys: Sequence[tuple[str, str]] = ()
    prune: float = 0.0
    trust_checkpoint: bool = False
    speed: str = 'auto'
    cache: str | None = None
    compile: Wanted = ()
    cfg: Config | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    weights: str = ''
    calls: dict[str, int] = field(default_factory=dict)
    pairs: Pairs = ()
    settled: tuple[str, str] | None = None
    engine: Engine | None = None
    store: TeacherCache | None = None

    @classmethod
    def build(cls, name: str, cfg: Mapping[str, Any]) -> Teacher:
        """Build the model, with random weights yet."""
        check_string_keys(cfg, f'teachers.{name}')
        cfg = cfg or {}
        check_keys(cfg, _KEYS, f'teachers.{name}')
        if 'checkpoint' not in cfg:
            raise ConfigError(
                f'teachers.{name}: `checkpoint` is missing',
                available=_KEYS,
                fix=f"{name}=dict(cfg=..., checkpoint='teacher.pth')",
            )
        _check_values(name, cfg)
        if cfg.get('speed', 'auto') not in SPEEDS:
            raise ConfigError(
                f'teachers.{name}: unknown speed', actual=cfg['speed'], available=SPEEDS
            )
        model_cfg, whole = load_teacher_cfg(cfg.get('cfg'))  # type: ignore[arg-type]
        # For this teacher alone: the runner goes on in the student's scope.
        scope = None if whole is None else whole.get('default_scope', 'mmdet')
        with MODELS.switch_scope_and_registry(scope) as registry:
            model = build_mmengine_model(registry, ConfigDict(model_cfg), f'teachers.{name}')
        model.eval().requires_grad_(False)
        rest = {k: v for k, v in cfg.items() if k != 'cfg'}
        rest['taps'] = dict(rest.get('taps') or {})
        return cls(name, model, cfg=whole, **rest)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names the checkpoint was trained on, if it says so."""
        meta = self.meta.get('dataset_meta') or self.meta
        names = meta.get('classes', meta.get('CLASSES'))
        return tuple(names) if names is not None else None

    def load(self) -> None:
        """Load the checkpoint completely, or raise and change nothing."""
        if self.checkpoint is not None:
            self._fill(self.checkpoint)
        if self.prune:
            prune_smallest(self.model, self.prune)
        self.weights = 'random weights'
        if self.checkpoint is not None:
            digest = hashlib.blake2b(digest_size=6)
            hash_weights(digest, self.model)
            self.weights = f'weights {digest.hexdigest()}'

    def _fill(self, checkpoint: str) -> None:
        try:
            content = read_checkpoint(checkpoint, self.trust_checkpoint)
        except CheckpointFileError as error:
            error.message = f'teachers.{self.name}: {error.message}'
            error.fix = (
                f"teachers.{self.name}.checkpoint='https://...', the address of a file"
                ' to fetch; or first train\nthis teacher: python tools/train.py'
                ' TEACHER_CONFIG'
            )
            raise
        weights = extract_state_dict(content, checkpoint)
        if self.prefix:
            cut = len(self.prefix)
            if not any(k.startswith(self.prefix) for k in weights):
                raise TeacherKeysError(
                    f'teachers.{self.name}: no key of checkpoint {self.checkpoint}'
                    f' begins with {self.prefix!r}',
                    actual=', '.join(list(weights)[:4]),
                    fix='no `prefix`, or that of these keys',
                )
            weights = {
                k[cut:]: v for k, v in weights.items() if k.startswith(self.prefix)
            }
        weights = _revised(self, weights)
        _check_fit(self, weights)
        where = f'teachers.{self.name}: checkpoint {checkpoint}'
        own = self.model.state_dict()
        check_weight_values(weights, own, where, TeacherKeysError)
        self.model.load_state_dict(weights, strict=False)
        meta = content.get('meta')
        self.meta = dict(meta) if isinstance(meta, Mapping) else {}

    def check_classes(self, classes: tuple[str, ...]) -> None:
        """Raise TeacherClassesError unless it was trained on `classes`."""
        if self.classes is not None and self.classes != tuple(classes):
            same = sorted(self.classes) == sorted(classes)
            raise TeacherClassesError(
                f'teacher {self.name!r} was trained on '
                + ('these classes in another order' if same else 'other classes'),
                expected=tuple(classes),
                actual=self.classes,
                fix='metainfo=dict(classes=...) of the data as the teacher had it',
            )


def _revised(teacher: Teacher, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that `revise_keys` makes of theirs."""
    revised: dict[str, Tensor] = {}
    for key, value in weights.items():
        new = key
        for pattern, replacement in teacher.revise_keys:
            new = re.sub(pattern, replacement, new)
        if new in revised:
            raise TeacherKeysError(
                f'teachers.{teacher.name}: revise_keys gives two keys of checkpoint'
                f' {teacher.checkpoint} the name {new!r}',
                actual=key,
                fix='patterns that begin with ^',
            )
        revised[new] = value
    return revised


def prune_smallest(model: nn.Module, share: float) -> None:
    """Set the smallest weights of all convolutions and linear layers together to 0."""
    kinds = (nn.Conv2d, nn.Linear)
    layers = [(m, 'weight') for m in model.modules() if isinstance(m, kinds)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=float(share))
    for module, name in layers:
        prune.remove(module, name)
        module.weight.requires_grad_(False)


def _check_fit(teacher: Teacher, weights: Mapping[str, Tensor]) -> None:
    """Raise unless `weights` fills the teacher's model key by key."""
    own = drop_batch_counters(teacher.model.state_dict())
    missing, unexpected, shapes = compare_state_dicts(own, weights)
    where = f'teachers.{teacher.name}: checkpoint {teacher.checkpoint}'
    if missing and (prefix := _common_prefix(own, weights)):
        raise TeacherKeysError(
            f'{where} has {prefix!r} before its keys',
            expected=missing[0],
            actual=prefix + missing[0],
            fix=f'prefix={prefix!r} beside `checkpoint`',
        )
    if missing or unexpected:
        fits = [own[k].shape for k in missing] == [weights[k].shape for k in unexpected]
        raise TeacherKeysError(
            f'{where} is of another model: {len(missing)} keys missing,'
            f' {len(unexpected)} unexpected, of {len(own)}',
            expected=', '.join(missing[:4]) or None,
            actual=', '.join(unexpected[:4]) or None,
            fix='the shapes are the same, in the same order: if only names differ,'
            " revise_keys=[('^theirs', 'ours'), ...] beside `checkpoint`"
            if fits
            else 'the `cfg` that this checkpoint was trained with',
        )
    if shapes:
        heads = [
            s for s in shapes if 'cls' in s.split(':')[0] or 'fc' in s.split(':')[0]
        ]
        kind = TeacherClassesError if len(heads) == len(shapes) else TeacherKeysError
        count = ' (another number of classes?)' if kind is TeacherClassesError else ''
        raise kind(
            f'{where} has {len(shapes)} tensors of another shape{count}',
            actual='; '.join(shapes[:4]),
            fix='the `cfg` that it was trained with, num_classes included',
        )


def _check_values(name: str, cfg: Mapping[str, Any]) -> None:
    """Types of what stands in `teachers.<name>`."""
    check_string_keys(cfg.get('taps'), f'teachers.{name}.taps')
    for key, kinds, words in (
        ('checkpoint', (str, os.PathLike, type(None)), 'a path, an address or None'),
        ('prefix', (str,), 'a string'),
        ('trust_checkpoint', (bool,), 'True or False'),
        ('cache', (str, os.PathLike, type(None)), 'a folder or None'),
        ('revise_keys', (list, tuple), 'pairs of patterns and replacements'),
    ):
        if key in cfg and not isinstance(cfg[key], kinds):
            raise ConfigError(
                f'teachers.{name}: {key} must be {words}', actual=repr(cfg[key])
            )
    for pair in cfg.get('revise_keys', ()):
        _check_pattern(name, pair)
    share = cfg.get('prune', 0.0)
    if not is_number(share) or not 0 <= share < 1:
        raise ConfigError(
            f'teachers.{name}: prune must be a share from 0 to below 1',
            actual=repr(share),
            fix='prune=0.5',
        )


def _check_pattern(name: str, pair: Any) -> None:
    try:
        pattern, replacement = pair
        re.sub(pattern, replacement, '')
    except (TypeError, ValueError, re.error) as error:
        raise ConfigError(
            f'teachers.{name}: revise_keys must be pairs of a regular expression and'
            ' what to write in its place',
            actual=f'{pair!r}: {error}',
            fix=r"revise_keys=[(r'^module\.', '')]",
        ) from error


def _common_prefix(own: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """A prefix under which the checkpoint holds every key of the model."""
    first = next(iter(own))
    for key in weights:
        prefix = key[: -len(first)] if key.endswith(first) else ''
        if prefix and all(prefix + k in weights for k in own):
            return prefix
    return ''


class TeacherBank(Mapping[str, Teacher]):
    """All teachers of a distiller.

    Not an `nn.Module`, so that a teacher is in no `parameters()`, `modules()`,
    `state_dict()`, optimizer, EMA copy or DDP bucket, and `train()` and
    `init_weights()` never reach it. The distiller hands `_apply` on to it.
    """

    def __init__(self, cfgs: Mapping[str, Mapping[str, Any]]) -> None:
        self._teachers: dict[str, Teacher] = {}
        for name, cfg in cfgs.items():
            cfg = _with_source(name, cfg, cfgs)
            if not name.isidentifier() or name == 'student':
                raise ConfigError(
                    f'teachers: {name!r} cannot be a name',
                    expected="an identifier other than 'student'",
                )
            self._teachers[name] = Teacher.build(name, cfg)
        self.loaded = not self._teachers

    def __getitem__(self, name: str) -> Teacher:
        return self._teachers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._teachers)

    def __len__(self) -> int:
        return len(self._teachers)

    def __deepcopy__(self, memo: dict) -> TeacherBank:
        # EMA copies the distiller; a frozen teacher needs no second copy.
        return self

    def load(self) -> None:
        """Load every checkpoint; the second call does nothing."""
        if not self.loaded:
            for teacher in self.values():
                teacher.load()
            self.loaded = True

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Do to the teachers what `nn.Module._apply` does to the student."""
        for teacher in self.values():
            model = teacher.model
            model._apply(fn)
            # Moves no tensor any more, but tells the preprocessor where it is.
            model.to(next(model.parameters()).device)
            # A copy of what it was before; the next batch makes another.
            teacher.engine = None

    @property
    def speeds(self) -> dict[str, list[str]]:
        """What the first batch settled: [speed, type of device] by name."""
        return {
            name: [teacher.engine.speedup.speed, _device_type(teacher.model)]
            for name, teacher in self.items()
            if teacher.engine
        }

    def keep_speeds(self, speeds: Mapping[str, Sequence[str]]) -> None:
        """Run as an earlier part of this training did, without measuring again."""
        for name, (speed, device) in speeds.items():
            if name in self and self[name].speed == 'auto':
                self[name].settled = speed, device

    def run(
        self,
        name: str,
        inputs: Tensor,
        taps: Mapping[str, Tap],
    ) -> dict[str, Levels]:
        """Run one teacher as far as its taps need, without gradient.

        Never its loss, target assignment or NMS.

        Args:
            name: Which teacher.
            inputs: Images as this teacher wants them, (N, 3, H, W).
            taps: Taps to read.

        Returns:
            Levels by tap name.
        """
        teacher = self[name]
        if teacher.model.training:
            raise TeacherError(f'teacher {name!r} was put into training mode')
        if teacher.cache is None:
            return self._run(teacher, inputs, taps)
        if teacher.store is None:
            teacher.store = TeacherCache(teacher.cache, teacher.model, taps)
        return teacher.store.run(inputs, lambda some: self._run(teacher, some, taps))

    def _run(
        self, teacher: Teacher, inputs: Tensor, taps: Mapping[str, Tap]
    ) -> dict[str, Levels]:
        stop = teacher.calls if all(t in teacher.calls for t in taps) else None
        if teacher.engine is None:
            speed, device = teacher.settled or ('', '')
            same = device == _device_type(teacher.model)
            teacher.engine = settle(
                teacher.name,
                teacher.model,
                speed if same else teacher.speed,
                teacher.pairs,
                lambda engine: engine.run(inputs, taps, stop),
                # Where other ranks find in a cache what this one computes.
                alone=teacher.cache is not None,
            )
            model, where = teacher.engine.model, f'teachers.{teacher.name}'
            compile_parts(model, teacher.compile, taps.values(), where)
        return teacher.engine.run(inputs, taps, stop)


def _with_source(
    name: str, cfg: Mapping[str, Any], cfgs: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """What `prune_of` stands for: the settings of the teacher it names."""
    if not isinstance(cfg, Mapping) or 'prune_of' not in cfg:
        return cfg
    source = cfg['prune_of']
    if source not in cfgs or 'prune_of' in cfgs[source]:
        raise ConfigError(
            f'teachers.{name}: prune_of must name another teacher',
            actual=source,
            available=[n for n, c in cfgs.items() if 'prune_of' not in (c or {})],
            fix="pruned=dict(prune_of='t', prune=0.5)",
        )
    rest = {k: v for k, v in cfg.items() if k != 'prune_of'}
    # A cache is one teacher's.
    own = {k: v for k, v in cfgs[source].items() if k != 'cache'}
    return {**own, 'prune': 0.5, **rest}


def _device_type(model: nn.Module) -> str:
    return next(model.parameters()).device.type
