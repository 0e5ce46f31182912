"""Build a frozen teacher and load its checkpoint: completely, or not at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils import prune

from ..checkpoints.checkpoint import (
    check_weight_values,
    compare_state_dicts,
    drop_batch_counters,
    extract_state_dict,
    read_checkpoint,
    read_class_names,
    read_meta,
)
from ..checkpoints.shape_mismatch import describe_difference
from ..config import TeacherConfig
from ..config_files.reading import configs_beside, plain_model_cfg, read_config
from ..errors import (
    CheckpointFileError,
    ConfigError,
    TeacherClassesError,
    TeacherFileError,
    TeacherKeysError,
)
from ..parsing import parse
from ..registry import build_mmengine_model
from .cache import hash_weights
from .stored.outputs import StoredOutputs


@dataclass
class Teacher:
    """A frozen model and the checkpoint that fills it.

    Args:
        name: Its name in the config.
        config: Its config.
        model: The model, in eval mode, without gradients.
        source_cfg: The whole config, if `config.cfg` names a file.
        meta: The checkpoint's `meta`, once loaded.
        weights: Which weights it has, in words, once loaded.
        outputs: Its outputs, once loaded, where they are stored.
    """

    name: str
    config: TeacherConfig
    model: nn.Module
    source_cfg: Config | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    weights: str = ''
    outputs: StoredOutputs | None = None

    @classmethod
    def build(cls, name: str, config: TeacherConfig | Mapping[str, Any]) -> Teacher:
        """Build the model, with random weights for now.

        Args:
            name: Its name in the config.
            config: Its config, parsed or not.

        Raises:
            ConfigError: The config is not valid, or the model cannot be built.
            TeacherFileError: `cfg` names no config with a model.
        """
        config = parse(TeacherConfig, config, f'teachers.{name}')
        model_cfg, whole = load_teacher_cfg(config.cfg)
        # For this teacher alone: the runner goes on in the student's scope.
        scope = None if whole is None else whole.get('default_scope', 'mmdet')
        with MODELS.switch_scope_and_registry(scope) as registry:
            model = build_mmengine_model(
                registry, ConfigDict(model_cfg), f'teachers.{name}'
            )
        model.eval().requires_grad_(False)
        return cls(name, config, model, whole)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names the checkpoint was trained on, if it has them."""
        return read_class_names(self.meta)

    @property
    def runs(self) -> bool:
        """Whether its model runs; else its outputs are stored."""
        return self.config.stored is None

    def load(self) -> None:
        """Load the checkpoint completely, or raise and change nothing.

        Of a teacher whose outputs are stored, their file is opened.

        Raises:
            MkdError: The file cannot be read, or does not fit the model.
        """
        if self.config.stored is not None:
            self.outputs = StoredOutputs(self.name, self.config.stored)
            about = self.outputs.store.about
            self.meta = dict(dataset_meta=dict(classes=about.classes))
            self.weights = f'{about.weights}, {about.top_k} rows an image'
            return
        if self.config.checkpoint is not None:
            self.meta = load_teacher_weights(self.name, self.config, self.model)
        if self.config.prune:
            prune_smallest(self.model, self.config.prune)
        self.weights = 'random weights'
        if self.config.checkpoint is not None:
            digest = hashlib.blake2b(digest_size=6)
            hash_weights(digest, self.model)
            self.weights = f'weights {digest.hexdigest()}'

    def check_classes(self, classes: tuple[str, ...]) -> None:
        """Raise TeacherClassesError unless it was trained on `classes`."""
        if self.classes is not None and self.classes != tuple(classes):
            same = sorted(self.classes) == sorted(classes)
            raise TeacherClassesError(
                f'teacher {self.name!r} was trained on '
                + ('these classes in another order' if same else 'other classes'),
                expected=tuple(classes),
                actual=self.classes,
                fix=f"teachers=dict({self.name}=dict(class_map='auto')), which teaches"
                ' the classes that both know by name; or metainfo=dict(classes=...) of'
                ' the data as the teacher had it',
            )


def load_teacher_cfg(cfg: str | Mapping[str, Any]) -> tuple[dict, Config | None]:
    """Return a teacher's model config, and the whole config if it came from a file.

    Args:
        cfg: A model config (dict with `type`), a config file, or a name in a
            package (`mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py`). A distill config
            stands for its student.

    Raises:
        TeacherFileError: There is no such config, or it has no model.
    """
    if isinstance(cfg, Mapping):
        return dict(cfg), None
    try:
        whole = read_config(cfg)
    except ConfigError as error:
        exists = Path(cfg).is_file()
        raise TeacherFileError(
            f'teacher config {cfg} '
            + ('cannot be read' if exists else 'does not exist'),
            expected="a file, or 'package::folder/name.py'",
            actual=error.actual,
            available=error.available,
            fix=error.fix,
        ) from error
    if whole.get('model') is None:
        raise TeacherFileError(f'teacher config {cfg} has no `model`')
    return plain_model_cfg(whole), whole


