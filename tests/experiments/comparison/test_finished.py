"""Students of finished trainings are evaluated once: on val, or at the end on test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
import tiny_images
from comparisons import changed, options_of
from experiment_runs import log_metrics
from mkd_det.errors import ConfigError, ExperimentError
from mkd_det.experiments.comparison import run as comparison_run
from mkd_det.experiments.comparison.measuring import students
from mkd_det.experiments.comparison.run import ComparisonOutcome, compare
from mkd_det.experiments.runs import TrainingResult, TrainingRun

TOP1 = 'accuracy/top1'


class Invented:
    """Trainings that write random students, and the order of what happened.

    Args:
        monkeypatch: Puts them in the place of real ones.
        without: Name of a training that leaves no student.
        stopped: Name of a training at which Ctrl-C is pressed.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, without: str = '', stopped: str = ''
    ) -> None:
        self.events: list[str] = []
        self.without, self.stopped = without, stopped
        monkeypatch.setattr(comparison_run, 'run_training', self.train)
        self.own = students.evaluate
        monkeypatch.setattr(students, 'evaluate', self.evaluate)

    def train(self, run: TrainingRun, *_: Any) -> TrainingResult:
        if run.name == self.stopped:
            raise KeyboardInterrupt
        self.events.append(f'train {run.name}')
        log_metrics(run.folder, run.budget, **{TOP1: 90.0})
        if run.name != self.without and not run.checkpoint.is_file():
            model = tiny_images.classifier(base_channels=4)
            seed = 10 * len(self.events)
            tiny.write_checkpoint(model, run.checkpoint, seed, tiny_images.CLASSES)
        return TrainingResult(run.name, {}, 9.0, 'python x', 100.0)

    def evaluate(self, model: Any, cfg: Any, split: str, **more: Any) -> Any:
        self.events.append(split)
        return self.own(model, cfg, split, **more)


def run(files: Path, **more: Any) -> tuple[ComparisonOutcome, dict[str, Any]]:
    alone = str(files / 'alone.py')
    options = options_of(files, teachers={}, seeds=[0, 1], **more)
    outcome = compare(alone, [f'b={alone}'], files / 'work', options)
    return outcome, json.loads((outcome.report / 'report.json').read_text())


TRAINED = ['train alone-0', 'train b-0', 'train alone-1', 'train b-1']


def test_students_are_tested_once_after_all_trainings(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invented = Invented(monkeypatch)
    outcome, data = run(files, test=True)
    assert invented.events == [*TRAINED, *['test'] * 4]
    assert not outcome.failed and data['split'] == 'test'
    for row in data['rows']:
        found = [r['metrics'][TOP1] for r in data['runs'] if r['row'] == row['name']]
        assert row['metric']['mean'] == pytest.approx(sum(found) / 2)
        assert row['validation'] == dict(mean=90.0, deviation=0.0, count=2)
        assert 0 <= row['metric']['mean'] < 90
    difference = data['rows'][1]['metric']['mean'] - data['rows'][0]['metric']['mean']
    assert data['rows'][1]['difference']['mean'] == pytest.approx(difference)
    page = (outcome.report / 'index.html').read_text()
    assert 'Chosen on val, reported on test' in page and 'on val</th>' in page
    assert 'top1, % (test)</th>' in page and '90.00 ± 0.00' in page
    # The data of this config is one set.
    assert data['notes'][0].startswith('Warning: the test data of the base is its val')
    again, repeated = run(files, test=True)
    assert invented.events[8:] == TRAINED, 'nothing is evaluated again'
    assert repeated['rows'] == data['rows']


def test_by_default_figures_are_of_val_with_the_error_of_its_images(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invented = Invented(monkeypatch)
    outcome, data = run(files)
    assert invented.events == [*TRAINED, *['val'] * 4] and data['split'] == 'val'
    alone, other = (row['image_error'] for row in data['rows'])
    assert alone['images'] > 0 and alone['deviation'] >= 0
    assert alone['interval'] is None and len(other['interval']) == 2
    assert data['rows'][0]['metric']['mean'] == 90.0 and data['resamples'] == 200
    for name in ('index.html', 'report.md'):
        text = (outcome.report / name).read_text()
        assert 'All figures are of the validation data' in text
        assert 'Error of the images' in text and '200 bootstrap samples' in text
    files_there = sorted((files / 'work').glob('*/val_predictions.npz'))
    assert len(files_there) == 4
    files_there[0].write_bytes(b'damaged')
    run(files)
    assert invented.events[8:] == [*TRAINED, 'val']
    run(files, resamples=0)
    assert invented.events[13:] == TRAINED


def test_a_stopped_comparison_is_not_tested(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invented = Invented(monkeypatch, stopped='b-1')
    outcome, data = run(files, test=True)
    assert outcome.stopped and data['split'] == 'val'
    assert invented.events == TRAINED[:3]
    assert 'Not tested: this is done once all trainings are done.' in data['notes']
    assert data['rows'][0]['metric']['mean'] == 90.0
    assert data['rows'][0]['validation']['count'] == 0


def test_a_student_that_cannot_be_tested_is_no_result(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Invented(monkeypatch, without='b-1')
    outcome, data = run(files, test=True)
    ((title, error),) = outcome.failed.items()
    assert title == 'b, seed 1' and type(error) is ExperimentError
    assert 'b, seed 1: it could not be tested' in str(error)
    assert [(r['row'], r['seed']) for r in data['runs']] == [
        ('alone', 0), ('alone', 1), ('b', 0)
    ]  # fmt: skip
    # Without the test it counts: the error of its images is unknown, then.
    outcome, data = run(files)
    assert not outcome.failed and len(data['runs']) == 4
    assert data['rows'][0]['image_error'] is None


def test_what_cannot_be_tested_is_refused_before_the_first_training(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invented = Invented(monkeypatch)
    metric = dict(type='ClassAccuracy', topk=(2,))
    row = changed(files, 'other', test_evaluator=metric)
    options = options_of(files, teachers={}, seeds=[0], test=True)
    with pytest.raises(ConfigError) as caught:
        compare(str(files / 'alone.py'), [row], files / 'work', options)
    assert 'other' in str(caught.value)
    assert '`test_evaluator` does not measure what counts' in str(caught.value)
    assert caught.value.expected == TOP1 and invented.events == []
    none = changed(files, 'none', test_dataloader=None)
    with pytest.raises(ConfigError) as caught:
        compare(str(files / 'alone.py'), [none], files / 'work', options)
    assert 'the config has no `test_dataloader`' in str(caught.value)
