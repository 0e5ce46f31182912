"""Promise: a checkpoint is data. What it holds is read exactly, or refused."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

import faults
from mkd_det.checkpoints.archive import DamagedArchiveError, check_archive, load_plain
from mkd_det.checkpoints.pickled_tensors import (
    RefusedObjectError,
    UnsupportedTensorError,
)


def saved(content: Any, **options: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer


# -- what is read ----------------------------------------------------------------------


def everything() -> dict[str, Any]:
    """What checkpoints of mmengine hold, and all types that are allowed."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    base = torch.randn(6, 4)
    return dict(
        state_dict=model.state_dict(),
        optimizer=optimizer.state_dict(),
        meta=dict(epoch=1, cfg='x' * 300, seed=None, classes=('a', 'ü'), big=2**80),
        message_hub=dict(
            log_scalars=OrderedDict(loss=HistoryBuffer([1.0, 2.0], [1, 1])),
            runtime_info=dict(
                score=np.float64(2.5),
                step=np.int64(3),
                array=np.array([[1, 2], [3, 4]], dtype='>i4', order='F'),
                words=np.array(['ab', 'c']),
                nothing=np.zeros((0, 3)),
            ),
        ),
        random=dict(
            torch=torch.get_rng_state(),
            numpy=np.random.get_state(),
            python=random.getstate(),
        ),
        tensors=[
            torch.zeros(0),
            torch.tensor(3),
            base[:, 1],
            base.t(),
            base[1:],
            torch.ones(1).expand(5),
            torch.ones(3, requires_grad=True),
            nn.Parameter(torch.ones(2), requires_grad=False),
            *(torch.ones(3).to(t) for t in (torch.bfloat16, torch.half, torch.bool)),
            *(torch.ones(3).to(t) for t in (torch.int8, torch.uint8, torch.complex64)),
        ],
        plain=[True, None, -5, 3.5, 1 + 2j, b'\xff\x00', {1, 2}, frozenset([3])],
        others=[bytearray(b'xy'), Counter('aab'), torch.Size([1, 2]), torch.float16],
        device=torch.device('cuda', 1),
    )


def same(ours: Any, theirs: Any) -> None:
    """Assert that two contents are equal in types and values."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        for name in ('dtype', 'requires_grad', 'shape', 'device'):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert (ours == theirs).all() and ours.flags.f_contiguous is not None
    elif isinstance(ours, HistoryBuffer):
        same(ours.data, theirs.data)
        assert ours.max_length == theirs.max_length
        assert ours.mean() == theirs.mean()
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        same(list(ours.values()), list(theirs.values()))
        same(getattr(ours, '_metadata', None), getattr(theirs, '_metadata', None))
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, two in zip(ours, theirs, strict=True):
            same(one, two)
    else:
        assert ours == theirs


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_is_read_as_torch_reads_it(zipped: bool, protocol: int) -> None:
    buffer = saved(
        everything(),
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    buffer.seek(0)
    theirs = torch.load(buffer, weights_only=False)
    same(load_plain(buffer), theirs)


def test_unsigned_and_eight_bit_types_are_read() -> None:
    tensors = [torch.ones(3).to(t) for t in (torch.uint16, torch.float8_e5m2)]
    ours = load_plain(saved(tensors))
    assert [t.dtype for t in ours] == [t.dtype for t in tensors]
    assert ours[1].float().tolist() == [1, 1, 1]


def test_tensors_that_share_memory_still_do() -> None:
    base = torch.zeros(4)
    ours = load_plain(saved([base, base, base[1:]]))
    ours[0][1] = 5
    assert ours[1][1] == 5 and ours[2][0] == 5


def test_a_tensor_with_attributes_is_read_without_them() -> None:
    tensor = torch.ones(2)
    tensor.note = 'kept by torch'  # type: ignore[attr-defined]
    parameter = nn.Parameter(torch.ones(2))
    parameter.note = 'too'  # type: ignore[attr-defined]
    ours = load_plain(saved([tensor, parameter]))
    assert ours[0].tolist() == ours[1].tolist() == [1, 1]
    assert isinstance(ours[1], nn.Parameter)


def test_a_file_without_checksums_is_read() -> None:
    torch.serialization.set_crc32_options(False)
    try:
        buffer = saved(dict(a=torch.ones(3)))
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_plain(buffer)['a'].tolist() == [1, 1, 1]


# -- what is refused -------------------------------------------------------------------


class Makes:
    """Is pickled as any call, with any state."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple:
        return self.parts


class WithState(OrderedDict):
    """Pretends to be an OrderedDict, with attributes."""

    def __reduce__(self) -> tuple:
        return (OrderedDict, (), {'items': 'nothing to call', '_metadata': {'': {}}})