def load_teacher_weights(
    name: str, config: TeacherConfig, model: nn.Module
) -> dict[str, Any]:
    """Load a teacher's checkpoint completely, or raise and change nothing.

    Args:
        name: The teacher's name, for messages.
        config: Its checkpoint, and how its keys are read.
        model: The model to fill.

    Returns:
        The checkpoint's `meta`.

    Raises:
        CheckpointError: The file cannot be read.
        TeacherKeysError: Its keys or values do not fit the model.
        TeacherClassesError: Only layers that know the classes do not fit.
    """
    checkpoint = str(config.checkpoint)
    where = f'teachers.{name}: checkpoint {checkpoint}'
    try:
        content = read_checkpoint(checkpoint, config.trust_checkpoint)
    except CheckpointFileError as error:
        error.message = f'teachers.{name}: {error.message}'
        error.fix = error.fix or (
            f"teachers.{name}.checkpoint='https://...', the address of a file to"
            ' fetch; or first train\nthis teacher: mkd-det train TEACHER_CONFIG'
        )
        raise
    weights = extract_state_dict(content, checkpoint)
    weights = _without_prefix(weights, config.prefix, name, checkpoint)
    weights = _with_revised_keys(weights, config.revise_keys, name, checkpoint)
    _check_fit(model, weights, where, checkpoint)
    check_weight_values(weights, model.state_dict(), where, TeacherKeysError)
    model.load_state_dict(weights, strict=False)
    return read_meta(content)


def prune_smallest(model: nn.Module, share: float) -> None:
    """Set a share of the weights of convolutions and linear layers to 0, in place.

    Those with the smallest absolute value in all layers together become 0.

    Args:
        model: The model.
        share: The share, from 0 to below 1.
    """
    kinds = (nn.Conv2d, nn.Linear)
    layers = [(m, 'weight') for m in model.modules() if isinstance(m, kinds)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=float(share))
    for module, name in layers:
        prune.remove(module, name)
        module.weight.requires_grad_(False)


def _without_prefix(
    weights: dict[str, Tensor], prefix: str, name: str, checkpoint: str
) -> dict[str, Tensor]:
    if not prefix:
        return weights
    kept = {k: v for k, v in weights.items() if k.startswith(prefix)}
    if not kept:
        raise TeacherKeysError(
            f'teachers.{name}: no key of checkpoint {checkpoint} begins with'
            f' {prefix!r}',
            actual=', '.join(list(weights)[:4]),
            fix='no `prefix`, or that of these keys',
        )
    return {key[len(prefix) :]: value for key, value in kept.items()}


def _with_revised_keys(
    weights: dict[str, Tensor],
    revise_keys: tuple[tuple[str, str], ...],
    name: str,
    checkpoint: str,
) -> dict[str, Tensor]:
    revised: dict[str, Tensor] = {}
    for key, value in weights.items():
        new = key
        for pattern, replacement in revise_keys:
            new = re.sub(pattern, replacement, new)
        if new in revised:
            raise TeacherKeysError(
                f'teachers.{name}: revise_keys gives two keys of checkpoint'
                f' {checkpoint} the name {new!r}',
                actual=key,
                fix='patterns that begin with ^',
            )
        revised[new] = value
    return revised


def _check_fit(
    model: nn.Module, weights: Mapping[str, Tensor], where: str, checkpoint: str
) -> None:
    """Raise unless `weights` fills the model key by key."""
    own = drop_batch_counters(model.state_dict())
    missing, unexpected, shapes = compare_state_dicts(own, weights)
    if missing and (prefix := _common_prefix(own, weights)):
        raise TeacherKeysError(
            f'{where} has {prefix!r} before its keys',
            expected=missing[0],
            actual=prefix + missing[0],
            fix=f'prefix={prefix!r} beside `checkpoint`',
        )
    difference = describe_difference(own, weights)
    because = f'; {difference}' if difference else ''
    if missing or unexpected:
        fits = [own[k].shape for k in missing] == [weights[k].shape for k in unexpected]
        raise TeacherKeysError(
            f'{where} is of another model: {len(missing)} keys missing,'
            f' {len(unexpected)} unexpected, of {len(own)}{because}',
            expected=', '.join(missing[:4]) or None,
            actual=', '.join(unexpected[:4]) or None,
            fix='the shapes are the same, in the same order: if only names differ,'
            " revise_keys=[('^theirs', 'ours'), ...] beside `checkpoint`"
            if fits
            else _own_cfg(checkpoint),
        )
    if shapes:
        paths = [shape.split(':')[0] for shape in shapes]
        # Layers whose names say that they tell classes apart.
        all_heads = all('cls' in path or 'fc' in path for path in paths)
        error = TeacherClassesError if all_heads else TeacherKeysError
        count = ' (another number of classes?)' if all_heads else ''
        raise error(
            f'{where} has {len(shapes)} tensors of another shape{count}{because}',
            actual='; '.join(shapes[:4]),
            fix=_own_cfg(checkpoint)
            + ", num_classes included; class_map='auto' beside it, where the student"
            ' has other classes' * all_heads,
        )


def _own_cfg(checkpoint: str) -> str:
    """Return the fix of a config that does not fit: that of the checkpoint."""
    beside = configs_beside(checkpoint)
    if beside:
        return f'cfg={beside[0]!r}, which lies beside the checkpoint'
    return 'the `cfg` that this checkpoint was trained with'


def _common_prefix(own: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """Return a prefix under which the checkpoint has every key of the model."""
    first = next(iter(own))
    for key in weights:
        prefix = key[: -len(first)] if key.endswith(first) else ''
        if prefix and all(prefix + k in weights for k in own):
            return prefix
    return ''
