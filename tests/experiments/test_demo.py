"""`make demo`, from nothing to its page, killed on the way."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mkd_det.experiments.runs import (
    Lines,
    Result,
    Stage,
    StageError,
    Task,
    alone,
    read_history,
    run_stage,
)
from mkd_det.experiments.runs.history import MAP
from mkd_det.experiments.runs.training import settings_of

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / 'tools' / 'demo.py')]
    return subprocess.Popen(
        [*command, '--quick', '--work-dir', str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def wait_for(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    while not happened():
        if process.poll() is not None:
            pytest.fail(f'the demo ended too early:\n{process.communicate()[0]}')
        time.sleep(0.05)


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that name the folder."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            line = path.read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:
            continue
        if str(folder) in line and str(os.getpid()) != path.parent.name:
            found.append(line)
    return found


def wait_until_alone(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_in(folder)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_demo_from_nothing_to_its_page_through_a_kill(tmp_path: Path) -> None:
    for extra in ('sklearn', 'skimage', 'matplotlib'):
        pytest.importorskip(extra, reason='needs the demo extra')
    folder = tmp_path / 'demo'

    # kill -9 once the student has a checkpoint: its training dies, too.
    demo = start(folder)
    wait_for((folder / 'student' / 'last_checkpoint').exists, demo)
    demo.kill()
    demo.communicate()
    wait_until_alone(folder)
    assert not (folder / 'student' / 'done.json').exists()
    teacher = (folder / 'teacher' / 'epoch_2.pth').stat().st_mtime_ns

    demo = start(folder)
    output, _ = demo.communicate()
    assert demo.returncode == 0, output
    assert 'teacher: done before' in output
    assert (folder / 'teacher' / 'epoch_2.pth').stat().st_mtime_ns == teacher
    assert 'resumed epoch: 1' in (folder / 'student' / 'train.log').read_text()
    check_results(folder)
    check_page(folder)


def check_results(folder: Path) -> None:
    runs = json.loads((folder / 'results.json').read_text())['runs']
    assert [run['name'] for run in runs] == ['teacher', 'student', 'mkd']
    for run in runs:
        assert 0 <= run['box_map'] <= run['box_map_50'] <= 1
        assert math.isfinite(run['seconds'])
        assert run['seconds'] > 1
        assert run['seed'] == 0
        assert 'tools/train.py' in run['command']
        history = read_history(folder / run['name'])
        # One of each iteration, although the student was interrupted.
        assert sorted(history.losses) == [1, 2, 3, 4, 5, 6]
        assert all(math.isfinite(loss) for loss in history.losses.values())
        assert history.metrics[2].get(MAP, 0.0) == run['box_map']
        # Two epochs of training do something, and differ between models.
        assert history.losses[6] < history.losses[1]
    teacher, student, mkd = runs
    assert teacher['params'] > 5 * student['params']
    assert student['params'] == mkd['params']
    losses = [tuple(read_history(folder / r['name']).losses.values()) for r in runs]
    assert len(set(losses)) == 3


def check_page(folder: Path) -> None:
    page = (folder / 'index.html').read_text()
    links = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert links == {'detections.png', 'curves.png', 'results.json'}
    for name in links:
        assert (folder / name).stat().st_size > 0
    for name in ('detections.png', 'curves.png'):
        pixels = np.asarray(Image.open(folder / name).convert('L'))
        assert min(pixels.shape) > 400
        assert pixels.std() > 10
    for title in ('teacher', 'student alone', 'student with M-KD'):
        assert f'<td>{title}</td>' in page


def stage(folder: Path, **more: object) -> Stage:
    values = {
        'name': 'student',
        'title': 'student',
        'config': 'configs/demo/gfl_r18-w16_digits.py',
        'folder': folder,
        'epochs': 2,
        'total': 6,
        'settings': {},
        **more,
    }
    return Stage(**values)  # type: ignore[arg-type]


def test_a_stage_knows_when_what_it_is_made_from_has_changed(tmp_path: Path) -> None:
    same = stage(tmp_path).fingerprint
    assert stage(tmp_path / 'elsewhere').fingerprint == same
    others = [
        stage(tmp_path, options={'randomness.seed': '1'}),
        stage(tmp_path, epochs=3),
        stage(tmp_path, after={'teacher': 'another'}),
        stage(tmp_path, settings={'train_dataloader.batch_size': '3'}),
    ]
    assert len({same, *(other.fingerprint for other in others)}) == 5


def test_what_a_config_inherits_counts_and_how_it_logs_does_not(tmp_path: Path) -> None:
    base, config = tmp_path / 'base.py', tmp_path / 'own.py'
    config.write_text("_base_ = 'base.py'\nmodel = dict(type='RetinaNet')\n")

    def told(text: str) -> dict[str, str]:
        base.write_text(text)
        return settings_of(str(config), tmp_path)

    one = told("optim = dict(lr=0.1)\nlog_level = 'INFO'\n")
    assert one == {'optim.lr': '0.1', 'model.type': '"RetinaNet"'}
    assert told("optim = dict(lr=0.1)\nlog_level = 'ERROR'\n") == one
    assert told('optim = dict(lr=0.2)\n') == {**one, 'optim.lr': '0.2'}


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_an_interrupted_stage_stops_its_training(tmp_path: Path) -> None:
    class Impatient(Lines):
        def start(self, stage: str, total: int, unit: str) -> Task:
            task = super().start(stage, total, unit)
            task.update = self.interrupt
            return task

        def interrupt(self, done: int, note: str = '') -> None:
            assert processes_in(tmp_path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(stage(tmp_path / 'run'), {}, Impatient(1))
    assert not processes_in(tmp_path)
    assert not (tmp_path / 'run' / 'done.json').exists()


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    demo = importlib.import_module('demo')

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv('DIGITS_ROOT', 'elsewhere')
    monkeypatch.setattr(demo, 'run_all', stop)
    with pytest.raises(SystemExit) as caught:
        demo.main(['--work-dir', str(tmp_path)])
    assert caught.value.code == 130
    assert 'goes on from here' in capsys.readouterr().out


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        alone(tmp_path, 'demo'),
        pytest.raises(StageError, match='another demo'),
        alone(tmp_path, 'demo'),
    ):
        pass


def test_a_failing_stage_shows_the_end_of_its_log(tmp_path: Path) -> None:
    broken = stage(tmp_path / 'run', config='tools/train.py')
    with pytest.raises(StageError, match='its last words') as caught:
        run_stage(broken, {}, Lines(1))
    assert 'train.log' in caught.value.fix


def test_a_stage_leaves_a_folder_of_others_alone(tmp_path: Path) -> None:
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(StageError, match='something else'):
        run_stage(stage(tmp_path), {}, Lines(1))
    assert (tmp_path / 'thesis.txt').exists()


def write_done(done: Stage, metrics: dict[str, float]) -> None:
    """As a training leaves it."""
    scalars = done.folder / '20250101' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    scalars.write_text(json.dumps({**metrics, 'data_time': 0.1, 'step': done.epochs}))
    state = dict(fingerprint=done.fingerprint, made_from=done.made_from, seconds=12.0)
    (done.folder / 'stage.json').write_text(json.dumps(state))
    result = dict(seconds=12.0, command='python tools/train.py')
    (done.folder / 'done.json').write_text(json.dumps(result))
    torch.save({}, done.checkpoint)


METRICS = {MAP: 0.25, 'coco/bbox_mAP_50': 0.5}


def test_a_done_stage_is_not_run_again(tmp_path: Path) -> None:
    done = stage(tmp_path / 'run', config='tools/train.py')  # would fail if it ran
    write_done(done, METRICS)
    figures = {'box_map': 0.25, 'box_map_50': 0.5}
    expected = Result('student', figures, 12.0, 'python tools/train.py')
    assert run_stage(done, {}, Lines(1)) == expected
    # Whether another metric counts is no affair of the training.
    other = replace(done, figures={'ap50': 'coco/bbox_mAP_50'})
    assert run_stage(other, {}, Lines(1)).figures == {'ap50': 0.5}
    with pytest.raises(StageError, match='was not measured') as caught:
        run_stage(replace(done, figures={'map': 'coco/bbox_map'}), {}, Lines(1))
    assert MAP in caught.value.available


def test_what_another_stage_has_left_is_put_aside_and_taken_back(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> float:
        raise StageError('it is another one, and is trained')

    monkeypatch.setattr('mkd_det.experiments.runs.stage._train', fails)
    done = stage(tmp_path / 'run', options={'lam': 1})
    write_done(done, METRICS)
    for name in ('run.old1', 'run.old2'):
        other = replace(done, options={'lam': name})
        with pytest.raises(StageError, match='is trained'):
            run_stage(other, {}, Lines(1))
        assert '(lam)' in capsys.readouterr().out
        assert (tmp_path / name).is_dir()
    assert (tmp_path / 'run.old1' / 'epoch_2.pth').is_file()
    assert run_stage(done, {}, Lines(1)).figures['box_map'] == 0.25
    assert 'the very same' in capsys.readouterr().out
    assert not (tmp_path / 'run.old1').exists()


def test_history_takes_what_was_done_again_as_done_last(tmp_path: Path) -> None:
    def log(name: str, *lines: dict) -> None:
        path = tmp_path / name / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text('\n'.join(json.dumps(line) for line in lines))

    def train(step: int, loss: float) -> dict:
        return {
            'lr': 0.1,
            'loss': 9.0,
            'loss_cls': loss,
            'loss_soft': 9.0 - loss,
            'epoch': (step + 1) // 2,
            'step': step,
        }

    def val(epoch: int, value: float | None) -> dict:
        known = {} if value is None else {MAP: value, 'coco/bbox_mAP_50': value}
        return {**known, 'data_time': 0.1, 'time': 0.1, 'step': epoch}

    first = [train(1, 4), train(2, 3), val(1, 0.1), train(3, 2.5)]
    log('20250101_000000', *first)
    log('20250101_000100', train(3, 2), train(4, 1), val(2, None))
    with open(tmp_path / '20250101_000100/vis_data/scalars.json', 'a') as file:
        file.write('\n{"loss": 1')  # still in writing
    history = read_history(tmp_path)
    assert history.losses == {1: 4, 2: 3, 3: 2, 4: 1}
    assert {e: m.get(MAP) for e, m in history.metrics.items()} == {1: 0.1, 2: None}
    assert history.latest == 4
    assert history.iters_per_epoch == 2


def test_progress_without_a_terminal_is_lines_with_the_time_left(
    capsys: pytest.CaptureFixture,
) -> None:
    lines = Lines(2, every=0.0)
    with lines:
        task = lines.start('teacher', 10, 'iterations')
        task.update(0)
        task.update(4, 'loss 2.00')
        time.sleep(0.05)
        task.update(5, 'loss 1.00')
        task.finish('mAP 0.500')
    text = capsys.readouterr().out
    assert '[1/2] teacher: 10 iterations' in text
    assert re.search(r'teacher: 5/10 iterations, about \d+ s left, loss 1.00', text)
    assert text.splitlines()[-1] == '[1/2] teacher: mAP 0.500'
    quiet = Lines(2, every=60.0)
    task = quiet.start('student', 10, 'iterations')
    capsys.readouterr()
    task.update(5)
    assert capsys.readouterr().out == ''


def test_the_time_left_falls_while_the_log_says_nothing_new(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 11.0, 13.0, 15.0, 90.0])
    monkeypatch.setattr(time, 'monotonic', lambda: next(clock))
    task = Lines(1, every=0.0).start('teacher', 10, 'iterations')
    for done in (1, 6, 6, 6, 6):
        task.update(done)
    left = re.findall(r'about (\d+) s left', capsys.readouterr().out)
    assert left == ['8', '6', '4', '0']
