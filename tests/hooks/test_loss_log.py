"""What is logged adds up to the total; what is off is not logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hook_runs
import tiny

STEPS = 12


def entries(cfg: Any, name: str) -> list[dict[str, float]]:
    """Train, and return what was logged, step by step."""
    cfg.default_hooks.loss_log = dict(type='LossLogHook')
    runner = hook_runs.build(cfg, name)
    runner.train()
    files = sorted(Path(cfg.work_dir).glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in files[-1].read_text().splitlines()]
    return [line for line in lines if 'loss' in line]


def parts(entry: dict[str, float]) -> dict[str, float]:
    return {
        name: value
        for name, value in entry.items()
        if 'loss' in name and name != 'loss' and not name.startswith('stat_')
    }


def term(weight: float = 1.0, **schedule: Any) -> dict[str, Any]:
    return dict(
        type='AttentionKD',
        student='fpn',
        teacher='t.fpn',
        weight=weight,
        schedule=schedule or None,
    )


def two_teachers(root: Path, **more: Any) -> Any:
    """A training of 12 steps with a term that ends, and sampled teachers."""
    wide = tiny.gfl(base_channels=8, neck=16)
    terms = dict(
        loss_stops=term(30.0, stop_iter=4),
        loss_decays=term(20.0, decay='linear', decay_iters=5),
        loss_stays=term(10.0),
        loss_u=term(10.0) | dict(teacher='u.fpn'),
    )
    cfg = hook_runs.distill_cfg(
        root, epochs=2, val=False, images=12, terms=terms, **more
    )
    cfg.model.teachers.u = dict(cfg=wide, checkpoint=None, speed='off')
    cfg.model.sampling = dict(keep_prob=0.4, seed=1, always=['t'])
    return cfg


@pytest.mark.parametrize('window', [1, 3, 20])
def test_the_logged_losses_add_up_to_the_total(tmp_path: Path, window: int) -> None:
    cfg = two_teachers(tmp_path)
    cfg.log_processor = dict(window_size=window)
    logged = entries(cfg, f'window {window}')
    assert len(logged) == STEPS
    for entry in logged:
        assert sum(parts(entry).values()) == pytest.approx(entry['loss'], rel=1e-5)
    shown = [set(parts(entry)) for entry in logged]
    last = min(4 + window - 1, STEPS)  # steps with the term in their window
    assert [('loss_stops' in names) for names in shown] == [
        step < last for step in range(STEPS)
    ]
    assert all('loss_stays' in names for names in shown)
    if window == 1:
        picked = ['loss_u' in names for names in shown]
        assert True in picked and False in picked, 'the teacher is sampled'


def test_a_resumed_run_logs_no_term_that_has_ended(tmp_path: Path) -> None:
    cfg = two_teachers(tmp_path)
    cfg.log_processor = dict(window_size=3)
    entries(cfg, 'first')
    cfg.resume, cfg.load_from = True, str(Path(cfg.work_dir, 'epoch_1.pth'))
    # The window of the checkpoint still has the term.
    cfg.model.terms.loss_stays.schedule = dict(stop_iter=6)
    logged = entries(cfg, 'resumed')[-STEPS // 2 :]  # both may write into one file
    for entry in logged:
        assert sum(parts(entry).values()) == pytest.approx(entry['loss'], rel=1e-5)
    assert ['loss_stays' in entry for entry in logged] == [True] * 2 + [False] * 4


def test_the_statistics_of_a_term_end_with_it(tmp_path: Path) -> None:
    cfg = two_teachers(tmp_path, balance=dict(type='GradientShare', shares=0.1))
    cfg.log_processor = dict(window_size=1)
    cfg.custom_hooks = [dict(type='GradientShareHook', interval=1)]
    logged = entries(cfg, 'statistics')
    for names in ('stat_loss_stops_factor', 'stat_share_stops'):
        assert [names in entry for entry in logged] == [step < 4 for step in range(12)]
    assert all('stat_loss_stays_factor' in entry for entry in logged)
