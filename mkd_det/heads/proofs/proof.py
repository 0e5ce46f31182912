"""Proves that a reader reads a dense head exactly; what other proofs share.

The head is copied, its weights are spread, so that scores and boxes fill their range
whatever the initialisation is, and it runs on random features, in eval and in train
mode. What the reader makes of both must be the same, and must be what the head's own
`predict_by_feat` yields before NMS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import HeadKindError, MkdError
from ...structures import HeadOutput, Level
from ..base import HeadReader
from .predictions import Predictions

if TYPE_CHECKING:
    from ..readers.dense import DenseReader

# Allowed differences: of boxes in pixels and as a share of the box, of probabilities
# likewise. Rounding of float32 is far below, a wrong decoding far above.
_PIXELS, _OF_BOX = 0.1, 2e-3
_SCORE, _OF_SCORE = 1e-4, 2e-3
# How many of a head's own predictions are looked for among those that are read.
_SAMPLES = 400
# The maps of the proof are this much smaller than those of the plan's run, but no
# smaller than the kernels of deformable convolutions.
_SHRINK, _LEAST = (4, 2), 3
# What to write where a head is not read exactly.
OTHERWISE = (
    "a loss on features: taps=dict(fpn='neck'); or a reader of your own for this head"
    ' (see the page on extending)'
)


class ReadTwice(NamedTuple):
    """What one head yields to both sides of a term, on the same features.

    Args:
        trained: Its output as that of a student: in training mode.
        evaluated: Its output as that of a teacher: in eval mode.
    """

    trained: HeadOutput
    evaluated: HeadOutput


@contextmanager
def proving(name: str) -> Iterator[None]:
    """Turn errors of a head that cannot be run into typed ones; keep random states.

    Args:
        name: Name of the head, for messages.

    Raises:
        HeadKindError: The head cannot be run.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    except MkdError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or ['']
        raise HeadKindError(
            f'{name} cannot be compared with its own predictions',
            expected='a head that runs on features and has `predict_by_feat`',
            actual=f'{type(error).__name__}: {lines[0][:200]}',
            fix=OTHERWISE,
        ) from error


@contextmanager
def reading(name: str, head: Any) -> Iterator[None]:
    """Turn errors of a reader into typed ones: the head yields another form.

    Args:
        name: What is read, for messages.
        head: The head.

    Raises:
        HeadKindError: The reader fails.
    """
    try:
        yield
    except MkdError:
        raise
    except Exception as error:
        own = type(head)
        bases = (c for c in own.__mro__ if c.__module__.startswith('mmdet.'))
        form = next(bases, own).__name__
        lines = str(error).splitlines() or ['']
        raise HeadKindError(
            f'{name}: {own.__name__} yields something that its reader cannot read',
            expected=f'outputs in the form of {form}',
            actual=f'{type(error).__name__}: {lines[0][:200]}',
            fix=OTHERWISE,
        ) from error


def prove_head(
    reader: HeadReader,
    model: Any,
    head: Any,
    features: Sequence[Tensor] | None,
    where: str,
) -> ReadTwice | None:
    """Raise unless a head is read exactly, as the reader of its kind proves it.

    Args:
        reader: The reader of the head.
        model: The model.
        head: The head. It is left as it is.
        features: Maps like those that the head gets; None where they are not known.
        where: Name of the head, for messages.

    Returns:
        What is read in both modes; None for readers without a proof.

    Raises:
        HeadKindError: It is read otherwise, or nothing is known to run it on.
    """
    if features is not None:
        return reader.prove(model, head, features, where)
    if type(reader).prove is HeadReader.prove:
        return None
    raise HeadKindError(
        f'{where}: {type(head).__name__} cannot be compared with its own predictions',
        expected='a head that is called with the maps of a pyramid, as those of mmdet',
        actual=f'a head of {type(model).__name__} that gets something else',
        fix=OTHERWISE,
    )


