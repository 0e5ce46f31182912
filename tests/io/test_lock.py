"""One command at a time in a folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mkd_det.errors import ConfigError, ExperimentError
from mkd_det.io.lock import locked_folder


def test_two_commands_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / 'new'
    with (
        locked_folder(folder, 'demo'),
        pytest.raises(ExperimentError, match='another demo') as caught,
        locked_folder(folder, 'demo'),
    ):
        pass
    assert '--work-dir' in caught.value.fix
    with locked_folder(folder, 'demo'):  # free again
        pass


def test_a_planted_link_is_neither_followed_nor_emptied(tmp_path: Path) -> None:
    target = tmp_path / 'precious'
    target.write_text('kept')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / '.lock').symlink_to(target)
    with (
        pytest.raises(ConfigError, match='cannot be locked'),
        locked_folder(tmp_path / 'run', 'training'),
    ):
        pass
    assert target.read_text() == 'kept'


def test_a_worker_that_outlives_a_killed_training_holds_no_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    training = os.fork()
    if not training:
        with locked_folder(tmp_path, 'training'):
            worker = os.fork()
            if not worker:
                os.write(write, b'ready')
                signal.pause()
            signal.pause()
    assert os.read(read, 5) == b'ready'
    with (
        pytest.raises(ExperimentError, match='another training'),
        locked_folder(tmp_path, 'training'),
    ):
        pass
    worker = int(Path(f'/proc/{training}/task/{training}/children').read_text())
    os.kill(training, signal.SIGKILL)
    os.waitpid(training, 0)
    try:
        with locked_folder(tmp_path, 'training'):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_only_the_first_of_several_processes_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked_folder(tmp_path, 'training'):
        monkeypatch.setenv('RANK', '1')
        with locked_folder(tmp_path, 'training'):
            pass
