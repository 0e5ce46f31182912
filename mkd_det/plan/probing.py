"""Runs the student and the teachers once, to find the shapes of what is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ProbeConfig
from ..errors import MkdError, ProbeError
from ..heads.model_input import model_input
from ..heads.running import run_features
from ..structures import Levels, LevelSpec, channels_of, first_tensor
from ..taps import Captured, Tap, TeacherReads, capture, frozen_state, strides_of
from ..teachers.norm_pairs import NormPairFinder
from .plan import HasModel

# Sizes that are tried where a model cannot run on images of the wanted size. The
# first ones suit models with large strides, the others models of one input size.
OTHER_SIZES = (384, 512, 300, 320, 224, 416, 640, 800)
# Makes a context in which errors name the model of an owner.
NameModel = Callable[[str, Any], AbstractContextManager[None]]
# Parameters beyond it are taken for uninitialised memory.
_LARGE = 1e4


@dataclass
class Probed:
    """What both models yielded for one image of zeros.

    Args:
        levels: Levels by owner and name; later also those that adapters make of them.
        specs: Their shapes.
        reads: What is read of each teacher.
        features: The maps that the heads of each model get, by owner.
        size: (H, W) of the image.
        wanted: (H, W) of the image that the config asks for.
    """

    size: tuple[int, int]
    levels: dict[tuple[str, str], Levels] = field(default_factory=dict)
    specs: dict[tuple[str, str], tuple[LevelSpec, ...]] = field(default_factory=dict)
    reads: dict[str, TeacherReads] = field(default_factory=dict)
    features: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    wanted: tuple[int, int] | None = None

    def note(self, owner: str, name: str, levels: Levels) -> None:
        """Note levels and their shapes."""
        self.levels[owner, name] = levels
        self.specs[owner, name] = level_specs(levels, self.size)


def probe(
    student: nn.Module,
    teachers: Mapping[str, HasModel],
    taps: Mapping[str, Mapping[str, Tap]],
    size: tuple[int, int],
    given: ProbeConfig | None = None,
    name_model: NameModel = lambda owner, model: nullcontext(),
) -> Probed:
    """Run every model that has taps once, in eval mode, on zeros.

    Parameters, train flags, buffers and random states are as before afterwards. The
    student runs with gradient, so that taps without one are found. Where a model
    cannot run on images of this size, `OTHER_SIZES` are tried.

    Args:
        student: The student.
        teachers: The teachers by name.
        taps: Taps by owner and name.
        size: (H, W) of the image.
        given: What the config says of input that is no usual image; `size` is not
            used then.
        name_model: Makes a context in which errors name a model, see `References`.

    Raises:
        TapError: A tap yields nothing that can be read.
        ProbeError: A model runs on images of none of the sizes.
    """
    models = {
        owner: student if owner == 'student' else teachers[owner].model
        for owner in taps
    }
    failures: list[tuple[str, str]] = []
    usual = given in (None, ProbeConfig())
    others = [(side, side) for side in OTHER_SIZES] if usual else []
    for tried in (size, *others):
        probed = Probed(tried, wanted=size)
        try:
            for owner, model in models.items():
                with name_model(owner, model):
                    _probe_one(probed, owner, model, taps[owner], given)
        except MkdError:
            raise
        except Exception as error:  # of a model, it may be any
            failures.append((owner, _in_a_line(error)))
            # One that does not depend on the size comes again, word by word.
            if failures[-2:-1] == failures[-1:]:
                break
            continue
        return probed
    owner, why = failures[0]
    with name_model(owner, models[owner]):
        raise _cannot_run(owner, why)


def _probe_one(
    probed: Probed,
    owner: str,
    model: nn.Module,
    named: Mapping[str, Tap],
    given: ProbeConfig | None,
) -> None:
    of_student = owner == 'student'
    inputs, samples, size = model_input(model, probed.size, given)
    if given not in (None, ProbeConfig()):
        _check_size(probed, size)
    finder = NormPairFinder()
    seen: Captured
    with (
        frozen_state(model),
        finite_parameters(model),
        torch.set_grad_enabled(of_student),
        nullcontext() if of_student else finder.watch(model),
        capture(model, named, need_grad=of_student) as seen,
    ):
        features = run_features(model, inputs, samples, rehearse=of_student)
    if features is not None:
        probed.features[owner] = features
    for name, levels in seen.items():
        probed.note(owner, name, levels)
        branch, _, key = name.rpartition('.')
        if branch:  # it is referred to by the branch's name, too
            probed.note(branch, key, levels)
    if not of_student:
        pairs = finder.pairs(model, named.values())
        probed.reads[owner] = TeacherReads(dict(named), dict(seen.calls), pairs)


def _check_size(probed: Probed, size: tuple[int, int]) -> None:
    """Note the size of the input that the config gives; it is equal for all models."""
    if probed.levels and size != probed.size:
        raise ProbeError(
            'probe: student and teachers get images of other sizes',
            expected=f'{probed.size} (H, W), as the models before',
            actual=f'{size}',
            fix='images of one size from the function, whatever the model',
        )
    probed.size = probed.wanted = size


@contextmanager
def finite_parameters(model: nn.Module) -> Iterator[None]:
    """Replace parameters that nobody has initialised yet by ones, for one forward.

    Some modules of mmdet (L2Norm) leave memory as it is until `init_weights`: a model
    that was just built may yield anything, NaN included.
    """
    replaced: list[tuple[nn.Parameter, Tensor]] = []
    for parameter in model.parameters():
        data = parameter.data
        if data.is_floating_point() and not bool((data.abs() < _LARGE).all()):
            replaced.append((parameter, data))
            parameter.data = torch.ones_like(data)
    try:
        yield
    finally:
        for parameter, data in replaced:
            parameter.data = data


def _in_a_line(error: Exception) -> str:
    lines = str(error).splitlines() or ['']
    return f'{type(error).__name__}: {lines[0][:200]}'


def _cannot_run(owner: str, why: str) -> ProbeError:
    whose = 'the student' if owner == 'student' else f'teacher {owner!r}'
    return ProbeError(
        f'{whose} cannot be run to find the shapes of its taps',
        expected='a model that runs on an image of zeros',
        actual=why,
        fix='probe_size=(H, W) of images that it runs on\n'
        'probe=dict(shape=(3, 8, 224, 224)) for input of another shape: as one sample'
        ' of its data has it\n'
        "probe='my_module.example' for a model that needs data samples, with\n"
        '    def example(model):  # in my_module.py\n'
        '        return inputs, data_samples',
    )


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
            t.shape[1] if t.dim() == 3 else 0,
        )
        for level, stride in zip(levels, strides_of(levels, size), strict=True)
    )
