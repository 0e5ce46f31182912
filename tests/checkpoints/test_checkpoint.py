"""A checkpoint is read as data, and fits a model wholly, or nothing is loaded."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mkd_det.checkpoints.checkpoint import (
    compare_state_dicts,
    load_state_dict_strict,
    read_checkpoint,
)
from mkd_det.errors import (
    CheckpointFileError,
    CheckpointKeysError,
    UntrustedCheckpointError,
)


def norm() -> nn.Module:
    return nn.BatchNorm2d(2)


@pytest.mark.parametrize('change', ['lost', 'added'])
def test_counters_that_nothing_reads_do_not_matter(change: str) -> None:
    model, weights = norm(), norm().state_dict()
    if change == 'lost':
        del weights['num_batches_tracked']
    else:
        weights['more.num_batches_tracked'] = torch.tensor(1)
    weights['weight'] += 1
    load_state_dict_strict(model, weights, 'x.pth', 'the model')
    assert model.weight.tolist() == [2, 2]


def test_what_does_not_fit_is_told_and_nothing_is_loaded() -> None:
    model, weights = norm(), norm().state_dict()
    weights['wait'] = weights.pop('weight')
    weights['bias'] = torch.ones(3)
    assert compare_state_dicts(model.state_dict(), weights) == (
        ['weight'],
        ['wait'],
        ['bias: (3,) instead of (2,)'],
    )
    with pytest.raises(CheckpointKeysError, match='1 keys missing, 1 unexpected'):
        load_state_dict_strict(model, weights, 'x.pth', 'the model')
    assert model.bias.tolist() == [0, 0]


# -- files that are none ---------------------------------------------------------------


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    'half a file': lambda whole: whole[: len(whole) // 2],
    'the first bytes': lambda whole: whole[:100],
    'nothing': lambda whole: b'',
    'a web page': lambda whole: b'<!DOCTYPE html><html>404</html>',
    'a pointer of git LFS': lambda whole: (
        b'version https://git-lfs.github.com/spec/v1\n'
    ),
    'zeros': lambda whole: b'\0' * len(whole),
}


@pytest.mark.parametrize('trust', [False, True])
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('kind', BROKEN)
def test_a_truncated_or_foreign_file_is_told(
    kind: str, zipped: bool, trust: bool, tmp_path: Path
) -> None:
    file = tmp_path / 't.pth'
    content = {'state_dict': {'a': torch.zeros(999)}}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(BROKEN[kind](file.read_bytes()))
    with pytest.raises(
        CheckpointFileError, match='truncated or no checkpoint'
    ) as caught:
        read_checkpoint(str(file), trust)
    assert f'{file.stat().st_size} bytes' in str(caught.value)
    assert 'weights_only' not in str(caught.value)


# -- hostile files ---------------------------------------------------------------------


class Runs:
    """Runs `function(*args)` in whoever unpickles it."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


def hostile(marker: Path) -> dict[str, Runs]:
    touch = f'open({str(marker)!r}, "w").close()'
    return {
        'os.system': Runs(os.system, f'touch {marker}'),
        'eval': Runs(eval, touch.replace('open', '__import__("io").open', 1)),
        'exec': Runs(exec, touch),
        # `getattr` is needed for mmengine's own logs, and for these no more.
        'getattr of a module': Runs(getattr, Runs(__import__, 'os'), 'system'),
        'getattr of a class': Runs(getattr, HistoryBuffer, '__subclasses__'),
        'getattr of another name': Runs(getattr, HistoryBuffer, 'register_statistics'),
        'getattr of a tensor': Runs(getattr, torch.zeros(1), '__class__'),
    }


@pytest.mark.parametrize('place', ['meta', 'state_dict', 'bare'])
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('name', hostile(Path('x')))
def test_a_hostile_pickle_is_refused_and_does_not_run(
    name: str, zipped: bool, place: str, tmp_path: Path
) -> None:
    marker = tmp_path / 'ran'
    evil = hostile(marker)[name]
    content: Any = {'state_dict': {'a': torch.zeros(1)}, place: evil}
    file = tmp_path / 't.pth'
    torch.save(
        evil if place == 'bare' else content,
        file,
        _use_new_zipfile_serialization=zipped,
    )
    for trust in (None, False):
        with pytest.raises(UntrustedCheckpointError) as error:
            read_checkpoint(file, trust)
        # Named only where there is such an option.
        assert ('trust_checkpoint=True' in error.value.fix) == (trust is False)
    assert not marker.exists()


def test_a_raw_pickle_does_not_run_either(tmp_path: Path) -> None:
    marker, file = tmp_path / 'ran', tmp_path / 't.pth'
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        evil = hostile(marker)['os.system']
        file.write_bytes(pickle.dumps(evil, protocol=protocol))
        with pytest.raises(UntrustedCheckpointError):
            read_checkpoint(file)
    assert not marker.exists()


def test_trusting_a_file_whose_code_is_missing_is_told(tmp_path: Path) -> None:
    file = tmp_path / 't.pth'
    content = {'state_dict': {}, 'x': Runs(os.system, 'true')}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().replace(b'cposix\n', b'cnobody\n'))
    with pytest.raises(CheckpointFileError, match='not installed') as caught:
        read_checkpoint(str(file), trust=True)
    assert 'nobody' in str(caught.value)


def test_files_are_read_side_by_side(tmp_path: Path) -> None:
    """torch has one list of allowed types for all threads; the reader has none."""
    file = tmp_path / 't.pth'
    buffers = {f'train/{i}': HistoryBuffer([1.0], [1]) for i in range(50)}
    torch.save({'state_dict': {}, 'message_hub': buffers}, file)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(read_checkpoint, [str(file)] * 100))
    assert all(len(content['message_hub']) == 50 for content in read)
