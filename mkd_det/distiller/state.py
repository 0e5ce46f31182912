"""The distillation state in a checkpoint: its keys, how it is written and read.

A checkpoint has the plain student's keys, so that stock MMDetection loads it. The
state of adapters, branches, losses and balance travels in the metadata of the state
dict, which is torch's own channel for what a module needs to read its state back; it
ends up in the same file, and nobody else reads it. Random states of all ranks stand
beside the weights; `ResumeStateHook` makes and restores them.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoints.checkpoint import check_weight_values
from ..errors import ResumeError, is_integer
from ..io.random_state import is_random_state
from ..registry import arguments_with_defaults

if TYPE_CHECKING:
    from .model import Distiller

# Where the state stands in the metadata of a state dict.
STATE = 'distill'
# Where `ResumeStateHook` puts the random states in a checkpoint.
RESUME = 'distill_resume'
# Children of the distiller whose state travels in the metadata.
PARTS = ('adapters', 'losses', 'balance')
# How many differences an error names, and how much of each, in characters.
LINES, WIDTH = 6, 80
# Arguments of a term that a resumed training may change.
_FREE = ('weight', 'schedule', 'share')


# -- writing and reading -----------------------------------------------------------


def attach_state_hooks(model: Distiller) -> None:
    """Make `model` write and read state dicts with the plain student's keys."""
    model._register_state_dict_hook(_write)
    model._register_load_state_dict_pre_hook(_read, with_module=True)


def without_distill_state(weights: Mapping[str, Any]) -> OrderedDict:
    """Return a state dict of a distiller without the state in its metadata."""
    plain = OrderedDict(weights)
    metadata = getattr(weights, '_metadata', None) or {}
    plain._metadata = OrderedDict(  # type: ignore[attr-defined]
        (path, {k: v for k, v in local.items() if k != STATE})
        for path, local in metadata.items()
    )
    return plain


def describe_settings(model: Distiller) -> dict[str, str]:
    """Describe what a resumed training must share and the plan does not say.

    These are the teachers' weights, and the arguments of the terms but for weight and
    schedule. Equal for configs that mean the same.
    """
    used = {n: t for n, t in model.teachers.items() if n in model.plan.taps}
    words = {f'teacher {n}': t.weights for n, t in used.items() if t.weights}
    for name, term in model.plan.terms.items():
        given = model.config.terms[name].arguments
        arguments = arguments_with_defaults(type(term.loss), given)
        words[f'term {name}'] = ', '.join(
            f'{key}={json.dumps(value, default=_name, sort_keys=True)}'
            for key, value in sorted(arguments.items())
            if key not in (*term.refs, *_FREE)
        )
    return words


def _name(value: Any) -> str:
    return getattr(value, '__name__', type(value).__name__)


def _write(
    model: Distiller, state: OrderedDict, prefix: str, local_metadata: dict
) -> OrderedDict:
    """State dict hook: leave the plain student's keys; put the rest into metadata."""
    own = _take(state, prefix)
    student = _below('student.', own)
    plain = dict(student)
    for branch in model.branches.values():
        branch.fold(plain)
    state.update({prefix + key: value for key, value in plain.items()})
    local_metadata[STATE] = {
        'plan': model.plan.describe(),
        'settings': describe_settings(model),
        'speeds': model.teachers.speeds,
        **{part: _on_cpu(_below(f'{part}.', own)) for part in PARTS},
        'branches': _on_cpu({k: v for k, v in student.items() if k not in plain}),
    }
    return state


def _read(
    model: Distiller, state: dict, prefix: str, local_metadata: dict, *_: Any
) -> None:
    """Load hook: the reverse, for plain students and for our own checkpoints.

    Without the state of the same plan, adapters stay as they are, and branches start
    anew beside the weights.
    """
    plain = _take(state, prefix)
    saved = local_metadata.get(STATE, {})
    same_plan = saved.get('plan') == model.plan.describe()
    branches = saved['branches'] if same_plan else {}
    beside = _belong_to_weights(model, branches, plain)
    for branch in model.branches.values():
        branch.unfold(plain)
    if beside:
        plain.update(branches)
    state.update({f'{prefix}student.{key}': value for key, value in plain.items()})
    # The preprocessor is the student's and ours: one module, by two names.
    shared = {k: v for k, v in plain.items() if k.startswith('data_preprocessor.')}
    state.update({prefix + key: value for key, value in shared.items()})
    for part in PARTS:
        if (module := getattr(model, part)) is not None:
            own = module.state_dict()
            values = saved.get(part, {}) if same_plan else own
            # Shares may be changed, as weights may; checkpoints of former versions
            # have no counts of classes.
            if part in ('balance', 'losses'):
                values = {key: values.get(key, value) for key, value in own.items()}
            state.update({f'{prefix}{part}.{k}': v for k, v in values.items()})


def _belong_to_weights(
    model: Distiller, branches: Mapping[str, Tensor], plain: Mapping[str, Tensor]
) -> bool:
    """Return whether the saved branches are to be loaded beside the weights.

    They are not where the weights are others than those the branches were folded into
    (an averaged student's, say), and not in an averaged copy, where nothing is
    trained: it stays folded, so that averaging its state dict averages the weights.
    """
    if not any(p.requires_grad for p in model.student.parameters()):
        return False
    folded = dict(branches)
    for branch in model.branches.values():
        branch.fold(folded)
    return all(
        key in plain and torch.equal(value.to(plain[key]), plain[key])
        for key, value in folded.items()
    )


def _take(state: dict, prefix: str) -> dict[str, Tensor]:
    """Remove all keys under `prefix` from `state`; return them without it."""
    keys = [key for key in state if key.startswith(prefix)]
    return {key.removeprefix(prefix): state.pop(key) for key in keys}


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in state.items()}


