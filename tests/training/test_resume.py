"""A training resumes from its own checkpoint, or raises a typed error."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mkd_det.errors import ResumeError
from mkd_det.training.resume import check_resume, settle_resume


@pytest.fixture(scope='module')
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the checkpoint that mmengine saves after one step of a plain model."""
    from mmengine.optim import build_optim_wrapper

    model = tiny.build(tiny.gfl())
    wrapper = build_optim_wrapper(model, deepcopy(_cfg(Path()).optim_wrapper))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    wrapper.step()
    return dict(
        state_dict=model.state_dict(),
        optimizer=wrapper.state_dict(),
        meta=dict(epoch=1, iter=4),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
    )


def _cfg(root: Path) -> Any:
    cfg = tiny.runner_cfg(tiny.gfl(), root, root / 'run', epochs=3)
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)
    )
    cfg.resume, cfg.load_from = True, str(root / 'epoch_1.pth')
    return cfg


def _without(*keys: str) -> Callable[[dict, Any], None]:
    def spoil(content: dict, cfg: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return spoil


def _not_finite(content: dict, cfg: Any) -> None:
    content['state_dict']['backbone.conv1.weight'][0] = float('nan')


SPOILS: dict[str, tuple[Callable[[dict, Any], Any], str]] = {
    'no optimizer': (_without('optimizer'), 'no optimizer state'),
    'optimizer none': (lambda c, _: c.update(optimizer=None), 'it has no optimizer'),
    'no meta': (_without('meta'), 'it has no meta'),
    'no epoch': (_without('meta', 'epoch'), 'it has no meta.epoch'),
    'no message hub': (_without('message_hub'), 'it has no message_hub'),
    'empty message hub': (
        lambda c, _: c.update(message_hub={}),
        'it has no message_hub.log_scalars',
    ),
    'message hub of a list': (lambda c, _: c.update(message_hub=[1]), 'message_hub'),
    'meta of a list': (lambda c, _: c.update(meta=['epoch']), 'meta is'),
    'epoch in words': (lambda c, _: c['meta'].update(epoch='one'), 'meta.epoch is'),
    'seed in words': (lambda c, _: c['meta'].update(seed='one'), 'meta.seed is'),
    'schedulers in words': (
        lambda c, _: c.update(param_schedulers='all'),
        'param_schedulers is',
    ),
    'not finite': (_not_finite, 'backbone.conv1.weight is not finite'),
    'another model': (
        _without('state_dict', 'backbone.conv1.weight'),
        'of another model',
    ),
    'another optimizer': (
        lambda _, cfg: cfg.merge_from_dict(
            {'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=0.1)}
        ),
        'dampening, momentum, nesterov',
    ),
    'other groups': (
        lambda _, cfg: cfg.merge_from_dict(
            {'optim_wrapper.paramwise_cfg': dict(bias_lr_mult=2.0)}
        ),
        'another optimizer',
    ),
}


@pytest.mark.parametrize('case', SPOILS)
def test_a_checkpoint_that_cannot_be_resumed_is_a_typed_error(
    case: str, content: dict[str, Any], tmp_path: Path
) -> None:
    spoil, words = SPOILS[case]
    content, cfg = deepcopy(content), _cfg(tmp_path)
    spoil(content, cfg)
    torch.save(content, cfg.load_from)
    with pytest.raises(ResumeError) as error:
        check_resume(cfg, tiny.build(tiny.gfl()))
    assert words in str(error.value)


@pytest.mark.parametrize(('epochs', 'done'), [(3, False), (1, True), (0, True)])
def test_nothing_left_to_train_is_an_error(
    epochs: int,
    done: bool,
    content: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    cfg = _cfg(tmp_path)
    cfg.train_cfg.max_epochs = epochs
    torch.save(content, cfg.load_from)
    check_resume(cfg, tiny.build(tiny.gfl()))
    said = f'Nothing left to train: epoch 1 of {epochs} is done'
    assert (said in capsys.readouterr().out) is done


@pytest.mark.parametrize(
    ('note', 'words'),
    [
        (b'\xff\xfe', 'cannot be read'),
        ('folder', 'cannot be read'),
        (b'gone.pth', 'names a checkpoint that is gone'),
    ],
)
def test_a_work_dir_that_does_not_name_its_last_checkpoint_is_refused(
    note: bytes | str, words: str, tmp_path: Path
) -> None:
    cfg = _cfg(tmp_path)
    cfg.load_from = None
    folder = Path(cfg.work_dir)
    folder.mkdir()
    (folder / 'epoch_2.pth').touch()
    if note == 'folder':
        (folder / 'last_checkpoint').mkdir()
    else:
        (folder / 'last_checkpoint').write_bytes(note)
    with pytest.raises(ResumeError, match=words) as error:
        settle_resume(cfg)
    assert error.value.available == (str(folder / 'epoch_2.pth'),)


def test_a_run_that_was_killed_before_it_wrote_last_checkpoint_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = _cfg(tmp_path)
    cfg.load_from = None
    folder = Path(cfg.work_dir)
    folder.mkdir()
    for number in (2, 1):  # the second is the newest
        (folder / f'epoch_{number}.pth').touch()
        os.utime(folder / f'epoch_{number}.pth', (0, 10 - number))
    assert settle_resume(cfg) == cfg.load_from == str(folder / 'epoch_1.pth')
    assert 'the newest' in capsys.readouterr().out


def test_nothing_to_resume_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = _cfg(tmp_path)
    cfg.load_from = None
    assert settle_resume(cfg) is None
    assert 'starts from the beginning' in capsys.readouterr().out
