"""Promise: a download is complete, the right file, and comes to an end."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import faults
from mkd_det.checkpoints import download as downloading
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.checkpoints.download import download
from mkd_det.errors import CheckpointFileError, UntrustedCheckpointError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloads, empty; no proxy between us and this machine."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(downloading, 'TIMEOUT', 0.3)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    return tmp_path / 'hub' / 'checkpoints'


def checkpoint(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=dict(a=torch.full((50_000,), value))), path)
    return path


def kept(cache: Path) -> list[str]:
    """Names of the files that stay: no locks, nothing partial."""
    names = os.listdir(cache) if cache.is_dir() else []
    return sorted(name for name in names if not name.endswith('.lock'))


def value_of(content: dict[str, Any]) -> float:
    return content['state_dict']['a'][0].item()


def test_files_of_one_name_from_two_servers_are_two_files(tmp_path: Path) -> None:
    one = checkpoint(tmp_path / 'a' / 'epoch_12.pth', 1.0)
    two = checkpoint(tmp_path / 'b' / 'epoch_12.pth', 2.0)
    with faults.server(one) as first, faults.server(two) as second:
        assert value_of(read_checkpoint(f'{first}/epoch_12.pth')) == 1.0
        assert value_of(read_checkpoint(f'{second}/epoch_12.pth')) == 2.0
        # Another folder of the same server is another address, too.
        assert value_of(read_checkpoint(f'{first}/other/epoch_12.pth')) == 1.0
        assert len(first.requests) == 2


def test_a_file_is_downloaded_once_and_needs_no_server_afterwards(
    tmp_path: Path, cache: Path
) -> None:
    with faults.server(checkpoint(tmp_path / 'x.pth')) as address:
        first = download(f'{address}/x.pth')
        assert download(f'{address}/x.pth') == first
        assert len(address.requests) == 1
    assert download(f'{address}/x.pth') == first
    assert kept(cache) == [first.name]
    assert str(first.stat().st_size) in first.name


def test_of_many_at_once_one_downloads_and_the_others_wait(tmp_path: Path) -> None:
    """As the ranks of a training do."""
    with faults.server(checkpoint(tmp_path / 'x.pth')) as address:
        with ThreadPoolExecutor(4) as pool:
            found = set(pool.map(download, [f'{address}/x.pth'] * 4))
        assert len(found) == 1 and len(address.requests) == 1


def test_a_file_that_was_cut_in_the_cache_is_downloaded_again(tmp_path: Path) -> None:
    with faults.server(checkpoint(tmp_path / 'x.pth')) as address:
        faults.cut(download(f'{address}/x.pth'), 0.5)
        assert value_of(read_checkpoint(f'{address}/x.pth')) == 1.0


def test_a_file_that_torch_downloaded_is_taken_by_the_hash_in_its_name(
    tmp_path: Path, cache: Path
) -> None:
    file = checkpoint(tmp_path / 'x.pth', 3.0)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    address = f'{faults.closed_port()}/resnet-{digest}.pth'
    cache.mkdir(parents=True)
    file.rename(cache / f'resnet-{digest}.pth')
    assert value_of(read_checkpoint(address)) == 3.0
    # One of another content, under that name, is not.
    checkpoint(cache / f'resnet-{digest}.pth', 4.0)
    with pytest.raises(CheckpointFileError, match='cannot be downloaded'):
        read_checkpoint(address)


def test_a_cut_download_is_continued(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / 'x.pth')
    with faults.server(file, cut_after=90_000, cuts=2) as address:
        assert download(f'{address}/x.pth').read_bytes() == file.read_bytes()
        assert [asked for _, asked in address.requests] == [
            None,
            'bytes=90000-',
            'bytes=180000-',
        ]


def test_a_server_that_cannot_continue_sends_all_again(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / 'x.pth')
    with faults.server(file, cut_after=90_000, cuts=1, ranges=False) as address:
        assert download(f'{address}/x.pth').read_bytes() == file.read_bytes()


def test_a_download_that_is_always_cut_leaves_nothing(
    tmp_path: Path, cache: Path
) -> None:
    file = checkpoint(tmp_path / 'x.pth')
    with faults.server(file, cut_after=1000) as address:
        for _ in range(2):  # and fails for the same reason again
            with pytest.raises(CheckpointFileError) as error:
                read_checkpoint(f'{address}/x.pth')
            assert error.value.expected == f'{file.stat().st_size} bytes'
            assert 'cut off' in error.value.actual and error.value.fix
    assert kept(cache) == []


@pytest.mark.parametrize('kind', ['silent', 'stalled'])
def test_a_silent_server_is_given_up(kind: str, tmp_path: Path, cache: Path) -> None:
    file = checkpoint(tmp_path / 'x.pth')
    fault: dict = dict(silent=True) if kind == 'silent' else dict(stall_after=1000)
    with (
        faults.server(file, **fault) as address,
        pytest.raises(CheckpointFileError) as error,
    ):
        read_checkpoint(f'{address}/x.pth')
    assert 'sent nothing for 0.3 seconds' in error.value.actual
    assert kept(cache) == []


def test_nobody_there_and_nothing_there_are_told(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(CheckpointFileError, match='cannot be downloaded') as error:
        read_checkpoint(f'{faults.closed_port()}/x.pth')
    assert 'refused' in error.value.actual
    with faults.server() as address, pytest.raises(CheckpointFileError) as error:
        read_checkpoint(f'{address}/x.pth')
    assert '404' in error.value.actual
    assert kept(cache) == []


def test_a_page_in_place_of_a_checkpoint_is_not_kept(
    tmp_path: Path, cache: Path
) -> None:
    page = tmp_path / 'x.pth'
    page.write_text('<html>log in first</html>')
    with faults.server(page) as address:
        with pytest.raises(CheckpointFileError) as error:
            read_checkpoint(f'{address}/x.pth')
        assert '<html>' in error.value.actual and str(address) in str(error.value)
        assert 'the address of the file itself' in error.value.fix
        assert kept(cache) == []
        checkpoint(page)
        assert value_of(read_checkpoint(f'{address}/x.pth')) == 1.0


def test_a_damaged_download_names_the_file_to_delete(tmp_path: Path) -> None:
    with faults.server(checkpoint(tmp_path / 'x.pth')) as address:
        local = download(f'{address}/x.pth')
        faults.flip_signs(local)
        with pytest.raises(CheckpointFileError, match='damaged') as error:
            read_checkpoint(f'{address}/x.pth')
        assert f'delete {local}' in error.value.fix


def test_a_hostile_download_does_not_run(tmp_path: Path) -> None:
    file = faults.hostile(tmp_path / 'x.pth', tmp_path / 'ran')
    with (
        faults.server(file) as address,
        pytest.raises(UntrustedCheckpointError) as error,
    ):
        read_checkpoint(f'{address}/x.pth')
    assert not (tmp_path / 'ran').exists()
    assert 'trust_checkpoint' not in error.value.fix


def test_a_planted_link_is_not_followed(tmp_path: Path, cache: Path) -> None:
    """Its name in the cache is known to everybody, the temporary one to nobody."""
    victim = tmp_path / 'victim'
    victim.write_text('mine')
    with faults.server(checkpoint(tmp_path / 'x.pth')) as address:
        name = download(f'{address}/x.pth').name
        (cache / name).unlink()
        (cache / name).symlink_to(victim)
        assert value_of(read_checkpoint(f'{address}/x.pth')) == 1.0
    assert victim.read_text() == 'mine'


@pytest.mark.parametrize('name', ['', '..', 'a%2Fb.pth', 'é?token=1', 'x' * 300])
def test_any_name_becomes_a_file_in_the_cache(
    name: str, tmp_path: Path, cache: Path
) -> None:
    file = checkpoint(tmp_path / 'x.pth')
    with faults.server(file) as address:
        found = download(f'{address}/{name.replace("é", "%C3%A9")}')
    assert found.parent == cache and found.read_bytes() == file.read_bytes()


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'file'))
    with (
        faults.server(checkpoint(tmp_path / 'x.pth')) as address,
        pytest.raises(CheckpointFileError, match='cannot be stored') as error,
    ):
        read_checkpoint(f'{address}/x.pth')
    assert 'TORCH_HOME' in error.value.fix


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    with (
        faults.server(checkpoint(tmp_path / 'x.pth')) as address,
        faults.full_disk(10_000),
        pytest.raises(CheckpointFileError, match='cannot be stored'),
    ):
        read_checkpoint(f'{address}/x.pth')
    assert kept(cache) == []


def test_a_kill_while_downloading_leaves_no_file_by_that_name(
    tmp_path: Path, cache: Path
) -> None:
    file = checkpoint(tmp_path / 'x.pth')
    with faults.server(file) as address:
        moment = 'mkd_det.checkpoints.download:os.replace'
        assert faults.kill_at(moment, download, f'{address}/x.pth')
        assert [name[0] for name in kept(cache)] == ['.']
        found = download(f'{address}/x.pth')
    assert found.read_bytes() == file.read_bytes()
    assert kept(cache) == [found.name]
