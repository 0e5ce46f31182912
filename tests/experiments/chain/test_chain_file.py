"""Chain files: what they accept and refuse."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from chains import RECIPE, chain, member, with_stage
from mkd_det.errors import ConfigError
from mkd_det.experiments.chain.chain_file import (
    ChainConfig,
    ChainSamplingConfig,
    MemberConfig,
    StageConfig,
)
from mkd_det.parsing import documented


@pytest.mark.parametrize(
    'cls', [ChainConfig, ChainSamplingConfig, MemberConfig, StageConfig]
)
def test_every_key_is_documented(cls: type) -> None:
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    assert sorted(documented(cls)) == sorted(names)


def test_a_chain_file_is_typed() -> None:
    config = ChainConfig.parse(
        chain('t', 's', sampling=dict(keep_prob=0.5), needs=dict(levels=3))
    )
    assert config.stages[0] == StageConfig(name='s', cfg='s.py')
    assert config.sampling == ChainSamplingConfig(keep_prob=0.5)
    assert (config.guides, config.lam, config.ce_scale) == ('dense', 0.5, True)


GROUPS = [
    member('a', parallel='g'),
    member('b'),
    member('c', parallel='g'),
    member('s'),
]


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (chain('t'), '`stages` is empty'),
        (dict(root=member('t')), '`stages` is missing'),
        (chain('t', 's', root=None), 'root'),
        (chain('t', 'a', 'a'), "are called 'a'"),
        (chain('t', 't'), "are called 't'"),
        (chain('t', 's', stage=[]), "unknown key 'stage'"),
        (chain('t', 's', options=['lr']), 'options must be a dict'),
        (chain('t', 's', lam=2), 'lam must be'),
        (chain('t', 's', stages=GROUPS), 'other stages stand between'),
        (with_stage(guides=[]), 'guides is empty'),
        (with_stage(guides='all'), 'unknown guides'),
        (with_stage(lam=0), 'lam must be'),
        (with_stage(lam=1.5), 'lam must be'),
        (with_stage(ce_scale=2), 'ce_scale must be'),
        (with_stage(name='two words'), 'cannot be the name of a teacher'),
        (with_stage(name='students'), 'reserved'),
        (with_stage(cfg=None), 'cfg must be a string'),
        (with_stage(cfg=''), 'cfg is empty'),
        (with_stage(temperature=3), "unknown key 'temperature'"),
        (with_stage(teacher=dict(speeed='fast')), "teacher: unknown key 'speeed'"),
        (with_stage(teacher=dict(speed='faster')), 'teacher: unknown speed'),
        (with_stage(teacher=dict(prune=0.5)), 'cannot be set in a chain'),
        (with_stage(teacher=dict(prefix='net.')), 'there is none'),
        (with_stage(sampling=dict(keep_prob=0)), 'keep_prob must be'),
        (with_stage(sampling=[0.5]), 'sampling must be a dict'),
    ],
)
def test_a_chain_file_that_is_refused(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match='chain: ') as caught:
        ChainConfig.parse(cfg)
    assert message in caught.value.message


def test_an_error_says_where_and_what_to_write() -> None:
    with pytest.raises(ConfigError) as caught:
        ChainConfig.parse(with_stage(recipes=RECIPE))
    assert caught.value.message == "chain: stages[1]: unknown key 'recipes'"
    assert caught.value.available[0] == 'recipe'
