"""What mmengine's FlexibleRunner may do with a distiller."""

from __future__ import annotations

import pytest
from mmengine.config import Config

import tiny
from mkd_det.errors import ConfigError
from mkd_det.preflight.strategies import check_strategy
from tooling import distiller_cfg


@pytest.mark.parametrize(
    'strategy',
    ['FSDPStrategy', dict(type='DeepSpeedStrategy'), dict(type='ColossalAIStrategy')],
)
def test_a_strategy_that_cuts_the_student_is_refused(strategy: str | dict) -> None:
    cfg = Config(dict(model=distiller_cfg(None), strategy=strategy))
    with pytest.raises(ConfigError) as caught:
        check_strategy(cfg)
    assert 'the plain student' in caught.value.message
    assert 'dist_train.sh' in caught.value.fix


@pytest.mark.parametrize('strategy', [None, dict(type='DDPStrategy'), 'DDPStrategy'])
def test_other_strategies_are_not(strategy: str | dict | None) -> None:
    check_strategy(Config(dict(model=distiller_cfg(None), strategy=strategy)))


def test_a_plain_model_may_be_cut() -> None:
    check_strategy(Config(dict(model=tiny.gfl(), strategy=dict(type='FSDPStrategy'))))
