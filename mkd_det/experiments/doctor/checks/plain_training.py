"""With all weights 0, training must be plain training, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from ....io.random_state import random_state, set_random_state
from ....training.runtime import build_model
from ....training.student_config import student_config
from ..examination import Examination
from ..finding import OK, WRONG, Finding
from ..steps import set_progress

POSITION = 100
SLOW = True
STEPS = 3


def check(case: Examination) -> list[Finding]:
    """Train the student some steps alone, and as a distiller that is switched off."""
    start = {k: v.detach().clone() for k, v in case.model.state_dict().items()}
    off = build_model(switched_off(case.cfg))
    plain = build_model(student_config(case.cfg))
    batches = list(islice(case.batch_copies(), STEPS))
    before = random_state()
    ends = []
    for model in (plain, off):
        set_random_state(before)
        own = model.state_dict()
        model.load_state_dict({k: v for k, v in start.items() if k in own})
        ends.append(_train(case, model.to(case.device).train(), deepcopy(batches)))
    differ = differences(*ends)
    if differ:
        return [
            Finding(
                'plain training',
                WRONG,
                f'with all weights 0, {len(differ)} tensors differ from plain training'
                f' after {STEPS} steps: {", ".join(differ[:3])}',
                'a data pipeline or model without random numbers or state of its own;'
                ' report it if the model is one of mmdet',
            )
        ]
    return [
        Finding(
            'plain training',
            OK,
            f'with all weights 0, {STEPS} steps are those of plain training, bit for'
            ' bit',
        )
    ]


def switched_off(cfg: Config) -> Config:
    """Return a config with all weights of its terms 0.

    Args:
        cfg: A distill config. It is not changed.
    """
    cfg = deepcopy(cfg)
    for term in (cfg.model.get('terms') or {}).values():
        term.weight = 0
    for key in ('balance', 'inherit', 'load_from'):
        cfg.model.pop(key, None)
    return cfg


def differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not equal, bit for bit."""
    return [
        key
        for key in dict.fromkeys([*one, *other])
        if key not in one
        or key not in other
        or not torch.equal(torch.nan_to_num(one[key]), torch.nan_to_num(other[key]))
    ]


def _train(case: Examination, model: Any, batches: list) -> dict[str, Tensor]:
    wrapper = case.optimizer(model)
    for iteration, batch in enumerate(batches):
        set_progress(case, iteration)
        model.train_step(batch, wrapper)
    return dict(model.state_dict())