def prove_dense(
    reader: DenseReader, head: nn.Module, features: Sequence[Tensor], where: str
) -> ReadTwice:
    """Raise unless a head's scores and boxes are read as the head predicts them.

    Args:
        reader: The reader of the head.
        head: The head. It is left as it is.
        features: Maps (N, C, H, W) like those that the head gets.
        where: Name of the head, for messages.

    Returns:
        What is read in both modes.

    Raises:
        HeadKindError: They differ, or the head cannot be run.
    """
    name = f'{where}: {type(head).__name__}'
    with proving(name):
        return _prove(reader, head, features, name)
    raise AssertionError  # the context raises or returns


def _prove(
    reader: DenseReader, head: nn.Module, features: Sequence[Tensor], name: str
) -> ReadTwice:
    """Compare eval mode with the head's predictions, and train mode with eval mode."""
    copy: Any = spread_copy(head)
    own = type(reader)(copy)
    own.strides = reader.strides
    given = tuple(_small(level) for level in features)
    copy.eval()
    evaluated_levels = _levels(own, copy(given))
    evaluated = own.read(copy, evaluated_levels)
    train_without_norms(copy)
    trained = own.read(copy, _levels(own, copy(given)))
    counts = [len(prior) for prior in evaluated.priors or ()]
    compare_modes(trained, evaluated, counts, name)
    copy.eval()
    for index, found in enumerate(own.predict(copy, copy(given), len(given[0]))):
        factors = found.factors if own.joint else None
        scores = found.scores if factors is None else found.scores * factors
        mine = probabilities(evaluated.scores[index], own.activation)
        boxes = None if evaluated.boxes is None else evaluated.boxes[index]
        if boxes is None and reader.decodes:
            raise HeadKindError(
                f'{name}: its boxes have no decoding that is known',
                expected='a box coder, or a reader of its own',
                actual=type(getattr(copy, 'bbox_coder', None)).__name__,
                fix="boxes='off', or a loss on features: taps=dict(fpn='neck')",
            )
        compare_predictions(found._replace(scores=scores), mine, boxes, counts, name)
    return ReadTwice(trained, evaluated)


