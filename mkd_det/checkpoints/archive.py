"""The two formats of torch.save, read without trusting anything they say.

Since torch 1.6 a checkpoint is a zip archive without compression: a pickle and a record
for each storage, all with checksums. Before, it was a sequence of pickles followed by
the storages, without checksums.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from .unpickling import PlainUnpickler, Storage

ZIP = b'PK\x03\x04'
# First pickle of the old format.
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_CHUNK = 2**22


class DamagedArchiveError(Exception):
    """The archive is cut off, or a checksum or size in it is wrong."""


def load_plain(file: BinaryIO) -> Any:
    """Return the content of a checkpoint: tensors and plain types.

    Memory is bounded by the size of the file, whatever the file says.

    Args:
        file: The checkpoint, open for reading.

    Raises:
        DamagedArchiveError: A checksum or a size in the file is wrong.
        RefusedObjectError: It holds other objects than plain types.
        UnsupportedTensorError: It holds a sparse, quantized or meta tensor.
        Exception: It is no checkpoint, or is damaged in another way.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(len(ZIP))
    file.seek(0)
    return _Zip(file, size).load() if head == ZIP else _Legacy(file, size).load()


def check_archive(file: BinaryIO) -> None:
    """Check all sizes and checksums of a zip archive; other files pass.

    Raises:
        DamagedArchiveError: One of them is wrong.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(ZIP)) == ZIP:
        archive = _Zip(file, size)
        for name in archive.records:
            archive.read(name)
    file.seek(0)


class _Zip:
    """A zip archive as torch.save writes it.

    Args:
        file: The archive.
        size: Its size in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        try:
            self.archive = zipfile.ZipFile(file)
            records = self.archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise UnpicklingError(_lower(error)) from error
        self.records = {info.filename: info for info in records}
        self._check_sizes(records)
        if not any(info.CRC for info in records):
            # Written with torch.serialization.set_crc32_options(False).
            for info in records:
                del info.CRC
        self._storages: dict[str, Storage] = {}
        self.root = ''

    def _check_sizes(self, records: list[zipfile.ZipInfo]) -> None:
        for info in records:
            stored = info.compress_type == zipfile.ZIP_STORED
            if not stored or info.compress_size != info.file_size:
                raise DamagedArchiveError(
                    f'{info.filename} is compressed, which torch.save never does'
                )
        total = sum(info.file_size for info in records)
        if total > self.size or len(self.records) < len(records):
            raise DamagedArchiveError('its records overlap')

    def load(self) -> Any:
        """Return what the pickle of the archive describes."""
        names = [n for n in self.records if n.count('/') == 1 and n[-9:] == '/data.pkl']
        if len(names) != 1:
            raise UnpicklingError('it is a zip archive without data.pkl')
        self.root = names[0].partition('/')[0]
        if f'{self.root}/constants.pkl' in self.records:
            raise UnpicklingError('it is a TorchScript archive')
        order = f'{self.root}/byteorder'
        if order in self.records and self._bytes(order) != sys.byteorder.encode():
            raise UnpicklingError(f'its byte order is not {sys.byteorder}')
        pickled = io.BytesIO(self._bytes(names[0]))
        return PlainUnpickler(pickled, self.size, self._storage).load()

    def read(self, name: str) -> torch.Tensor:
        """Return the bytes of a record, after their checksum has been compared.

        Raises:
            DamagedArchiveError: The checksum differs, or the record is cut off.
        """
        # torch's own memory, so that it is aligned as after torch.load.
        content = torch.empty(self.records[name].file_size, dtype=torch.uint8)
        try:
            with self.archive.open(self.records[name]) as record:
                _fill(content, record)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DamagedArchiveError(_lower(error)) from error
        return content

    def _bytes(self, name: str) -> bytes:
        return self.read(name).numpy().tobytes()

    def _storage(self, key: str, dtype: torch.dtype, count: int) -> Storage:
        if key not in self._storages:
            name = f'{self.root}/data/{key}'
            if name not in self.records:
                raise DamagedArchiveError(f'the record {name} is missing')
            if count * dtype.itemsize > self.records[name].file_size:
                raise DamagedArchiveError(f'the record {name} is too short')
            memory = self.read(name).untyped_storage()
            self._storages[key] = Storage(key, memory, dtype)
        return self._storages[key]


class _Legacy:
    """A checkpoint of torch before 1.6, which has no checksums.

    Args:
        file: The checkpoint.
        size: Its size in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = _Clamped(file, size)
        self.size = self.left = size
        self._storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """Return what the pickles describe."""
        if self._unpickle() != MAGIC or self._unpickle() != PROTOCOL:
            raise UnpicklingError('it is a pickle, but not one of torch.save')
        system = self._unpickle()
        if not isinstance(system, dict) or system.get('little_endian') is not (
            sys.byteorder == 'little'
        ):
            raise UnpicklingError(f'its byte order is not {sys.byteorder}')
        content = self._unpickle()
        keys = self._unpickle()
        if not isinstance(keys, list) or set(keys) != set(self._storages):
            raise DamagedArchiveError('its storages are not those of its tensors')
        for key in keys:
            storage = self._storages[key]
            (count,) = struct.unpack('<q', self.file.read(8))
            memory = torch.empty(0, dtype=torch.uint8).set_(storage.memory)
            if count * storage.dtype.itemsize != len(memory):
                raise DamagedArchiveError(f'storage {key} is of another size')
            _fill(memory, self.file)
        return content

    def _unpickle(self) -> Any:
        return PlainUnpickler(self.file, self.size, self._storage).load()  # type: ignore

    def _storage(self, key: str, dtype: torch.dtype, count: int) -> Storage:
        """Return memory that is filled once the tensors are known."""
        if key not in self._storages:
            self.left -= count * dtype.itemsize
            if self.left < 0:
                raise UnpicklingError('it is shorter than its tensors')
            memory = torch.UntypedStorage(count * dtype.itemsize)
            self._storages[key] = Storage(key, memory, dtype)
        return self._storages[key]


class _Clamped:
    """A file that is never asked for more bytes than it has left.

    Python takes the memory for what is asked for before it reads.

    Args:
        file: The file, at its beginning.
        size: Its size in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def _rest(self) -> int:
        return max(self._size - self._file.tell(), 0)

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._rest()))

    def readline(self) -> bytes:
        return self._file.readline(self._rest())

    def readinto(self, memory: memoryview) -> int:
        return self._file.readinto(memory)  # type: ignore[attr-defined]


def _fill(content: torch.Tensor, file: Any) -> None:
    """Fill a tensor of bytes from a file, in chunks.

    Raises:
        UnpicklingError: The file ends before.
    """
    memory = content.numpy().data
    filled = 0
    while filled < len(memory):
        count = file.readinto(memory[filled : filled + _CHUNK])
        if not count:
            raise UnpicklingError('it is cut off')
        filled += count


def _lower(error: Exception) -> str:
    words = str(error).partition('\n')[0] or type(error).__name__
    return words[0].lower() + words[1:]