# -- resuming ------------------------------------------------------------------------


def put_random_states(checkpoint: dict, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Put the random states of all ranks beside the weights."""
    checkpoint[RESUME] = dict(ranks=list(ranks))


def random_states_in(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the random states of all ranks; None if the checkpoint has none.

    Args:
        checkpoint: What the file holds.

    Raises:
        ResumeError: They are not what `ResumeStateHook` writes.
    """
    if RESUME not in checkpoint:
        return None
    _check_random_states(checkpoint[RESUME])
    return checkpoint[RESUME]['ranks']


def check_resumable(checkpoint: Mapping[str, Any], model: Distiller) -> dict[str, Any]:
    """Return the distillation state of a checkpoint, if `model` can resume from it.

    Args:
        checkpoint: What the file holds.
        model: The distiller of the training that is to be resumed.

    Raises:
        ResumeError: It was not written by a training like that of `model`.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    metadata = getattr(weights, '_metadata', None) or {}
    saved = metadata.get('', {}).get(STATE)
    if saved is None or RESUME not in checkpoint:
        raise ResumeError(
            'the checkpoint holds no distillation state: it is a plain student, or'
            ' was trained without ResumeStateHook',
            expected='a checkpoint that this training wrote (epoch_*.pth)',
            fix="load_from='...' without resume: start from its weights",
        )
    _check_complete(saved)
    _check_random_states(checkpoint[RESUME])
    # Checkpoints of former versions hold no settings.
    theirs = {**saved['plan'], **_as_settings(saved.get('settings') or {})}
    ours = model.plan.describe()
    if saved.get('settings'):
        ours |= _as_settings(describe_settings(model))
    if theirs != ours:
        raise ResumeError(
            'the checkpoint is of another distillation plan:\n'
            + '\n'.join(_differences(theirs, ours, model.plan.off)),
            fix='the config it was trained with; or load_from without resume, to'
            ' start from its weights',
        )
    if 'optimizer' not in checkpoint:
        raise ResumeError(
            'the checkpoint has no optimizer state: best_*.pth cannot be resumed',
            expected='epoch_*.pth (work_dir/last_checkpoint names the last)',
            fix="load_from='...' without resume: start from its weights",
        )
    return saved


def check_saved_values(saved: Mapping[str, Any], model: Distiller, where: str) -> None:
    """Raise unless the saved adapters and losses have finite values.

    Args:
        saved: What `check_resumable` returned.
        model: The distiller.
        where: What the checkpoint is, for messages.

    Raises:
        ResumeError: A value is not finite, or of another type.
    """
    for part in ('adapters', 'losses'):
        own = getattr(model, part).state_dict()
        check_weight_values(saved[part], own, f'{where}, {part}', ResumeError)


def _check_complete(saved: Any) -> None:
    """Raise unless the distillation state has what this version writes."""
    parts = ('plan', 'adapters', 'losses', 'branches')
    if not isinstance(saved, Mapping) or not all(
        isinstance(saved.get(part), Mapping) for part in parts
    ):
        raise _damaged('distillation state')


def _check_random_states(resume: Any) -> None:
    """Raise unless there are random states of processes."""
    ranks = resume.get('ranks') if isinstance(resume, Mapping) else None
    if not isinstance(ranks, list) or not all(map(_is_rank_state, ranks)):
        raise _damaged('random states')


def _is_rank_state(rank: Any) -> bool:
    """Return whether a process can be restored from it."""
    if not isinstance(rank, Mapping) or not is_random_state(rank.get('random')):
        return False
    seed = rank.get('sampler_seed', '')  # which is None for samplers without one
    return (seed is None or is_integer(seed)) and all(
        isinstance(rank.get(part) or {}, Mapping)
        for part in ('buffers', 'modules', 'transforms')
    )


def _damaged(part: str) -> ResumeError:
    return ResumeError(
        f'the {part} in the checkpoint is not what ResumeStateHook writes',
        fix='another checkpoint of that training',
    )


def _as_settings(settings: Mapping[str, str]) -> dict[str, str]:
    return {f'settings of {part}': words for part, words in settings.items()}


def _differences(
    saved: Mapping[str, str], ours: Mapping[str, str], off: Sequence[str]
) -> list[str]:
    """Return a line for each part that differs, the important ones first."""
    parts = [p for p in dict.fromkeys([*saved, *ours]) if saved.get(p) != ours.get(p)]
    # A missing term also lacks its settings, its taps and its adapter.
    of_terms = [p for p in parts if 'term ' in p or p.startswith('settings')]
    if of_terms:
        parts = of_terms + [p for p in parts if p in saved and p in ours]
    lines = []
    for part in dict.fromkeys(parts):
        theirs, own = saved.get(part, 'none'), ours.get(part, 'none')
        if part in off:
            lines.append(
                f'  {part} has weight 0, which takes it out of the plan; a small'
                ' weight (1e-9) keeps it in'
            )
        elif not part.startswith('settings of ') or 'none' not in (theirs, own):
            theirs, own = _shortened(theirs, own)
            lines.append(f'  {part}: checkpoint has {theirs}; config has {own}')
    rest = len(lines) - LINES
    return lines[:LINES] + ([f'  and {rest} more'] if rest > 0 else [])


def _shortened(first: str, second: str) -> list[str]:
    """Return the part of two texts where they differ."""
    same = len(commonprefix([first, second]))
    start = 0 if max(len(first), len(second)) <= WIDTH else max(same - 20, 0)
    ends = (text[start : start + WIDTH] for text in (first, second))
    return [
        ('...' if start else '') + end + ('...' if len(text) > start + WIDTH else '')
        for text, end in zip((first, second), ends)
    ]
