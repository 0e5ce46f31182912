"""Everything that would stop a later training of a chain is found before the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_images
from chains import RECIPE, chain, member, write_chain
from mkd_det.errors import ConfigError, MkdError
from mkd_det.experiments.chain.chain import read_chain
from mkd_det.experiments.chain.checks import check_classes_agree, warn_of_order
from mkd_det.experiments.chain.run import run_chain


def refuse(files: Path) -> MkdError:
    """The error of the chain; nothing was trained."""
    with pytest.raises(MkdError) as caught:
        run_chain(str(files / 'chain.py'), files / 'work')
    assert not (files / 'work' / 't').exists()
    return caught.value


def test_a_checkpoint_of_another_model(files: Path) -> None:
    other = tiny_images.build(tiny_images.classifier(base_channels=4))
    torch.save(dict(state_dict=other.state_dict()), files / 'a.pth')
    stages = [member('a', checkpoint=str(files / 'a.pth')), member('s')]
    write_chain(files, stages=stages)
    error = refuse(files)
    assert error.message.startswith('chain: a: ') and 'a.pth' in error.message


def test_a_checkpoint_that_is_missing(files: Path) -> None:
    write_chain(files, root=member('t', checkpoint=str(files / 'gone.pth')))
    assert 'does not exist' in refuse(files).message


def test_a_term_that_does_not_fit_a_later_stage(files: Path) -> None:
    recipe = {**RECIPE, 'taps': dict(logits='haed')}
    write_chain(files, stages=[member('a'), member('s', recipe=recipe)])
    assert 'haed' in str(refuse(files))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        pytest.param(
            {'optim_wrapper.type': 'AmpOptimWrapper'},
            'needs a GPU',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is one'),
        ),
        ({'default_hooks.checkpoint': None}, 'checkpoint hook'),
        ({'val_evaluator.topk': (2,)}, 'different metrics'),
        ({'train_cfg.max_epochs': None}, 'how long it trains'),
        ({'train_cfg.max_epochs': 0}, 'chain: s: train_cfg: max_epochs'),
        ({'param_scheduler': [dict(type='StpLR')]}, 'chain: s: param_scheduler'),
        ({'default_hooks.logger.interval': 'x'}, 'chain: s: default_hooks.logger'),
        ({'randomness.seed': -1}, 'chain: s: randomness'),
    ],
)
def test_options_that_would_stop_a_later_stage(
    options: dict[str, Any], message: str, files: Path
) -> None:
    write_chain(files, stages=[member('a'), member('s', options=options)])
    assert message in refuse(files).message


def test_a_metric_that_is_not_measured(files: Path) -> None:
    write_chain(files, metric='accuracy/top9')
    assert 'accuracy/top1' in refuse(files).available


def test_a_checkpoint_that_the_chain_would_overwrite(files: Path) -> None:
    (files / 'work').mkdir()
    (files / 'also').symlink_to(files / 'work')
    for folder in ('work', 'also'):
        root = member('t', checkpoint=str(files / folder / 'students' / 't.pth'))
        write_chain(files, root=root)
        assert 'where this chain writes' in refuse(files).message


def test_members_with_different_classes() -> None:
    check_classes_agree(dict(t=('a', 'b'), u=None, s=('a', 'b')))
    with pytest.raises(ConfigError, match='s is trained on other classes') as caught:
        check_classes_agree(dict(t=('a', 'b'), u=None, s=('b', 'a')))
    assert (caught.value.expected, caught.value.actual) == (('a', 'b'), ('b', 'a'))


def test_members_that_are_larger_than_their_guides_are_named(
    capsys: pytest.CaptureFixture,
) -> None:
    cfg = read_chain(chain('t', 'a', 's'))
    warn_of_order(cfg, dict(t=30, a=10, s=20))
    assert 's (0.00 M parameters) is larger than a' in capsys.readouterr().out
    warn_of_order(cfg, dict(t=30, a=20, s=10))
    assert capsys.readouterr().out == ''
