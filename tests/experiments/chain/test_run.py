"""Chains that are really trained: in full, interrupted, changed, from given models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny_images
from chains import member, write_chain
from experiment_runs import ForkedTraining
from mkd_det.experiments.chain import run as chain_run
from mkd_det.experiments.chain.run import run_chain
from mkd_det.experiments.runs import TrainingRun, execution


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are forked from a process that has imported everything."""
    monkeypatch.setattr(execution, '_start_process', ForkedTraining)
    monkeypatch.setattr(execution, '_POLL', 0.01)
    monkeypatch.setattr(execution, '_SAVE', 0.0)


def times(work: Path) -> dict[str, int]:
    """When the last checkpoint of each member was written."""
    found = {name: work / name / 'epoch_2.pth' for name in 'tas'}
    return {name: file.stat().st_mtime_ns for name, file in found.items()}


@pytest.mark.commands
def test_a_chain_is_trained_through_an_interrupt_and_a_change(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    work, file = files / 'work', str(files / 'chain.py')
    with monkeypatch.context() as patch:
        interrupt_after_first_checkpoint(patch, work / 'a')
        with pytest.raises(KeyboardInterrupt):
            run_chain(file, work)
    assert not (work / 'a' / 'done.json').exists()
    teacher = (work / 't' / 'epoch_2.pth').stat().st_mtime_ns
    first = (work / 'a' / 'epoch_1.pth').stat().st_mtime_ns

    chain = run_chain(file, work)
    output = capsys.readouterr().out
    assert 't: already finished' in output and 'a, taught by t: resumes' in output
    assert (work / 'a' / 'epoch_1.pth').stat().st_mtime_ns == first
    assert (work / 't' / 'epoch_2.pth').stat().st_mtime_ns == teacher
    check_results(chain.results, work)

    # Another weight of the guides of s concerns s alone.
    before = times(work)
    cfg = Config.fromfile(file)
    cfg.stages[1]['lam'] = 0.75
    cfg.dump(file)
    run_chain(file, work)
    output = capsys.readouterr().out
    assert 'a, taught by t: already finished' in output
    assert 's, taught by t, a: has changed (' in output
    assert 'model.task_weight' in output
    assert f's: removed {work}/students/s.pth' in output
    after = times(work)
    assert [name for name in 'tas' if after[name] != before[name]] == ['s']
    assert (work / 's.old1' / 'epoch_2.pth').is_file()


def interrupt_after_first_checkpoint(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Interrupt the training in a folder once it has a checkpoint to resume from."""

    class Interrupted(ForkedTraining):
        def __init__(self, run: TrainingRun, environment: Mapping[str, str]) -> None:
            super().__init__(run, environment)
            self.folder = run.folder

        def poll(self) -> int | None:
            if self.folder == folder and (folder / 'last_checkpoint').exists():
                if self.process.is_alive():
                    self.process.kill()
                    self.process.join()
                raise KeyboardInterrupt
            return super().poll()

    monkeypatch.setattr(execution, '_start_process', Interrupted)


def check_results(results: list[dict[str, Any]], work: Path) -> None:
    assert json.loads((work / 'chain.json').read_text()) == results
    assert [row['name'] for row in results] == ['t', 'a', 's']
    assert [row['guides'] for row in results] == [[], ['t'], ['t', 'a']]
    assert results[0]['params'] > results[1]['params'] > results[2]['params']
    assert all(0 <= row['top1'] <= 100 for row in results)
    assert all('-m mkd_det train' in row['command'] for row in results)
    assert (work / 'chain.png').stat().st_size > 1000
    # What is shipped is a plain model.
    plain = tiny_images.build(tiny_images.classifier(base_channels=4), seed=3)
    weights = torch.load(work / 'students' / 's.pth', weights_only=True)
    plain.load_state_dict(weights['state_dict'], strict=True)


def test_a_given_teacher_guides_a_parallel_group(
    files: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = []

    def test(run: Any, environment: Any) -> dict[str, float]:
        tested.append(run.member.name)
        return {'accuracy/top1': 40.0}

    monkeypatch.setattr(chain_run, '_test_given', test)
    model = tiny_images.build(tiny_images.classifier(base_channels=8))
    state = {f'net.{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), files / 't.pth')
    root = member('t', checkpoint=str(files / 't.pth'), teacher=dict(prefix='net.'))
    stages = [member('a', parallel='g'), member('s', parallel='g')]
    file = str(write_chain(files, root=root, stages=stages))
    count_in_iterations(files / 's.py')
    chain = run_chain(file, files / 'work', devices=['cpu', 'cpu'])
    output = capsys.readouterr().out
    assert 's, taught by t: 6 iterations' in output and 't, given: top1' in output
    assert [row['guides'] for row in chain.results] == [[], ['t'], ['t']]
    assert chain.results[0]['command'] == 'given'
    again = run_chain(file, files / 'work', beside=[files / 'work'])
    assert again.results == chain.results
    assert capsys.readouterr().out.count('already finished') == 2
    assert tested == ['t']


def count_in_iterations(path: Path) -> None:
    """Let a config count iterations instead of epochs."""
    cfg = Config.fromfile(path)
    cfg.train_cfg = dict(by_epoch=False, max_iters=6, val_interval=3)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=3)
    cfg.log_processor = dict(by_epoch=False)
    cfg.dump(path)


def test_a_stage_that_fails_stops_those_beside_it(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [member('a', parallel='g'), member('s', parallel='g')]
    file = str(write_chain(files, stages=stages))

    def run_member(run: Any, _: Any, display: Any, stop: Event, *__: Any) -> Any:
        if run.member.name == 's':
            raise ValueError('s has failed')
        if run.member.name == 'a':
            assert stop.wait(20), 'nobody stopped it'
            raise KeyboardInterrupt

    monkeypatch.setattr(chain_run, 'run_member', run_member)
    with pytest.raises(ValueError, match='s has failed'):
        run_chain(file, files / 'work', devices=['', ''])
