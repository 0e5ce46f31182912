"""Damaged trainings are repaired or run again; nothing is deleted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experiment_runs import SCALARS, finish_run, log_metrics, make_run
from mkd_det.errors import ExperimentError
from mkd_det.experiments.runs import LineDisplay, TrainingRun, run_training
from mkd_det.experiments.runs.recovery import is_complete_checkpoint

TRAIN = 'mkd_det.experiments.runs.execution._train'
Damage = Callable[[Path], object]


@pytest.fixture
def finished(tmp_path: Path) -> TrainingRun:
    return finish_run(make_run(tmp_path / 'run'))


def cut(name: str, keep: float = 0.5) -> Damage:
    """Keep the first part of files."""

    def damage(folder: Path) -> None:
        for path in folder.glob(name):
            content = path.read_bytes()
            path.write_bytes(content[: int(keep * len(content))])

    return damage


def flip_a_bit(folder: Path) -> None:
    path = folder / 'epoch_2.pth'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def put(name: str, content: bytes) -> Damage:
    return lambda folder: [path.write_bytes(content) for path in folder.glob(name)]


def lose(name: str) -> Damage:
    return lambda folder: [path.unlink() for path in folder.glob(name)]


def killed_at_its_first_file(folder: Path) -> None:
    for path in sorted(folder.rglob('*'), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / '.stage.json.1234.partial').write_text('{"fing')


ANEW, EARLIER, THERE = '', 'epoch_1.pth', 'epoch_2.pth'
STATE, DONE = 'stage.json is damaged or missing', 'its done.json is damaged'
RESULT = 'checkpoint, student or metrics are damaged or missing'


@pytest.mark.parametrize(
    ('damage', 'message', 'resumes_from'),
    [
        (cut('stage.json'), STATE, ANEW),
        (put('stage.json', b'[]'), STATE, ANEW),
        (put('stage.json', b'\xff\x00'), STATE, ANEW),
        (lose('stage.json'), STATE, ANEW),
        (killed_at_its_first_file, STATE, ANEW),
        (cut('done.json'), DONE, THERE),
        (put('done.json', b'{"seconds": 3}'), DONE, THERE),
        (cut(SCALARS), RESULT, THERE),
        (cut(SCALARS, 0), RESULT, THERE),
        (put(SCALARS, b'\xff\xfe\n3\n[]\n"'), RESULT, THERE),
        (lose(SCALARS), RESULT, THERE),
        (cut('epoch_2.pth'), 'epoch_2.pth is damaged', EARLIER),
        (cut('epoch_2.pth', 0), 'epoch_2.pth is damaged', EARLIER),
        (flip_a_bit, 'epoch_2.pth is damaged', EARLIER),
        (lose('epoch_2.pth'), 'resumes from epoch_1.pth', EARLIER),
        (cut('epoch_*.pth'), 'no checkpoint is left to resume from', ANEW),
        (lose('epoch_*.pth'), 'no checkpoint is left to resume from', ANEW),
    ],
)
def test_a_damaged_training_is_repaired_or_run_again(
    damage: Damage,
    message: str,
    resumes_from: str,
    finished: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    damage(finished.folder)
    left = sum(path.is_file() for path in finished.folder.rglob('*'))
    started_from = []

    def train(run: TrainingRun, state: dict, *_: object) -> dict:
        pointer = run.folder / 'last_checkpoint'
        started_from.append(Path(pointer.read_text()).name if pointer.exists() else '')
        assert all(map(is_complete_checkpoint, run.folder.glob('epoch_*.pth')))
        log_metrics(run.folder, 2, start='20250102')
        torch.save({}, run.checkpoint)
        return {**state, 'seconds': 12.0}

    monkeypatch.setattr(TRAIN, train)
    assert run_training(finished, {}, LineDisplay(1)).metrics['box_map'] == 0.25
    assert started_from == [resumes_from]
    assert message in capsys.readouterr().out
    old = finished.folder.with_name('run.old1')
    assert old.exists() == (resumes_from == ANEW)
    kept = sum(path.is_file() for path in finished.folder.parent.rglob('*'))
    assert kept >= left  # nothing was deleted
    assert run_training(finished, {}, LineDisplay(1)).seconds == 12.0
    assert len(started_from) == 1 and 'already finished' in capsys.readouterr().out


def test_a_damaged_student_is_written_again(
    finished: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    student = finished.folder / 'student_last.pth'
    student.write_bytes(finished.checkpoint.read_bytes()[:-9])

    def train(run: TrainingRun, state: dict, *_: object) -> dict:
        torch.save({}, student)
        return {**state, 'seconds': 12.0}

    monkeypatch.setattr(TRAIN, train)
    assert run_training(finished, {}, LineDisplay(1)).seconds == 12.0
    assert 'damaged or missing; resumes' in capsys.readouterr().out
    assert is_complete_checkpoint(student)


@pytest.mark.parametrize('pointer', [b'', b'\xff\x00', b'/elsewhere/epoch_2.pth'])
def test_a_pointer_to_nothing_is_corrected(
    pointer: bytes, finished: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> dict:
        raise ExperimentError('it trains')

    monkeypatch.setattr(TRAIN, fails)
    lose('done.json')(finished.folder)
    put('last_checkpoint', pointer)(finished.folder)
    with pytest.raises(ExperimentError, match='it trains'):
        run_training(finished, {}, LineDisplay(1))
    written = (finished.folder / 'last_checkpoint').read_text()
    assert written == str(finished.checkpoint)
