"""How much each term pulls: measured, logged, warned of, and held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hook_runs
import tiny
from mkd_det.balance import GradientShare, gradient_norms, shared_parameters
from mkd_det.errors import ConfigError

TERMS = dict(
    loss_attention=dict(type='AttentionKD', student='fpn', teacher='t.fpn'),
    loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'),
)


def test_norms_and_factors_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    other = nn.Parameter(torch.ones(()))
    losses = {
        'task': weight @ torch.tensor([3.0, 4.0]),  # norm 5
        'loss_a': weight.square().sum() / 2,  # norm 5
        'loss_b': weight[0] * 20 + other,  # norm 20
        'loss_c': other * 2,  # does not reach it
    }
    norms = gradient_norms(losses, [weight])
    assert {k: v.item() for k, v in norms.items()} == {
        'task': 5, 'loss_a': 5, 'loss_b': 20, 'loss_c': 0
    }  # fmt: skip
    assert weight.grad is None
    share = GradientShare(list(losses)[1:], dict(loss_a=0.5, loss_b=1.0, loss_c=1.0))
    assert share.factor('loss_a') is None
    share.measure(losses, [weight])
    assert share.factor('loss_a') == 0.5 and share.factor('loss_b') == 0.25
    assert share.factor('loss_c') is None and share.factor('loss_d') is None
    # Then slowly: 0.5^0.9 * 1^0.1.
    share.measure({**losses, 'loss_a': losses['loss_a'] / 2}, [weight])
    assert share.factor('loss_a').item() == pytest.approx(0.5**0.9, rel=1e-5)


def distiller(**more: Any) -> Any:
    parts: dict[str, Any] = dict(terms=TERMS, adapters={}, branches={})
    parts.update(more)
    return tiny.build(tiny.distiller(tiny.gfl(4, 8), tiny.gfl(8, 16), **parts))


def losses_of(model: Any) -> dict[str, Any]:
    return model(**model.data_preprocessor(tiny.batch(), True), mode='loss')


def shares_of(model: Any, losses: dict[str, Any]) -> dict[str, float]:
    parameters = shared_parameters(model.student, 'backbone')
    norms = gradient_norms(model.totals(losses), parameters)
    task = norms.pop('task')
    return {name: (norm / task).item() for name, norm in norms.items()}


def test_terms_come_to_their_share_whatever_their_weight() -> None:
    wanted = dict(loss_attention=0.5, loss_soft=2.0)
    for weight in (1e-3, 100.0):
        terms = {name: {**term, 'weight': weight} for name, term in TERMS.items()}
        model = distiller(
            balance=dict(type='GradientShare', shares=wanted, interval=1), terms=terms
        )
        losses = losses_of(model)
        assert shares_of(model, losses) == pytest.approx(wanted, rel=1e-3)
        assert losses['stat_loss_soft_factor'] > 0


def test_terms_without_a_share_keep_their_weight() -> None:
    plain = losses_of(distiller())
    shares = dict(loss_soft=1.0)
    held = losses_of(distiller(balance=dict(type='GradientShare', shares=shares)))
    assert torch.equal(held['loss_attention'], plain['loss_attention'])
    assert not torch.equal(held['loss_soft_cls'], plain['loss_soft_cls'])
    assert 'stat_loss_attention_factor' not in held


def test_factors_travel_with_the_training_and_not_with_the_student(
    tmp_path: Path,
) -> None:
    balance = dict(type='GradientShare', shares=1.0)
    model = distiller(balance=balance)
    losses_of(model)
    factors = model.balance.factors.clone()
    assert (factors > 0).all()
    state = model.state_dict()
    assert list(state) == list(tiny.build(tiny.gfl(4, 8)).state_dict())
    torch.save(state, tmp_path / 'a.pth')
    again = distiller(balance=balance)
    again.load_state_dict(torch.load(tmp_path / 'a.pth'))
    assert torch.equal(again.balance.factors, factors)
    # Other shares begin anew, and so does a training without.
    other = distiller(balance=dict(type='GradientShare', shares=dict(loss_soft=1.0)))
    other.load_state_dict(torch.load(tmp_path / 'a.pth'))
    assert other.balance.factors.tolist() == [0.0]
    distiller().load_state_dict(torch.load(tmp_path / 'a.pth'))


def test_a_validation_loss_measures_nothing() -> None:
    model = distiller(balance=dict(type='GradientShare', shares=1.0))
    with torch.no_grad():
        losses_of(model)
    assert not model.balance.factors.any()


@pytest.mark.parametrize(
    'given, words',
    [
        (dict(shares=dict(loss_sfot=1.0)), 'loss_soft'),
        (dict(shares=0.0), 'above 0'),
        (dict(shares=1.0, interval=0), 'interval'),
        (dict(shares=1.0, momentum=1.0), 'momentum'),
        (dict(shares=1.0, on='bakcbone'), 'backbone'),
        (dict(), 'shares'),
        (dict(type='GradNorm', shares=1.0), 'GradientShare'),
    ],
)
def test_bad_settings_are_told(given: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        distiller(balance={'type': 'GradientShare', **given})
    assert words in str(caught.value)


def test_losses_are_told_apart() -> None:
    model = tiny.build(tiny.distiller(tiny.gfl(4, 8), tiny.gfl(8, 16)))
    losses = losses_of(model)
    found = {name: model.plan.part_of(name) for name in losses if 'loss' in name}
    assert found['loss_cls'] == found['loss_dfl'] == 'task'
    assert found['loss_soft_cls'] == 'loss_soft'
    assert {v for k, v in found.items() if k.startswith('loss_guide')} == {'guide'}
    totals = model.totals(losses)
    whole, _ = model.parse_losses(losses)
    torch.testing.assert_close(torch.stack(list(totals.values())).sum(), whole)


# -- the hook -------------------------------------------------------------------


def test_shares_are_logged_and_what_drowns_is_warned_of_once(tmp_path: Path) -> None:
    terms = dict(
        loss_attention=dict(
            type='AttentionKD', student='fpn', teacher='t.fpn', weight=1e6
        )
    )
    cfg = hook_runs.distill_cfg(tmp_path, val=False, images=8, terms=terms)
    cfg.custom_hooks = [dict(type='GradientShareHook', interval=2)]
    runner = hook_runs.build(cfg, 'shares')
    warned: list[str] = []
    runner.logger.warning = lambda text, *_: warned.append(str(text))
    runner.train()
    assert runner.iter == 4
    drowned = [text for text in warned if 'loss_attention drowns the task' in text]
    assert len(drowned) == 1 and 'balance=dict' in drowned[0]
    known = runner.message_hub.get_scalar('train/stat_share_loss_attention')
    assert known.data[0].size == 2 and known.current() > 10


def test_a_hook_on_nothing_is_refused_before_the_first_step(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False, images=2)
    cfg.custom_hooks = [dict(type='GradientShareHook', on='head')]
    runner = hook_runs.build(cfg, 'nothing')
    with pytest.raises(ConfigError, match='no module of the student'):
        runner.train()
    with pytest.raises(ConfigError, match='interval'):
        cfg.custom_hooks = [dict(type='GradientShareHook', interval=0)]
        hook_runs.build(cfg, 'never')