def spread_copy(head: nn.Module, without: Sequence[Any] = ()) -> Any:
    """Copy a head or model and give it random weights, with outputs of order one.

    Args:
        head: The module.
        without: Modules in it that are left out of the copy.
    """
    copy = deepcopy(head, {id(module): nn.Identity() for module in without})
    for module in copy.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                nn.init.normal_(parameter, std=1.5 / fan_in**0.5)
            elif key == 'bias':
                nn.init.normal_(parameter, std=0.5)
            else:  # norms and scales
                nn.init.uniform_(parameter, 0.5, 1.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    return copy


def probabilities(scores: Tensor, activation: str) -> Tensor:
    """Return the probability of each class (P, K), without background."""
    return scores.sigmoid() if activation == 'sigmoid' else scores.softmax(-1)[:, :-1]


def _small(level: Tensor) -> Tensor:
    n, channels = 1, level.shape[1]
    sides = [
        max(-(-side // by), min(side, _LEAST))
        for side, by in zip(level.shape[-2:], _SHRINK)
    ]
    return torch.randn(n, channels, *sides).to(level)


def _levels(reader: DenseReader, output: Any) -> list[Level]:
    levels = reader.layout(output)
    if levels is None:
        raise HeadKindError(
            f'{type(reader).__name__}: the head yields nothing that splits into levels',
            actual=type(output).__name__,
            fix="a loss on features: taps=dict(fpn='neck')",
        )
    return levels


def train_without_norms(head: nn.Module) -> None:
    """Put a head into training mode, but for what makes its features random."""
    head.train()
    for module in head.modules():
        kind = type(module).__name__
        random = 'Drop' in kind or kind == 'MultiheadAttention'
        if random or isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def compare_modes(
    trained: HeadOutput, evaluated: HeadOutput, counts: Sequence[int], name: str
) -> None:
    """Raise unless a head is read alike in both modes.

    Args:
        trained: What is read in training mode.
        evaluated: What is read in eval mode.
        counts: Number of rows of each level.
        name: Name of the head, for messages.

    Raises:
        HeadKindError: Scores, boxes or distributions differ.
    """
    for what in ('scores', 'boxes', 'bins'):
        ours, theirs = getattr(trained, what), getattr(evaluated, what)
        if ours is None and theirs is None:
            continue
        apart = (ours - theirs).abs().flatten(2).amax(-1)[0]
        limit = 1e-3 + 1e-3 * theirs.abs().flatten(2).amax(-1)[0]
        if not bool((apart <= limit).all()):
            row = int((apart / limit).nan_to_num(1e9).argmax())
            raise HeadKindError(
                f'{name}: {what} are read otherwise in train than in eval mode',
                expected='the same in both',
                actual=f'{apart[row]:.4g} apart at {_level_of(row, counts)}',
                fix="a loss on features: taps=dict(fpn='neck')",
            )


def compare_predictions(
    found: Predictions,
    scores: Tensor,
    boxes: Tensor | None,
    counts: Sequence[int],
    name: str,
) -> None:
    """Look for the head's predictions, score and box together, among what is read.

    Args:
        found: What the head predicts.
        scores: What is read: the probability of each class (P, K).
        boxes: What is read: boxes (P, 4); None where no loss needs them.
        counts: Number of rows of each level.
        name: Name of the head, for messages.

    Raises:
        HeadKindError: One is not among it.
    """
    if not len(found.scores):
        raise HeadKindError(f'{name} predicts nothing on random features')
    step = max(len(found.scores) // _SAMPLES, 1)
    theirs = found.boxes.clamp(0, 99_999)[::step]
    if boxes is None:  # no loss needs them, and they cannot be decoded
        theirs = torch.zeros_like(theirs)
        boxes = theirs.new_zeros(len(scores), 4)
    mine = boxes.clamp(0, 99_999)
    score = found.scores[::step, None]
    size = (theirs[:, 2:] - theirs[:, :2]).abs().amax(-1)
    of_class = scores[:, found.labels[::step]].T  # (samples, P)
    apart = (theirs[:, None] - mine[None]).abs().amax(-1)
    by_box = apart / (_PIXELS + _OF_BOX * size[:, None])
    by_score = (of_class - score).abs() / (_SCORE + _OF_SCORE * score)
    both = torch.maximum(by_box, by_score)
    best, _ = both.min(1)
    if bool((best <= 1).all()):
        return
    wrong = int(best.nan_to_num(1e9).argmax())
    # The place is known by what is right of the two: a box that is found, or a score.
    boxes_found = float((by_box.amin(1) <= 1).float().mean())
    scores_found = float((by_score.amin(1) <= 1).float().mean())
    if boxes_found > scores_found:
        place = int(by_box[wrong].argmin())
        what, gap = 'scores', f'{of_class[wrong, place]:.4f} is read'
        gap += f', the head predicts {float(score[wrong]):.4f}'
    else:
        place = int(by_score[wrong].argmin())
        what = 'boxes'
        gap = f'{apart[wrong, place]:.1f} px apart: {_text(mine[place])} is read,'
        gap += f' the head predicts {_text(theirs[wrong])}'
    share = float((best > 1).float().mean())
    raise HeadKindError(
        f'{name}: {what} are not read as the head predicts them',
        expected='the scores and boxes of its own predict_by_feat, before NMS',
        actual=f'{share:.0%} of them differ; {_level_of(place, counts)}: {gap}',
        fix=OTHERWISE,
    )


def _level_of(row: int, counts: Sequence[int]) -> str:
    for index, count in enumerate(counts):
        if row < count:
            return f'level {index}'
        row -= count
    return 'no level'


def _text(box: Tensor) -> str:
    return '[' + ' '.join(f'{side:.1f}' for side in box.tolist()) + ']'
