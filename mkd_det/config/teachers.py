"""Teachers in the distill config: what they are, how they are weighed and inherited."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError
from ..parsing import key
from .parts import TapText, check_tap_names

Speed = Literal['auto', 'fast', 'exact', 'off']


_TEACHER_EXAMPLE = "cfg='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'"


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
        stored: File that `mkd-det label --soft` has written. The output of the
            teacher's dense head is read from it and its model does not run; its
            checkpoint is not needed.
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
    stored: str | os.PathLike | None = key(
        None, words='a file or None', example="stored='labels.soft'"
    )
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
        if self.stored is not None:
            for name in ('cache', 'prune'):
                if getattr(self, name):
                    raise ConfigError(
                        f'stored and {name} do not go together: the model does not run',
                        actual=f'{name}={getattr(self, name)!r}',
                        fix=f'stored alone, without {name}',
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
        check_tap_names(self.taps)


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


INHERIT_EXAMPLE = "inherit=dict(teacher='t', modules=['neck', 'bbox_head'])"


@dataclass(frozen=True)
class InheritConfig:
    """Modules that the student copies from a teacher before the first step.

    Args:
        teacher: Name of the teacher.
        modules: Paths of the modules, the same in both models.
    """

    teacher: str = key(example=INHERIT_EXAMPLE)
    modules: tuple[str, ...] = key(words='a list of paths', example=INHERIT_EXAMPLE)

    def __post_init__(self) -> None:
        if not self.modules:
            raise ConfigError(
                'there is nothing to inherit',
                expected='at least one module',
                fix=INHERIT_EXAMPLE,
            )