def refused_objects() -> dict[str, Any]:
    buffer = HistoryBuffer([1.0], [1])
    return {
        'a call of the system': Makes(os.system, 'true'),
        'eval': Makes(eval, '1'),
        'a lambda in a module': Makes(os.path.join, 'a'),
        'a class of torch': Makes(torch.Tensor, 10**12),
        'a layer': nn.Linear(1, 1),
        'torch.load': Makes(torch.load, 'x.pth'),
        'a storage that is called': Makes(torch.UntypedStorage, 10**15),
        'an array that is called': Makes(np.ndarray, (10**12,)),
        'an array of objects': np.array([None, 1], dtype=object),
        'getattr of another name': Makes(getattr, HistoryBuffer, '__subclasses__'),
        'getattr of a tensor': Makes(getattr, torch.zeros(1), 'data'),
        'a state for a dict': Makes(dict, state={'a': 1}),
        'a state for a function': Makes(getattr, HistoryBuffer, 'min', state={'a': 1}),
        'a log buffer of nothing': Makes(HistoryBuffer, state={'x': buffer}),
    }


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('name', refused_objects())
def test_anything_else_is_refused(name: str, zipped: bool) -> None:
    content = dict(a=torch.ones(1), x=refused_objects()[name])
    buffer = saved(content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RefusedObjectError):
        load_plain(buffer)


def test_a_dict_takes_no_attributes_but_its_versions() -> None:
    ours = load_plain(saved(WithState(a=1)))
    assert list(ours.items()) == [] and ours._metadata == {'': {}}


def test_what_a_log_buffer_computes_is_mmengines_own() -> None:
    """A pickle may exchange its statistics; that of others must not change."""
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    buffer._statistics_methods = {'mean': HistoryBuffer.max}
    ours = load_plain(saved([buffer]))[0]
    assert ours.statistics('mean') == 2 and HistoryBuffer([2.0], [1]).mean() == 2
    assert HistoryBuffer._statistics_methods['mean'] is HistoryBuffer.mean


UNSUPPORTED: dict[str, Callable[[], torch.Tensor]] = {
    'sparse': lambda: torch.eye(3).to_sparse(),
    'sparse rows': lambda: torch.eye(3).to_sparse_csr(),
    'meta': lambda: torch.empty(10**6, device='meta'),
    'nested': lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    'quantized': lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
}


@pytest.mark.parametrize('kind', UNSUPPORTED)
@pytest.mark.filterwarnings('ignore')
def test_a_tensor_without_plain_values_is_told(kind: str) -> None:
    with pytest.raises((UnsupportedTensorError, RefusedObjectError)) as error:
        load_plain(saved(dict(a=UNSUPPORTED[kind]())))
    assert isinstance(error.value, UnsupportedTensorError) or kind == 'quantized'


OPCODES = {
    'a class with INST': b'(ios\nsystem\n.',
    'an object with OBJ': b'(cos\nsystem\no.',
    'a registered class': b'\x82\x01.',
    'a buffer before its bytes': b'\x96' + struct.pack('<Q', 2**50) + b'.',
    'a text before its bytes': b'\x8d' + struct.pack('<Q', 2**50) + b'.',
    'a memo of many': b'Nr\xff\xff\xff\xff.',
    'items for a number': b'K\x01(K\x01e.',
    'nothing on the stack': b'R.',
    'no end': b'K\x01',
    'an unknown opcode': b'\xff.',
}


@pytest.mark.parametrize('case', OPCODES)
def test_a_strange_pickle_runs_nothing_and_takes_no_memory(case: str) -> None:
    whole = saved(dict(a=1)).getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, 'w') as new:
        for info in old.infolist():
            pickled = info.filename.endswith('data.pkl')
            content = b'\x80\x02' + OPCODES[case] if pickled else old.read(info)
            new.writestr(info.filename, content)
    if case == 'a memo of many':  # no more than one entry of a dict
        assert load_plain(buffer) is None
        return
    with pytest.raises(Exception):  # noqa: B017  (it is damaged in its own way)
        load_plain(buffer)


# -- sizes -----------------------------------------------------------------------------


class Describes:
    """Is pickled as a tensor of the given size over the storage of another one."""

    def __init__(self, base: torch.Tensor, size: tuple, stride: tuple) -> None:
        self.base, self.size, self.stride = base, size, stride

    def __reduce__(self) -> tuple:
        storage = torch.storage.TypedStorage(
            wrap_storage=self.base.untyped_storage(), dtype=self.base.dtype
        )
        given = (storage, 0, self.size, self.stride, False, OrderedDict())
        return (torch._utils._rebuild_tensor_v2, given)


