"""Arguments that would lose or destroy something are refused, whatever the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from mkd_det.cli import train
from mkd_det.cli.common import as_dict
from mkd_det.errors import ConfigError
from mkd_det.io.launched import launched_processes
from tooling import distiller_cfg, fails, student_cfg

Write = Callable[..., str]

# Command, arguments, and what the message must say.
BAD_ARGUMENTS: dict[str, tuple[str, list[str], str]] = {
    'no work dir': ('train', ['--work-dir', ''], '--work-dir'),
    'work dir is a file': ('train', ['--work-dir', '{config}'], '--work-dir'),
    'work dir below one': ('train', ['--work-dir', '{config}/a'], '--work-dir'),
    'work dir in proc': ('train', ['--work-dir', '/proc/nope'], '--work-dir'),
    'long work dir': ('train', ['--work-dir', 'x' * 300], 'too long'),
    'no resume': ('train', ['--resume', ''], '--resume'),
    'new key': ('train', ['--cfg-options', 'modle.x=2'], 'available: model'),
    'beyond a list': (
        'train',
        ['--cfg-options', 'train_dataloader.dataset.pipeline.9.type=x'],
        'pipeline.9.type',
    ),
    'no optimizer': ('train', ['--cfg-options', 'optim_wrapper=None'], 'optim_wrapper'),
    'no test data': (
        'test',
        ['{weights}', '--cfg-options', 'test_dataloader=None'],
        'test_dataloader = val_dataloader',
    ),
    'test work dir': ('test', ['{weights}', '--work-dir', '{config}'], '--work-dir'),
    'no out': ('test', ['{weights}', '--out', '{folder}.pkl'], '--out'),
    'out is read': ('test', ['{weights}', '--out', '{weights}'], 'would destroy'),
    'out below a file': ('test', ['{weights}', '--out', '{config}/a.pkl'], '--out'),
    'show-dir': ('test', ['{weights}', '--show-dir', '{config}'], '--show-dir'),
    'export onto itself': ('export', ['{checkpoint}', '{checkpoint}'], 'would destroy'),
    'json': ('benchmark', ['--json', '{folder}.pkl'], '--json'),
}


@pytest.mark.parametrize('case', BAD_ARGUMENTS)
def test_nothing_is_lost_or_destroyed(
    case: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name, given, words = BAD_ARGUMENTS[case]
    config = write(distiller_cfg(None))
    weights, checkpoint = tmp_path / 'weights.pkl', tmp_path / 'w.pth'
    for file in (weights, checkpoint):
        file.write_bytes(b'weights')
    (tmp_path / 'folder.pkl').mkdir()
    places = dict(config=config, weights=weights, checkpoint=checkpoint)
    argv = [text.format(**places, folder=tmp_path / 'folder') for text in given]

    def files() -> dict[Path, bytes | bool]:
        return {p: p.is_dir() or p.read_bytes() for p in tmp_path.iterdir()}

    before = files()
    fails(capsys, name, [config, *argv], 'ConfigError', words)
    assert files() == before


@pytest.mark.parametrize('name', ['train', 'test', 'export'])
def test_weights_that_are_not_finite_are_refused(
    name: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tiny.write_checkpoint(student_cfg(), tmp_path / 'nan.pth')
    content = torch.load(path)
    content['state_dict']['backbone.conv1.weight'][0] = float('nan')
    torch.save(content, path)
    argv = {
        'train': ['--cfg-options', f'load_from={path}', 'train_cfg.max_epochs=1'],
        'test': [path, '--work-dir', tmp_path / 'run'],
        'export': [path, tmp_path / 'out'],
    }[name]
    words = ('backbone.conv1.weight', 'not finite')
    fails(capsys, name, [write(student_cfg()), *argv], 'CheckpointKeysError', *words)


def test_new_keys_below_known_ones_stay_allowed(write: Write) -> None:
    from mkd_det.config_files.reading import load_config

    config = write(distiller_cfg(None))
    options = {'train_dataloader.timeout': 3, 'randomness.seed': 1, 'tta_model': {}}
    cfg = load_config(config, options)
    assert cfg.train_dataloader.timeout == 3 and cfg.randomness.seed == 1


@pytest.mark.parametrize('option', ["a=[dict(type='b',c=1)]", 'a=[1,2', 'alone'])
def test_options_that_mmengine_cannot_read_are_shown(
    option: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.make_parser().parse_args(['x.py', '--cfg-options', option])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert f'cannot be read: {option};' in message and '_base_' in message


def test_a_name_that_is_given_twice_is_refused() -> None:
    assert as_dict([('a', 1), ('b', 2)], '--shares') == dict(a=1, b=2)
    with pytest.raises(ConfigError, match="--shares: 'a' is given twice"):
        as_dict([('a', 1), ('b', 2), ('a', 3)], '--shares')


@pytest.mark.parametrize(
    ('given', 'count'),
    [
        ({}, 1),
        (dict(WORLD_SIZE='4'), 4),
        (dict(SLURM_STEP_NUM_TASKS='3', SLURM_NTASKS='3'), 3),
        (dict(SLURM_NTASKS='8'), 1),  # a batch script that launches nothing
        (dict(OMPI_COMM_WORLD_SIZE='2'), 2),
        (dict(WORLD_SIZE=''), 1),
    ],
)
def test_processes_of_every_launcher_are_counted(
    given: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('WORLD_SIZE', 'SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert launched_processes() == count
