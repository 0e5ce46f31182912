"""Who guides whom in a chain."""

from __future__ import annotations

from typing import Any

import pytest

from chains import RECIPE, SOFT, chain, with_stage
from mkd_det.errors import ConfigError
from mkd_det.experiments.chain.chain import read_chain


def guides(cfg: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {member.name: member.guides for member in read_chain(cfg).members}


def test_dense_guides_are_all_members_before() -> None:
    assert guides(chain('t', 'a', 'b', 's')) == {
        't': (),
        'a': ('t',),
        'b': ('t', 'a'),
        's': ('t', 'a', 'b'),
    }


def test_the_previous_guide_is_the_one_before() -> None:
    found = guides(chain('t', 'a', 'b', 's', guides='previous'))
    assert found == {'t': (), 'a': ('t',), 'b': ('a',), 's': ('b',)}


def test_a_stage_may_name_its_guides() -> None:
    assert guides(with_stage(guides=['a']))['s'] == ('a',)
    assert guides(with_stage(guides=['a', 't']))['s'] == ('t', 'a')  # in order


@pytest.mark.parametrize('kind', ['dense', 'previous'])
def test_parallel_assistants_do_not_guide_each_other(kind: str) -> None:
    cfg = chain('t', 'a', 'b', 's', guides=kind)
    for stage in cfg['stages'][:2]:
        stage['parallel'] = 'g'
    found = guides(cfg)
    assert found['a'] == found['b'] == ('t',)
    assert found['s'] == (('t', 'a', 'b') if kind == 'dense' else ('a', 'b'))
    groups = [[member.name for member in group] for group in read_chain(cfg).groups()]
    assert groups == [['t'], ['a', 'b'], ['s']]


def test_a_given_assistant_guides_and_is_not_guided() -> None:
    cfg = chain('t', 'a', 's')
    cfg['stages'][0]['checkpoint'] = 'a.pth'
    assert guides(cfg) == {'t': (), 'a': (), 's': ('t', 'a')}


def test_the_chains_sampling_is_for_the_last_stage() -> None:
    cfg = chain('t', 'a', 'b', 's', sampling=dict(keep_prob=0.75, drop_teacher=False))
    found = {member.name: member.sampling for member in read_chain(cfg).members}
    assert found == {'t': {}, 'a': {}, 'b': {}, 's': dict(keep_prob=0.75, always=['t'])}
    cfg['stages'][1]['sampling'] = dict(drop_exact=1)
    assert read_chain(cfg)['b'].sampling == dict(drop_exact=1)


def test_a_stages_own_keys_come_over_the_chains() -> None:
    cfg = chain('t', 'a', 's', options={'lr': 1, 'epochs': 2}, lam=0.25, ce_scale=False)
    cfg['stages'][0].update(options={'lr': 3}, lam=1, ce_scale=True)
    t, a, s = read_chain(cfg).members
    assert a.options == {'lr': 3, 'epochs': 2}
    assert t.options == s.options == {'lr': 1, 'epochs': 2}
    assert (a.lam, a.ce_scale) == (1, True) and (s.lam, s.ce_scale) == (0.25, False)


def recipe_with(**term: Any) -> dict[str, Any]:
    return with_stage(recipe={**RECIPE, 'terms': dict(loss_soft=SOFT | term)})


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (with_stage(guides=['nobody']), 'is not in the chain'),
        (with_stage(guides=['nobody'], checkpoint='a.pth'), 'is not in the chain'),
        (with_stage(guides=['s']), 'a cycle'),
        (with_stage(sampling=dict(drop_exact=2)), 'at least one'),
        (with_stage(sampling=dict(drop_exact=2, drop_teacher=False)), 'at least one'),
        (with_stage(recipe={}), 'recipe: no term reads a teacher'),
        (recipe_with(weight='2.0'), 'its weight must be a number'),
        (with_stage(recipe={**RECIPE, 'sampling': {}}), 'unknown key'),
    ],
)
def test_a_chain_that_cannot_be_trained(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_chain(cfg)
    assert caught.value.message.startswith('chain: s: ')
    assert message in caught.value.message


def test_a_guide_that_comes_later_is_a_cycle() -> None:
    cfg = chain('t', 'a', 's')
    cfg['stages'][0]['guides'] = ['s']
    with pytest.raises(ConfigError, match='a cycle') as caught:
        read_chain(cfg)
    assert 's before a' in caught.value.fix
    assert caught.value.available == ('t',)