SIZES = {
    'a number as a square': ((200_000, 200_000), (0, 0)),
    'a number as a row': ((2**33,), (0,)),
    'overlapping windows': ((4000, 4000), (1, 1)),
    'more than there is': ((10_001,), (1,)),
    'far behind its end': ((2, 1), (2**40, 1)),
    'backwards': ((2,), (-1,)),
    'a size below nothing': ((-2,), (1,)),
    'a size in words': (('2',), (1,)),
    'too many dimensions': ((1,) * 70, (1,) * 70),
}


@pytest.mark.filterwarnings('ignore:TypedStorage')
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('case', SIZES)
def test_a_tensor_that_the_file_cannot_fill_is_refused(case: str, zipped: bool) -> None:
    size, stride = SIZES[case]
    evil = Describes(torch.zeros(10_000), size, stride)
    buffer = saved(dict(a=evil), _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):
        load_plain(buffer)


def test_many_views_of_one_storage_are_counted() -> None:
    base = torch.zeros(10**6)
    assert len(load_plain(saved([base] * 1000))) == 1000, 'equal ones are one'
    with pytest.raises(pickle.UnpicklingError, match='more than a file'):
        load_plain(saved([base[i:] for i in range(20)]))


@pytest.mark.parametrize('kind', [set, bytearray, OrderedDict])
def test_copies_are_counted(kind: type) -> None:
    """A call is a few bytes, and may copy all that came before."""
    many = {i: i for i in range(20_000)}
    part = bytes(2 * 10**6) if kind is bytearray else many
    content = [part] + [Makes(kind, part) for _ in range(30)]
    with pytest.raises(pickle.UnpicklingError, match='more than a file'):
        load_plain(saved(content, pickle_protocol=4))


def zipped_with(compression: int, twice: bool = False, size: int = 1) -> io.BytesIO:
    """A checkpoint of zeros, as another tool may pack it."""
    whole = saved(dict(a=torch.zeros(size, dtype=torch.uint8)))
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(whole) as old,
        zipfile.ZipFile(buffer, 'w', compression) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        if twice:
            # The directory points to the same bytes again, under another name.
            for i in range(10):
                again = zipfile.ZipInfo(f'archive/data/{i + 10}')
                first = new.getinfo('archive/data/0')
                for name in ('header_offset', 'file_size', 'compress_size', 'CRC'):
                    setattr(again, name, getattr(first, name))
                new.filelist.append(again)
    return buffer


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zipped_with(zipfile.ZIP_DEFLATED, size=2**24)
    assert len(bomb.getvalue()) < 2**17
    with pytest.raises(DamagedArchiveError, match='compressed'):
        load_plain(bomb)
    with pytest.raises(DamagedArchiveError, match='compressed'):
        check_archive(bomb)


def test_a_bomb_of_overlapping_records_is_refused() -> None:
    with pytest.raises(DamagedArchiveError, match='overlap'):
        load_plain(zipped_with(zipfile.ZIP_STORED, twice=True, size=10**5))


# -- damage ----------------------------------------------------------------------------


def test_flipped_signs_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / 'x.pth'
    torch.save(dict(a=torch.ones(50), b=torch.ones(100)), file)
    faults.flip_signs(file)
    with pytest.raises(DamagedArchiveError, match='CRC'):
        load_plain(io.BytesIO(file.read_bytes()))
    assert torch.load(file)['b'].sum() == -100, 'torch takes them as they are'


@pytest.mark.parametrize('zipped', [True, False])
def test_a_cut_file_is_noticed_wherever_it_is_cut(zipped: bool) -> None:
    content = dict(a=torch.ones(9), b=[torch.ones(9), 'text'])
    whole = saved(content, _use_new_zipfile_serialization=zipped).getvalue()
    for end in range(0, len(whole), 7):
        with pytest.raises(Exception):  # noqa: B017
            load_plain(io.BytesIO(whole[:end]))


def test_a_changed_byte_never_changes_a_number() -> None:
    """Of a zip archive: it is noticed, or lies where nothing is read."""
    content = dict(a=torch.arange(9.0), text='words')
    whole = saved(content).getvalue()
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        try:
            ours = load_plain(io.BytesIO(changed))
        except Exception:
            continue
        same(ours, content)


def test_a_changed_byte_of_an_old_file_runs_nothing() -> None:
    """It has no checksums: a number may change, and nothing else happens."""
    whole = saved(dict(a=torch.ones(3)), _use_new_zipfile_serialization=False)
    for place in range(len(whole.getvalue())):
        for bit in (1, 0x20, 0x80):
            changed = bytearray(whole.getvalue())
            changed[place] ^= bit
            try:
                load_plain(io.BytesIO(changed))
            except Exception:
                continue
