"""How much each term pulls: measured, logged, warned of, and held."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

import hook_runs
import tiny
from mkd_det.distiller.losses import StepLosses
from mkd_det.errors import ConfigError
from mkd_det.registry import BALANCES
from mkd_det.weighting import gradient_share
from mkd_det.weighting.gradient_share import (
    GradientShare,
    counted_module,
    gradient_norms,
    shared_parameters,
)
from mkd_det.weighting.schedules import Progress

TERMS = dict(
    loss_attention=dict(type='AttentionKD', student='fpn', teacher='t.fpn'),
    loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'),
)


WEIGHT = nn.Parameter(torch.tensor([3.0, 4.0]))


def square() -> torch.Tensor:
    return WEIGHT.square().sum() / 2


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
    assert share.is_due(1, ['task', 'loss_a']) and not share.factors()['loss_a']
    share.measure(losses, [weight])
    found = {name: value.item() for name, value in share.factors().items()}
    assert found == pytest.approx({'loss_a': 0.5, 'loss_b': 0.25, 'loss_c': 0.0})
    # A training that goes on measures when it would have without the stop.
    again = GradientShare(list(share.shares), share.shares)
    again.load_state_dict(share.state_dict())
    assert again.is_due(800, losses) and not again.is_due(801, losses)
    assert again.factors() == share.factors()
    # Of two measurements, 0.5 and 1, the first counts 0.3 of the second.
    share.measure({**losses, 'loss_a': losses['loss_a'] / 2}, [weight])
    second = 0.5 ** (0.3 / 1.3)
    assert share.factors()['loss_a'].item() == pytest.approx(second, rel=1e-5)
    # What is not finite tells nothing.
    share.measure({**losses, 'loss_a': losses['loss_a'] * torch.inf}, [weight])
    assert share.factors()['loss_a'].item() == pytest.approx(second, rel=1e-5)
    # Of three, 0.5, 1 and 2: 0.09, 0.3 and 1 of 1.39.
    share.measure({**losses, 'loss_a': losses['loss_a'] / 4}, [weight])
    third = 0.5 ** (0.09 / 1.39) * 2 ** (1 / 1.39)
    assert share.factors()['loss_a'].item() == pytest.approx(third, rel=1e-5)


def test_pauses_grow_with_the_training() -> None:
    share = GradientShare(['loss_a'], 1.0, interval=50)
    share.measure({'task': square(), 'loss_a': square()}, [WEIGHT])
    due = [i for i in range(700) if share.is_due(i, ['loss_a'])]
    assert due[:22] == [*range(16), 16, 18, 20, 22, 24, 26]
    assert due[-12:] == [240, 256, 288, 320, 352, 384, 416, 448, 480, 550, 600, 650]
    often = GradientShare(['loss_a'], 1.0, interval=2)
    often.measure({'task': square(), 'loss_a': square()}, [WEIGHT])
    assert [i for i in range(100, 106) if often.is_due(i, ['loss_a'])] == [
        100,
        102,
        104,
    ]


def distiller(**more: Any) -> Any:
    parts: dict[str, Any] = dict(terms=TERMS, adapters={}, branches={})
    parts.update(more)
    return tiny.build(tiny.distiller(tiny.gfl(4, 8), tiny.gfl(8, 16), **parts))


def losses_of(model: Any) -> StepLosses:
    return model(**model.data_preprocessor(tiny.batch(), True), mode='loss')


def shares_of(model: Any, losses: StepLosses) -> dict[str, float]:
    parameters = shared_parameters(model.student, 'backbone')
    norms = gradient_norms(losses.totals(), parameters)
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


def freeze(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def test_a_frozen_backbone_leaves_the_measuring_to_the_neck() -> None:
    student: Any = tiny.build(tiny.gfl(4, 8))
    assert counted_module(student, 'backbone') == 'backbone'
    freeze(student.backbone)
    found = shared_parameters(student, 'backbone')
    assert {id(p) for p in found} == {id(p) for p in student.neck.parameters()}
    freeze(student.neck)
    assert counted_module(student, 'backbone') == ''
    trained = {id(p) for p in student.bbox_head.parameters() if p.requires_grad}
    assert {id(p) for p in shared_parameters(student, 'backbone')} == trained
    with pytest.raises(ConfigError) as caught:
        shared_parameters(student, 'neck')  # asked for, and not a default
    assert "on='bbox_head'" in caught.value.fix
    assert 'calibrate --on bbox_head' in caught.value.fix
    assert 'distill --no-calibrate' in caught.value.fix
    freeze(student)
    with pytest.raises(ConfigError) as caught:
        shared_parameters(student, 'backbone')
    assert 'freezes all' in caught.value.fix


def test_terms_of_a_student_with_a_frozen_backbone_come_to_their_share() -> None:
    balance = dict(type='GradientShare', shares=1.0)
    parts = dict(terms=TERMS, adapters={}, branches={}, balance=balance)
    small = tiny.gfl(4, 8)
    small['backbone']['frozen_stages'] = 4
    model: Any = tiny.build(tiny.distiller(small, tiny.gfl(8, 16), **parts))
    freeze(model.student.backbone)
    losses_of(model.train())
    assert all(factor > 0 for factor in model.balance.factors().values())


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
    factors = model.balance.factors()
    assert all(value > 0 for value in factors.values())
    state = model.state_dict()
    assert list(state) == list(tiny.build(tiny.gfl(4, 8)).state_dict())
    torch.save(state, tmp_path / 'a.pth')
    again = distiller(balance=balance)
    again.load_state_dict(torch.load(tmp_path / 'a.pth'))
    assert again.balance.factors() == factors
    # Between two measurements, it goes on with them as a run that was not stopped.
    again.balance.loss_soft.fill_(123.0)  # not what would be measured here
    MessageHub.get_current_instance().update_info('iter', 17)
    losses_of(again)
    assert again.balance.factors() == {**factors, 'loss_soft': 123.0}
    MessageHub.get_current_instance().update_info('iter', 0)
    # By name, whatever their order, and as far as they are there.
    turned = dict.fromkeys(reversed(list(factors)), 1.0)
    for shares in (turned, dict(loss_soft=1.0)):
        other = distiller(balance=dict(type='GradientShare', shares=shares))
        other.load_state_dict(torch.load(tmp_path / 'a.pth'))
        assert other.balance.factors() == {name: factors[name] for name in shares}
    distiller().load_state_dict(torch.load(tmp_path / 'a.pth'))


@pytest.mark.parametrize('shares', [{}, dict(loss_soft='0.5'), dict(loss_soft=-1)])
def test_shares_that_say_nothing_are_told(shares: dict) -> None:
    with pytest.raises(ConfigError, match='share') as caught:
        distiller(balance=dict(type='GradientShare', shares=shares))
    assert 'shares=dict(loss_soft=0.5)' in caught.value.fix


def test_a_validation_loss_measures_nothing() -> None:
    model = distiller(balance=dict(type='GradientShare', shares=1.0))
    with torch.no_grad():
        losses_of(model)
    assert not any(model.balance.factors().values())


def test_statistics_are_logged_and_not_added_up() -> None:
    model = distiller(balance=dict(type='GradientShare', shares=1e6))
    losses = losses_of(model)
    total, logged = model.parse_losses(losses)
    names = {name for name in losses if name.startswith('stat_')}
    assert names == {'stat_loss_attention_factor', 'stat_loss_soft_factor'}
    assert names < set(logged)
    torch.testing.assert_close(torch.stack(list(losses.totals().values())).sum(), total)
    assert total == logged['loss']


@pytest.mark.parametrize('iteration', [0, 49, 150])
def test_a_schedule_stays_what_it_is(iteration: int) -> None:
    shares = dict(loss_attention=50.0)
    schedule = dict(warmup_iters=100)
    terms = {'loss_attention': {**TERMS['loss_attention'], 'schedule': schedule}}
    balance = dict(type='GradientShare', shares=shares, momentum=0.0)
    model = distiller(balance=balance, terms=terms)
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 1000)
    hub.update_info('iter', iteration)
    losses = losses_of(model)
    risen = model.plan.terms['loss_attention'].loss.schedule.factor(Progress.now())
    assert shares_of(model, losses)['loss_attention'] == pytest.approx(
        50 * risen, rel=1e-3
    )


def test_a_teacher_that_comes_late_is_measured_when_it_comes() -> None:
    terms = {
        'loss_a': {**TERMS['loss_attention'], 'weight': 1e4},
        'loss_b': {**TERMS['loss_attention'], 'weight': 1e4, 'teacher': 'u.fpn'},
    }
    teachers = {n: dict(cfg=tiny.gfl(8, 16), checkpoint=None) for n in ('t', 'u')}
    model = distiller(
        terms=terms,
        teachers=teachers,
        sampling=dict(drop_exact=1),
        balance=dict(type='GradientShare', shares=1.0),
    )
    hub, seen = MessageHub.get_current_instance(), set()
    for iteration in range(8):
        hub.update_info('iter', iteration)
        shares = shares_of(model, losses_of(model))
        assert list(shares.values()) == [pytest.approx(1, rel=1e-3)]
        seen |= set(shares)
    assert seen == set(terms)


def test_what_float16_would_lose_is_found() -> None:
    weight = nn.Parameter(torch.full((200_000,), 0.002))
    norms = gradient_norms(
        {
            'half': weight.half().float().square().mean(),
            'whole': weight.square().mean(),
        },
        [weight],
    )
    assert norms['whole'] > 0
    torch.testing.assert_close(norms['half'], norms['whole'], rtol=0.01, atol=0)


def test_a_graph_that_cannot_be_gone_through_twice_is_told() -> None:
    student = tiny.gfl(4, 8)
    student['backbone'] = {**student['backbone'], 'with_cp': True}
    cfg = tiny.distiller(student, tiny.gfl(8, 16), terms=TERMS, adapters={})
    cfg.update(branches={}, balance=dict(type='GradientShare', shares=1.0))
    model = tiny.build(cfg).train()
    with pytest.raises(ConfigError, match='cannot be measured') as caught:
        losses_of(model)
    assert 'with_cp=False' in str(caught.value)


def test_terms_that_are_off_need_no_share() -> None:
    terms = {**TERMS, 'loss_soft': {**TERMS['loss_soft'], 'weight': 0}}
    shares = dict(loss_soft=1.0, loss_attention=1.0)
    model = distiller(terms=terms, balance=dict(type='GradientShare', shares=shares))
    assert 'stat_loss_attention_factor' in losses_of(model)


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
    assert {'loss_cls', 'loss_dfl'} & set(losses.origins) == set()
    assert losses.origins['loss_soft_cls'] == 'loss_soft'
    found = {v for k, v in losses.origins.items() if k.startswith('loss_guide')}
    assert found == {'guide'}
    totals = losses.totals()
    whole, _ = model.parse_losses(losses)
    torch.testing.assert_close(torch.stack(list(totals.values())).sum(), whole)


def test_a_new_balance_is_one_file(root: Path) -> None:
    """All files of the room are imported; no list has to name them."""
    files = (root / 'mkd_det' / 'weighting').glob('*.py')
    names = {f'mkd_det.weighting.{file.stem}' for file in files} - {
        'mkd_det.weighting.__init__'
    }
    assert names <= set(sys.modules)
    assert BALANCES.module_dict['GradientShare'] is GradientShare


# -- the hook -------------------------------------------------------------------


def test_a_training_has_the_shares_that_are_asked(tmp_path: Path) -> None:
    """Measured by the hook, between the measurements of the balance as well.

    The share of attention falls by an order of magnitude in these iterations: held to
    what was measured in the first of them, it would have a third of what is asked.
    """
    stages = dict(student='stages', teacher='t.stages')
    terms = dict(
        loss_attention=dict(type='AttentionKD', **stages, share=3.0),
        loss_soft=dict(
            type='SoftOutputKD', student='head', teacher='t.head', share=1.0
        ),
    )
    balance = dict(type='GradientShare')
    cfg = hook_runs.distill_cfg(
        tmp_path, epochs=54, images=4, val=False, terms=terms, balance=balance
    )
    cfg.model.taps = dict(fpn='neck', stages='backbone', head='bbox_head')
    cfg.train_dataloader.batch_size = 4
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=1e-3)
    cfg.default_hooks.checkpoint = None
    cfg.custom_hooks = [dict(type='GradientShareHook', interval=3, low=0, high=1e9)]
    runner = hook_runs.build(cfg, 'held')
    runner.train()
    for name, share in dict(attention=3.0, soft=1.0).items():
        had = runner.message_hub.get_scalar(f'train/stat_share_{name}').data[0]
        later = torch.tensor(had[6:]) / share  # from iteration 18 on
        assert 0.7 < later.log().mean().exp() < 1.4, later
        assert 0.6 < later.median() < 1.6, later


def test_shares_are_logged_and_a_share_out_of_range_is_warned_of_once(
    tmp_path: Path,
) -> None:
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
    outweighed = [
        text for text in warned if 'loss_attention outweighs the task' in text
    ]
    assert len(outweighed) == 1 and 'balance=dict' in outweighed[0]
    known = runner.message_hub.get_scalar('train/stat_share_attention')
    assert known.data[0].size == 2 and known.current() > 10


def test_the_share_that_is_logged_is_the_one_that_was_measured(tmp_path: Path) -> None:
    fade = dict(warmup_iters=4)
    term = dict(type='AttentionKD', student='fpn', teacher='t.fpn', schedule=fade)
    cfg = hook_runs.distill_cfg(
        tmp_path, val=False, images=8, terms=dict(loss_attention=term)
    )
    cfg.custom_hooks = [dict(type='GradientShareHook', interval=1)]
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    runner = hook_runs.build(cfg, 'logged')
    runner.train()
    (file,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in file.read_text().splitlines()]
    told = [line['stat_share_attention'] for line in logged if 'loss' in line]
    measured = runner.message_hub.get_scalar('train/stat_share_attention').data[0]
    assert len(set(told)) > 1
    assert told == pytest.approx(list(measured))


def test_a_hook_on_nothing_is_refused_before_the_first_step(tmp_path: Path) -> None:
    cfg = hook_runs.distill_cfg(tmp_path, val=False, images=2)
    cfg.custom_hooks = [dict(type='GradientShareHook', on='head')]
    runner = hook_runs.build(cfg, 'nothing')
    with pytest.raises(ConfigError, match='no module of the student'):
        runner.train()
    with pytest.raises(ConfigError, match='interval'):
        cfg.custom_hooks = [dict(type='GradientShareHook', interval=0)]
        hook_runs.build(cfg, 'never')


def test_a_rank_without_a_loss_takes_part_in_the_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Images without labels have no task; each rank must call `all_reduce` as often."""
    gathered = [['loss_a'], ['task', 'loss_a']]
    reduced: list[Tensor] = []
    monkeypatch.setattr(gradient_share, 'get_world_size', lambda: 2)
    monkeypatch.setattr(gradient_share, 'all_gather_object', lambda _: gathered)
    monkeypatch.setattr(
        gradient_share, 'all_reduce', lambda norm, _: reduced.append(norm)
    )
    weight = torch.tensor([3.0], requires_grad=True)
    norms = gradient_norms({'loss_a': (2 * weight).sum()}, [weight])
    assert {name: float(norm) for name, norm in norms.items()} == {
        'loss_a': 2.0,
        'task': 0.0,
    }
    assert len(reduced) == 2
