"""Runs the student and the teachers once, to find the shapes of what is read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from ..heads.running import run_features
from ..structures import Levels, LevelSpec, channels_of, first_tensor
from ..taps import Tap, TeacherReads, capture, frozen_state, strides_of
from ..teachers.norm_pairs import NormPairFinder
from .plan import HasModel


@dataclass
class Probed:
    """What both models yielded for one image of zeros.

    Args:
        levels: Levels by owner and name; later also those that adapters make of them.
        specs: Their shapes.
        reads: What is read of each teacher.
        size: (H, W) of the image.
    """

    size: tuple[int, int]
    levels: dict[tuple[str, str], Levels] = field(default_factory=dict)
    specs: dict[tuple[str, str], tuple[LevelSpec, ...]] = field(default_factory=dict)
    reads: dict[str, TeacherReads] = field(default_factory=dict)

    def note(self, owner: str, name: str, levels: Levels) -> None:
        """Note levels and their shapes."""
        self.levels[owner, name] = levels
        self.specs[owner, name] = level_specs(levels, self.size)


def probe(
    student: nn.Module,
    teachers: Mapping[str, HasModel],
    taps: Mapping[str, Mapping[str, Tap]],
    size: tuple[int, int],
) -> Probed:
    """Run every model that has taps once, in eval mode, on zeros.

    Train flags, buffers and random states are as before afterwards. The student runs
    with gradient, so that taps without one are found.

    Args:
        student: The student.
        teachers: The teachers by name.
        taps: Taps by owner and name.
        size: (H, W) of the image.

    Raises:
        TapError: A tap yields nothing that can be read.
    """
    probed = Probed(size)
    for owner, named in taps.items():
        of_student = owner == 'student'
        model = student if of_student else teachers[owner].model
        image = next(model.parameters()).new_zeros(1, 3, *size)
        finder = NormPairFinder()
        with (
            frozen_state(model),
            torch.set_grad_enabled(of_student),
            nullcontext() if of_student else finder.watch(model),
            capture(model, named, need_grad=of_student) as seen,
        ):
            run_features(model, image, rehearse=of_student)
        for name, levels in seen.items():
            probed.note(owner, name, levels)
            branch, _, key = name.rpartition('.')
            if branch:  # it is referred to by the branch's name, too
                probed.note(branch, key, levels)
        if not of_student:
            pairs = finder.pairs(model, named.values())
            probed.reads[owner] = TeacherReads(dict(named), dict(seen.calls), pairs)
    return probed


def level_specs(levels: Levels, size: tuple[int, int]) -> tuple[LevelSpec, ...]:
    """Return the shapes of levels.

    Args:
        levels: The levels.
        size: (H, W) of the images that they were made of.
    """
    return tuple(
        LevelSpec(
            channels_of(level),
            stride,
            tuple(t.shape[2:]) if (t := first_tensor(level)).dim() == 4 else (),
            t.requires_grad,
        )
        for level, stride in zip(levels, strides_of(levels, size), strict=True)
    )
