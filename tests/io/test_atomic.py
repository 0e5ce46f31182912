"""Promise: a file is complete or unchanged, and no other file is written for it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import faults
from mkd_det.errors import CheckpointSaveError
from mkd_det.io import atomic
from mkd_det.io.atomic import create_temporary, write_atomically, write_own
from mkd_det.io.json_files import write_own_json
from mkd_det.io.markdown import write_page
from mkd_det.io.paths import check_writable_folder


def test_a_kill_while_writing_keeps_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    write_atomically(file, b'before')
    assert faults.kill_while_writing(2**16, write_atomically, file, b'x' * 2**17)
    assert file.read_bytes() == b'before'
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(file, b'after')
    assert file.read_bytes() == b'after'
    assert list(tmp_path.iterdir()) == [file], 'the temporary file is removed'


@pytest.mark.parametrize('function', ['fsync', 'replace'])
def test_a_kill_at_any_step_keeps_what_was_there(function: str, tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    write_atomically(file, b'before')
    moment = f'mkd_det.io.atomic:os.{function}'
    assert faults.kill_at(moment, write_atomically, file, b'after')
    assert file.read_bytes() == b'before'


def test_an_unwritable_folder_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(CheckpointSaveError, match='could not be written'):
        write_atomically(tmp_path / 'file' / 'weights.pth', b'')


@pytest.mark.parametrize('place', ['file/weights.pth', 'folder', 'a\0b'])
def test_only_a_full_disk_asks_for_disk_space(place: str, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    with pytest.raises(CheckpointSaveError) as error:
        write_atomically(tmp_path / place, b'')
    assert 'disk space' not in error.value.fix
    assert not list(tmp_path.glob('.*'))


def test_two_processes_can_write_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    partial = {}
    for state, process in (('alive', os.getppid()), ('dead', 2**22 + 1)):
        opened, path = create_temporary(file)
        opened.close()
        name = path.name.replace(f'-{os.getpid()}-', f'-{process}-')
        partial[state] = path.rename(path.with_name(name))
    elsewhere = tmp_path / '.weights.pth.00000000-1-ab.partial'
    elsewhere.touch()
    write_atomically(file, b'ours')
    assert file.read_bytes() == b'ours'
    assert partial['alive'].exists() and not partial['dead'].exists()
    assert elsewhere.exists(), 'another machine may be writing it'


def test_a_planted_link_is_never_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if somebody guesses the name."""
    victim, folder = tmp_path / 'victim', tmp_path / 'folder'
    victim.write_text('mine')
    folder.mkdir()
    monkeypatch.setattr(atomic.secrets, 'token_hex', lambda n: '00' * n)
    opened, path = create_temporary(folder / 'weights.pth')
    opened.close()
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(CheckpointSaveError, match='could not be written'):
        write_atomically(folder / 'weights.pth', b'ours')
    assert victim.read_text() == 'mine'


def test_temporary_names_cannot_be_foreseen(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        opened, path = create_temporary(tmp_path / 'weights.pth')
        opened.close()
        names.append(path.name)
    pattern = r'\.weights\.pth\.\w+-\d+-\w{16}\.partial'
    assert all(re.fullmatch(pattern, name) for name in names)
    assert names[0] != names[1]
    mask = os.umask(0)
    os.umask(mask)
    assert os.stat(tmp_path / names[0]).st_mode & 0o777 == 0o666 & ~mask


def test_a_probe_follows_no_link(tmp_path: Path) -> None:
    victim, folder = tmp_path / 'victim', tmp_path / 'folder'
    victim.write_text('mine')
    folder.mkdir()
    (folder / f'.{os.getpid()}.probe').symlink_to(victim)
    check_writable_folder(folder, '--work-dir')
    assert victim.read_text() == 'mine'
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize('name', ['x' * 251 + '.pth', 'ü' * 125 + '.pth'])
def test_a_name_may_be_as_long_as_the_disk_takes(name: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / name, b'ours')
    assert os.listdir(tmp_path) == [name]


def test_a_link_stays_a_link_and_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    file, link = tmp_path / 'weights.pth', tmp_path / 'link.pth'
    file.write_bytes(b'before')
    file.chmod(0o600)
    link.symlink_to(file)
    write_atomically(link, b'after')
    assert link.is_symlink() and file.read_bytes() == b'after'
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_link_in_the_place_of_a_run_s_own_file_is_replaced(tmp_path: Path) -> None:
    victim, own = tmp_path / 'victim', tmp_path / 'own'
    victim.write_bytes(b'before')
    for write in (
        lambda: write_own(own, b'after'),
        lambda: write_own_json(own, {}),
        lambda: write_page(own, 'title', 'text'),
    ):
        own.unlink(missing_ok=True)
        own.symlink_to(victim)
        write()
        assert victim.read_bytes() == b'before' and not own.is_symlink()
