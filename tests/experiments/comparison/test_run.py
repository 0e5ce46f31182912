"""Whole comparisons: invented trainings, and one that is really trained."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tiny
from comparisons import changed, options_of
from experiment_runs import ForkedTraining, log_entries, log_metrics
from mkd_det.errors import ExperimentError
from mkd_det.experiments.comparison import run as comparison_run
from mkd_det.experiments.comparison.measuring.teachers import TeacherResult
from mkd_det.experiments.comparison.run import ComparisonOutcome, compare
from mkd_det.experiments.runs import TrainingResult, TrainingRun, execution
from mkd_det.experiments.runs.history import BOX_MAP, BOX_MAP_50
from mkd_det.experiments.runs.recovery import is_complete_checkpoint


def compare_detectors(files: Path, *more: str, **settings: Any) -> ComparisonOutcome:
    """Compare `alone` with a recipe whose name needs escaping, and with others."""
    rows = [f'a <b>|c={files / "attention.py"}', *more]
    options = options_of(files, **settings)
    base, work = str(files / 'alone.py'), files / 'work'
    return compare(base, rows, work, options, command='mkd-det compare x')


def test_the_report_contains_what_the_logs_contain(
    detectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: TrainingRun, *_: Any) -> TrainingResult:
        seed = int(run.options['randomness.seed'])
        taught = not run.name.startswith('alone')
        worse = run.name.startswith('alone_fast')
        for epoch in (1, 2):
            metrics = {
                BOX_MAP: 0.1 * epoch + 0.01 * seed + 0.05 * (taught - worse),
                'coco/bbox_mAP_s': -1.0,
                'coco/bbox_mAP_m': 0.3,
                'coco/bbox_mAP_l': 0.4,
                'coco/red_precision': 0.5 + 0.1 * taught,
                'coco/blue_precision': math.nan,
            }
            log_metrics(run.folder, epoch, **metrics)
        for step in (1, 2) if run.name == 'alone-1' else (1, 2, 3):
            line = dict(loss=4.0 - step, loss_cls=3.0 - step, step=step, lr=1)
            log_entries(run.folder, {**line, 'time': 0.2 + 0.1 * taught})
        memory = 100.0 + 20 * taught
        return TrainingResult(run.name, {'bbox_mAP': 0.0}, 9.0, 'python x', memory)

    measured = TeacherResult('t', 9, ['a <b>|c'], {BOX_MAP: 0.31, BOX_MAP_50: 0.6})
    monkeypatch.setattr(comparison_run, 'run_training', train)
    monkeypatch.setattr(comparison_run, 'measure_teachers', lambda *_: [measured])
    monkeypatch.chdir(detectors)
    other = changed(detectors, 'alone_fast', optim_wrapper__optimizer__lr=0.5)
    outcome = compare_detectors(detectors, other)
    assert not outcome.failed and not outcome.stopped
    data = json.loads((outcome.report / 'report.json').read_text())
    # A report that is shared does not tell where it was made.
    assert data['rows'][0]['config'] == 'work/configs/alone.py'
    check_json(data)
    check_texts(outcome.report)


def check_json(data: dict[str, Any]) -> None:
    base, taught, fast = data['rows']
    assert data['key'] == BOX_MAP and data['seeds'] == [0, 1, 2]
    assert base['metric']['mean'] == pytest.approx(0.21)
    assert base['metric']['deviation'] == pytest.approx(0.01)
    assert base['verdict'] is None and base['caveats'] == []
    assert taught['difference']['mean'] == pytest.approx(0.05)
    # Dunnett's table: 2.86 for two rows, six degrees of freedom.
    half = 2.86 * 0.01 * math.sqrt(2 / 3)
    expected = [0.05 - half, 0.05 + half]
    assert taught['difference']['interval'] == pytest.approx(expected, abs=1e-3)
    assert data['pooled'] == dict(deviation=pytest.approx(0.01), freedom=6, uneven=[])
    assert taught['verdict']['word'] == 'helped' and taught['caveats'] == []
    assert fast['verdict']['word'] == 'did not help'
    assert 'lr 0.5, the base has 0.001' in fast['caveats'][0]
    assert taught['extra_iteration']['mean'] == pytest.approx(0.1)
    assert taught['extra_memory']['mean'] == 20
    # From 0.21 to 0.26, of 0.31.
    assert taught['teacher'] == 0.31
    assert taught['gap_closed'] == pytest.approx(0.5)
    assert base['gap_closed'] is None and fast['gap_closed'] is None
    assert taught['metric_50']['mean'] == 0.5
    assert data['teachers'][0]['metrics'] == {BOX_MAP: 0.31, BOX_MAP_50: 0.6}
    assert taught['parts']['size']['small']['mean'] is None
    assert taught['parts']['class']['red']['mean'] == pytest.approx(0.6)
    assert taught['parts']['class']['blue']['mean'] is None
    assert len(data['runs']) == 9
    run = data['runs'][3]
    assert (run['row'], run['seed'], run['memory_of']) == ('a <b>|c', 0, 'process')
    assert run['curve'] == {'1': pytest.approx(0.15), '2': pytest.approx(0.25)}
    assert run['losses'] == {'1': 2.0, '2': 1.0, '3': 0.0}


def check_texts(out: Path) -> None:
    page, text = (out / 'index.html').read_text(), (out / 'report.md').read_text()
    links = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert links == {'runs.png', 'curves.png', 'parts.png'}
    for name in links:
        assert (out / name).stat().st_size > 5000
        assert f']({name})' in text
    assert '<li>a &lt;b&gt;|c: helped.' in page and '<b>' not in page
    assert '- a &lt;b&gt;\\|c: helped.' in text
    assert 'alone_fast*' in page and 'did not help' in page
    assert '<td style="text-align:left">(teacher t)</td>' in page
    for cell in ('0.310', '0.600', '0.500 ± 0.000', '50 %'):
        assert f'>{cell}</td>' in page, cell
    assert '<h3>More seeds' not in page  # all rows are decided
    assert '+0.100 (+50 %)' in page and '+20 (+20 %)' in page
    assert 'is pooled over all rows' in page  # how verdicts are reached
    assert 'pooled over all rows: 0.01 (6 degrees of freedom)' in page
    assert 'a gain of 0.005' in page and 'with a chance of 80 %' in page
    assert 'logs are incomplete: alone with seed 1.' in page
    assert '<code>mkd-det compare x' in page


def test_the_others_are_compared_if_one_fails(
    detectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: TrainingRun, *_: Any) -> TrainingResult:
        if not run.name.startswith('alone') and run.name.endswith('1'):
            raise ExperimentError('the training has failed')
        log_metrics(run.folder, 2)
        return TrainingResult(run.name, {'bbox_mAP': 0.25}, 9.0, 'python x')

    monkeypatch.setattr(comparison_run, 'run_training', train)
    outcome = compare_detectors(detectors)
    assert list(outcome.failed) == ['a <b>|c, seed 1']
    data = json.loads((outcome.report / 'report.json').read_text())
    assert [(run['row'], run['seed']) for run in data['runs']] == [
        ('alone', 0), ('alone', 1), ('alone', 2), ('a <b>|c', 0), ('a <b>|c', 2)
    ]  # fmt: skip
    assert data['notes'] == ['a <b>|c, seed 1 is not included: the training has failed']
    page = (outcome.report / 'index.html').read_text()
    assert 'a &lt;b&gt;|c has seeds 0, 2, the base 0, 1, 2;' in page


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_comparison_reports_what_is_there(
    sent: signal.Signals, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: TrainingRun, *more: Any) -> TrainingResult:
        if run.name == 'b-1':
            if sent is signal.SIGTERM:  # SIGINT may be off, behind an `&`
                os.kill(os.getpid(), sent)
                assert more[-1].wait(30), 'nobody told it to stop'
            raise KeyboardInterrupt
        log_metrics(run.folder, run.budget, **{'accuracy/top1': 90.0})
        return TrainingResult(run.name, {}, 9.0, 'python x', 100.0)

    monkeypatch.setattr(comparison_run, 'run_training', train)
    alone = str(files / 'alone.py')
    options = options_of(files, teachers={}, seeds=[0, 1])
    outcome = compare(alone, [f'b={alone}'], files / 'work', options)
    assert outcome.stopped and outcome.comparison is not None
    assert outcome.comparison.metric == 'top1, %'
    assert outcome.comparison.least_gain == 0.5
    assert outcome.comparison.notes == [
        'Stopped early: 1 of 4 trainings are not included.'
    ]
    assert (outcome.report / 'index.html').is_file()


def test_without_a_result_of_the_base_there_is_no_report(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any) -> TrainingResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison_run, 'run_training', train)
    alone = str(files / 'alone.py')
    options = options_of(files, teachers={}, seeds=[0])
    outcome = compare(alone, [f'b={alone}'], files / 'work', options)
    assert outcome.stopped and outcome.comparison is None
    assert not outcome.report.exists()


@pytest.mark.commands
def test_a_real_comparison_is_repaired_and_repeated(
    detectors: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(execution, '_start_process', ForkedTraining)
    monkeypatch.setattr(execution, '_POLL', 0.01)
    monkeypatch.setattr(execution, '_SAVE', 0.0)
    work = detectors / 'work'
    compare_detectors(detectors, seeds=[5])
    last = work / 'alone-5' / 'epoch_2.pth'
    last.write_bytes(last.read_bytes()[:-99])
    (work / 'a_b_c-5' / 'done.json').unlink()
    capsys.readouterr()

    outcome = compare_detectors(detectors, seeds=[5], devices=['cpu', 'cpu'])
    output = capsys.readouterr().out
    assert 'a <b>|c, seed 5: resumes after' in output
    assert 'epoch_2.pth is damaged' in output
    assert 'resumes from epoch_1.pth' in output
    assert last.with_name('epoch_2.pth.damaged').is_file()
    assert is_complete_checkpoint(last)
    page = (outcome.report / 'index.html').read_text()
    picture = Image.open(outcome.report / 'detections.png')
    columns = 4  # ground truth, teacher, student alone, row
    assert picture.width == 8 + columns * (320 + 8) and '"detections.png"' in page
    assert 'mkd-det compare x --seeds 5 0 1\n</code>' in page
    assert 'optional stopping' in page
    check_real_report(json.loads((outcome.report / 'report.json').read_text()))


def test_a_row_that_diverges_is_no_result(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither 0.000 nor the last finite checkpoint stands for it."""
    monkeypatch.setattr(execution, '_start_process', ForkedTraining)
    monkeypatch.setattr(execution, '_POLL', 0.01)
    rows = [
        f'wild={changed(files, "wild", optim_wrapper__optimizer__lr=1e30)}',
        f'tame={files / "alone.py"}',
    ]
    options = options_of(files, teachers={}, seeds=[5], epochs=2)
    outcome = compare(str(files / 'alone.py'), rows, files / 'work', options)
    (title, error), *others = outcome.failed.items()
    assert (title, others) == ('wild, seed 5', [])
    assert type(error) is ExperimentError
    assert 'DivergenceError: the training has diverged' in str(error)
    data = json.loads((outcome.report / 'report.json').read_text())
    assert [row['name'] for row in data['rows']] == ['alone', 'tame']
    assert {run['row'] for run in data['runs']} == {'alone', 'tame'}
    (note,) = (note for note in data['notes'] if note.startswith('wild'))
    assert note.startswith('wild, seed 5 is not included: the training failed')
    assert 'DivergenceError' in note
    for name in ('index.html', 'report.md'):
        text = (outcome.report / name).read_text()
        assert 'wild, seed 5 is not included' in text, name
        assert not [
            line for line in text.splitlines() if 'wild' in line and '0.0' in line
        ]


def check_real_report(data: dict[str, Any]) -> None:
    base, row = data['rows']
    assert row['verdict']['word'] == 'cannot be told from 1 seed'
    assert row['caveats'] == []
    assert set(row['parts']['class']) == set(tiny.CLASSES)
    assert set(row['parts']['size']) == {'small', 'medium', 'large'}
    assert base['memory']['mean'] > 100 and base['iteration']['mean'] > 0
    assert [sorted(run['losses']) for run in data['runs']] == [list('12345678')] * 2
    # The same student sees the same first images.
    first = [run['losses']['1'] for run in data['runs']]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
