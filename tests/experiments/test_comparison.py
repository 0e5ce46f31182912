"""Comparisons: the numbers, the words, the rows, and one that is run through a kill."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config

import tiny
import tiny_images
from mkd_det.experiments.comparison import figures
from mkd_det.experiments.comparison.marks import Start, marks_of, start_of
from mkd_det.experiments.comparison.rows import Common, read_rows, set_budget, split_name
from mkd_det.experiments.comparison.runs import Run, cut_off, outcome, read_run
from mkd_det.experiments.comparison.statistics import judge, paired, spread, student
from mkd_det.errors import ConfigError
from mkd_det.experiments.runs import Lines, Result, Stage, StageError, read_history, run_stage
from mkd_det.experiments.runs.history import MAP
from mkd_det.experiments.runs.recovery import is_complete_checkpoint
from mkd_det.experiments.runs.training import metric_of

ROOT = Path(__file__).resolve().parents[2]
SOFT = dict(type='SoftOutputKD', student='logits', teacher='t.logits', tau=4.0)
RECIPE = dict(taps=dict(logits='head'), terms=dict(loss_soft=SOFT), probe_size=16)


# -- the numbers, and the words -------------------------------------------------


def test_spread_by_hand() -> None:
    found = spread([1.0, 2.0, 6.0])
    assert found.mean == 3 and found.count == 3
    assert found.deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert spread([4.0]).deviation is None
    assert spread([1.0, math.nan]).count == 1
    assert math.isnan(spread([math.nan]).mean)


def test_differences_are_taken_seed_by_seed_where_both_have_the_seed() -> None:
    found = paired({0: 1.0, 1: 2.0, 3: 9.0}, {1: 2.5, 0: 1.25, 2: 7.0})
    assert found.each == {0: 0.25, 1: 0.5}
    assert found.spread.mean == 0.375


def test_students_interval_by_hand() -> None:
    # Mean 2, deviation 1, t(2) = 4.3027: 2 -+ 4.3027 / sqrt(3).
    low, high = student([1.0, 2.0, 3.0]) or (0, 0)
    assert low == pytest.approx(2 - 4.3027 / math.sqrt(3), rel=1e-4)
    assert high == pytest.approx(2 + 4.3027 / math.sqrt(3), rel=1e-4)
    assert student([1.0]) is None
    # -1 and 1, 50 times each: deviation sqrt(100 / 99), t(99) = 1.9842.
    _, high = student([-1.0, 1.0] * 50) or (0, 0)
    assert high == pytest.approx(1.9842 / math.sqrt(99), rel=1e-4)


def test_the_bootstrap_of_three_lies_between_the_least_and_the_largest() -> None:
    found = paired({0: 0, 1: 0, 2: 0}, {0: 0.1, 1: 0.2, 2: 0.6})
    # Each of the ends is drawn three times in 1 of 27 samples, more than 2.5 %.
    assert found.bootstrap == pytest.approx((0.1, 0.6))
    assert paired({0: 0}, {0: 1}).bootstrap is None
    many = {seed: float(seed % 2) for seed in range(100)}
    low, high = paired(dict.fromkeys(many, 0.0), many).bootstrap or (0, 0)
    # Mean 0.5, its standard error 0.05.
    assert low == pytest.approx(0.4, abs=0.015) and high == pytest.approx(
        0.6, abs=0.015
    )


@pytest.mark.parametrize(
    ('differences', 'word'),
    [
        ([0.05, 0.06, 0.055], 'helped'),
        # All above 0, as it happens by chance once in eight times.
        ([0.01, 0.05, 0.12], 'cannot be told from 3 seeds'),
        ([0.05, 0.06], 'cannot be told from 2 seeds'),
        ([0.9], 'cannot be told from 1 seed'),
        ([], 'cannot be told from 0 seeds'),
        ([0.0, 0.0, 0.0], 'did not help'),
        ([-0.05, -0.06, -0.055], 'did not help'),
        # Less than counts, for sure, and perhaps nothing.
        ([0.001, 0.0, -0.001, 0.0], 'did not help'),
        # Little, but for sure.
        ([0.002, 0.0021, 0.0022], 'helped'),
        ([0.03, -0.03, 0.0], 'cannot be told from 3 seeds'),
    ],
)
def test_verdicts(differences: list[float], word: str) -> None:
    seeds = dict(enumerate(differences))
    found = judge(paired(dict.fromkeys(seeds, 0.0), seeds), least=0.005)
    assert found.word == word and found.reason
    little = word == 'helped' and max(differences) < 0.005
    assert ('less than the 0.005 that counts' in found.reason) == little


# -- rows -------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A student alone, a teacher, a recipe and a config; image classifiers."""
    data = tiny_images.write_folder(tmp_path / 'data', 6)
    rate = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2),
        dict(type='MultiStepLR', by_epoch=True, milestones=[6, 8], gamma=0.1),
    ]
    for name, width in (('alone', 4), ('big', 8)):
        cfg = tiny_images.runner_cfg(
            tiny_images.classifier(base_channels=width),
            data,
            tmp_path,
            epochs=10,
            param_scheduler=rate,
        )
        # Chance, after so little: that is not what is tested here.
        cfg.default_hooks.teacher_check = None
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        cfg.pop('work_dir')
        cfg.dump(tmp_path / f'{name}.py')
    Config(dict(recipe=RECIPE)).dump(tmp_path / 'soft.py')
    tiny.write_checkpoint(tiny_images.classifier(base_channels=8), tmp_path / 'big.pth')
    return tmp_path


def common(files: Path, **more: Any) -> Common:
    return Common(
        teachers={'t': str(files / 'big.pth')},
        teacher_cfgs={'t': str(files / 'big.py')},
        **more,
    )


def rows_of(files: Path, *others: str, **more: Any) -> dict[str, Config]:
    given = common(files, **more)
    rows = read_rows(str(files / 'alone.py'), others or [str(files / 'soft.py')], given)
    return {row.name: row.cfg for row in rows}


def changed(files: Path, name: str, **settings: Any) -> str:
    """A config like the student alone but for these; its path."""
    cfg = Config.fromfile(files / 'alone.py')
    cfg.merge_from_dict({key.replace('__', '.'): v for key, v in settings.items()})
    cfg.dump(files / f'{name}.py')
    return str(files / f'{name}.py')


def test_names_of_rows() -> None:
    assert split_name('a/b.py') == ('b', 'a/b.py')
    assert split_name('my row=a/b.py') == ('my row', 'a/b.py')
    assert split_name('mkd_det::bccd/x.py') == ('x', 'mkd_det::bccd/x.py')
    with pytest.raises(ConfigError, match='a name and a file'):
        split_name('=a.py')


def test_a_recipe_becomes_a_whole_config_with_the_bases_student(files: Path) -> None:
    made = rows_of(files)
    base, soft = made['alone'], made['soft']
    assert soft.model.type == 'Distiller' and soft.model.student == base.model
    assert soft.model.teachers.t.checkpoint == str(files / 'big.pth')
    assert soft.model.terms == RECIPE['terms']
    assert 'mkd_det' in soft.custom_imports['imports']
    assert soft.optim_wrapper == base.optim_wrapper
    soft.dump(files / 'written.py')
    assert Config.fromfile(files / 'written.py').model == soft.model


def test_the_budget_scales_schedules_in_its_unit(files: Path) -> None:
    made = rows_of(files, epochs=5)['soft']
    assert made.train_cfg.max_epochs == 5
    warm, steps = made.param_scheduler
    assert steps.milestones == [3, 4]
    assert warm.end == 2  # iterations
    assert made.train_cfg.val_interval == 1
    assert rows_of(files)['soft'].train_cfg.max_epochs == 10
    assert rows_of(files)['soft'].train_cfg.val_interval == 2  # not once, at its end


def test_schedules_of_all_kinds_under_a_small_budget() -> None:
    def scaled(by_epoch: bool, steps: int, **parts: Any) -> Config:
        unit = 'epochs' if by_epoch else 'iters'
        cfg = Config(
            dict(
                model=dict(terms=dict(loss_a=dict(schedule=dict(stop_epoch=12)))),
                train_cfg={f'max_{unit}': 15},
                param_scheduler=dict(by_epoch=by_epoch, **parts),
            )
        )
        set_budget(cfg, Common(**{unit: steps}))
        return cfg

    part = scaled(True, 5, begin=3, end=15, T_max=12).param_scheduler
    assert (part.begin, part.end, part.T_max) == (1, 5, 4)
    assert scaled(True, 5).model.terms.loss_a.schedule.stop_epoch == 4
    assert scaled(False, 5).model.terms.loss_a.schedule.stop_epoch == 12
    part = scaled(True, 1, begin=14, end=15).param_scheduler
    assert (part.begin, part.end) == (0, 1)
    assert scaled(False, 5, step_size=6, end=10**9).param_scheduler.end == 10**9
    assert scaled(False, 5, periods=[6, 9]).param_scheduler.periods == [2, 3]


def test_coco_is_asked_for_every_class(coco_root: Path, tmp_path: Path) -> None:
    cfg = tiny.runner_cfg(tiny.gfl(), coco_root, tmp_path)
    cfg.dump(tmp_path / 'alone.py')
    (row,) = read_rows(str(tmp_path / 'alone.py'), [], Common())
    assert row.cfg.val_evaluator.classwise is True
    assert 'work_dir' not in row.cfg


@pytest.mark.parametrize(
    ('others', 'settings', 'words'),
    [
        (['gone.py'], {}, 'there is no such config file'),
        (['soft.py', 'soft.py'], {}, "two rows are called 'soft'"),
        (['a b=soft.py', 'a_b=big.py'], {}, "two rows are called 'a_b'"),
        (['soft.py'], dict(teacher_cfgs={}), 'soft: a recipe needs a teacher'),
        (['soft.py'], dict(teachers={}), 'the checkpoint of the teacher is missing'),
        (['soft.py'], dict(teachers={'t': 'x', 'u': 'x'}), "a teacher called 'u'"),
        (['soft.py'], dict(iters=5), '--iters: this training is counted in epochs'),
        (['empty.py'], {}, 'no config and no recipe'),
    ],
)
def test_rows_that_cannot_be(
    files: Path, others: list[str], settings: dict, words: str
) -> None:
    (files / 'empty.py').write_text('a = 1\n')
    paths = [re.sub(r'([\w.]+)$', lambda m: str(files / m[1]), o) for o in others]
    given = replace(common(files), **settings)
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_rows(str(files / 'alone.py'), paths, given)


def test_the_base_is_the_student_alone(files: Path) -> None:
    rows_of(files)['soft'].dump(files / 'taught.py')
    for name in ('taught.py', 'soft.py'):
        with pytest.raises(ConfigError, match='not the student alone'):
            read_rows(str(files / name), [], common(files))


# -- marks ------------------------------------------------------------------------


def marks(cfg: Config, base: Config) -> list[str]:
    return marks_of(cfg, base, {0: (start_of(cfg, 0), start_of(base, 0))})


def test_the_student_begins_with_the_same_bits_with_and_without_teacher(
    files: Path,
) -> None:
    made = rows_of(files)
    assert start_of(made['soft'], 3) == start_of(made['alone'], 3)
    assert start_of(made['alone'], 3) != start_of(made['alone'], 4)
    assert marks(made['soft'], made['alone']) == []


def test_the_students_branches_are_no_other_student(
    teacher_file: Path, teacher_cfg: dict, student_cfg: dict
) -> None:
    recipe = Config.fromfile(ROOT / 'configs/_base_/recipes/mkd_dense.py').recipe
    taught = dict(
        type='Distiller',
        student=student_cfg,
        teachers=dict(t=dict(cfg=teacher_cfg, checkpoint=str(teacher_file))),
        probe_size=64,
        **recipe,
    )
    assert start_of(Config(dict(model=taught)), 1) == start_of(
        Config(dict(model=student_cfg)), 1
    )


def test_how_a_base_is_spelled_and_who_looks_on_is_no_difference(
    tmp_path: Path, teacher_file: Path
) -> None:
    other = tmp_path / 'other.py'
    other.write_text(
        "_base_ = ['mkd_det::bccd/gfl_r18-w16_bccd.py']\n"
        "custom_hooks = [dict(type='GradientShareHook')]\n"
    )
    base = str(ROOT / 'configs/bccd/gfl_r18-w16_bccd.py')
    alone, row = read_rows(base, [str(other)], Common())
    assert '_scope_' in row.cfg.pretty_text
    assert marks(row.cfg, alone.cfg) == []


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(optim_wrapper__optimizer__lr=0.2), 'lr 0.2, the base has 0.05'),
        (dict(train_dataloader__batch_size=3), 'another batch size'),
        (dict(train_cfg__max_epochs=3), 'another schedule: train_cfg.max_epochs 3'),
        (dict(model__backbone__base_channels=8), 'another student: '),
        (dict(train_dataloader__dataset__label_noise=0.5), 'other training data'),
        (dict(load_from='x.pth'), 'starts from other weights: load_from'),
        (dict(param_scheduler=[dict(type='LinearLR')]), 'param_scheduler.0'),
        (dict(val_evaluator__topk=[1]), 'measured otherwise'),
        (dict(default_hooks__ema=dict(type='EMAHook')), 'other hooks'),
        (dict(randomness__deterministic=True), 'other randomness'),
        (dict(model__data_preprocessor__mean=[0, 0, 0]), 'student is told otherwise'),
    ],
)
def test_what_differs_beyond_the_teaching_is_marked(
    files: Path, settings: dict, words: str
) -> None:
    other = changed(files, 'other', **settings)
    base, row = read_rows(str(files / 'alone.py'), [other], Common())
    (mark,) = marks(row.cfg, base.cfg)
    assert words in mark


def test_inherited_and_other_weights_are_marked() -> None:
    plain = Config(dict(model=dict(type='X')))
    inherit = dict(teacher='t', modules=['neck', 'bbox_head'])
    model = dict(type='Distiller', student=dict(type='X'), inherit=inherit)
    taught = Config(dict(model=model))
    unequal = {0: (Start('a', 'x', 1), Start('a', 'y', 1))}
    assert marks_of(taught, plain, unequal) == [
        'inherited weights: neck, bbox_head from teacher t'
    ]
    assert marks_of(plain, plain, unequal) == [
        'the student begins with other weights (seeds 0)'
    ]


# -- damaged runs -------------------------------------------------------------------


def log_metrics(folder: Path, epoch: int, start: str = '20250101', **more: Any) -> None:
    """As a validation leaves them; `more` by key, '/' for '__'."""
    scalars = folder / start / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True, exist_ok=True)
    metrics = {MAP: 0.25, 'coco/bbox_mAP_50': 0.5} | more
    with open(scalars, 'a') as file:
        file.write(json.dumps({**metrics, 'data_time': 0.1, 'step': epoch}) + '\n')


@pytest.fixture
def done(tmp_path: Path) -> Stage:
    """A stage of two epochs that is done."""
    stage = Stage(
        name='a',
        title='a',
        config='tools/train.py',
        folder=tmp_path / 'run',
        epochs=2,
        total=6,
        settings={},
    )
    for epoch in (1, 2):
        log_metrics(stage.folder, epoch)
        torch.save(dict(epoch=torch.arange(999)), stage.folder / f'epoch_{epoch}.pth')
    (stage.folder / 'last_checkpoint').write_text(str(stage.checkpoint))
    state = dict(fingerprint=stage.fingerprint, made_from=stage.made_from, seconds=9)
    (stage.folder / 'stage.json').write_text(json.dumps(state))
    result = dict(seconds=9.0, command='python tools/train.py', memory=100)
    (stage.folder / 'done.json').write_text(json.dumps(result))
    (stage.folder / 'train.log').touch()
    return stage


def cut(name: str, keep: float = 0.5) -> Callable[[Path], None]:
    """Leaves the first part of a file."""

    def damage(folder: Path) -> None:
        for path in folder.glob(name):
            content = path.read_bytes()
            path.write_bytes(content[: int(keep * len(content))])

    return damage


def rot(folder: Path) -> None:
    """A bit in the middle of the last checkpoint turns over."""
    path = folder / 'epoch_2.pth'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def put(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: [p.write_bytes(content) for p in folder.glob(name)]


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for path in folder.glob(name)]


def torn(folder: Path) -> None:
    """Killed while the very first file was written."""
    for path in sorted(folder.rglob('*'), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / '.stage.json.1234.partial').write_text('{"fing')


SCALARS = '*/vis_data/scalars.json'
ANEW, EARLIER, THERE = '', 'epoch_1.pth', 'epoch_2.pth'


@pytest.mark.parametrize(
    ('damage', 'words', 'goes_on_from'),
    [
        (cut('stage.json'), 'stage.json is damaged or gone', ANEW),
        (put('stage.json', b'[]'), 'stage.json is damaged or gone', ANEW),
        (put('stage.json', b'\xff\x00'), 'stage.json is damaged or gone', ANEW),
        (lose('stage.json'), 'stage.json is damaged or gone', ANEW),
        (torn, 'stage.json is damaged or gone', ANEW),
        (cut('done.json'), 'its done.json is damaged', THERE),
        (put('done.json', b'{"seconds": 3}'), 'its done.json is damaged', THERE),
        (cut(SCALARS), 'checkpoint, student or figures are damaged or gone', THERE),
        (cut(SCALARS, 0), 'checkpoint, student or figures are damaged or gone', THERE),
        (put(SCALARS, b'\xff\xfe\n3\n[]\n"'), 'figures are damaged or gone', THERE),
        (lose(SCALARS), 'checkpoint, student or figures are damaged or gone', THERE),
        (cut('epoch_2.pth'), 'epoch_2.pth is damaged', EARLIER),
        (cut('epoch_2.pth', 0), 'epoch_2.pth is damaged', EARLIER),
        (rot, 'epoch_2.pth is damaged', EARLIER),
        (lose('epoch_2.pth'), 'goes on from epoch_1.pth', EARLIER),
        (cut('epoch_*.pth'), 'no checkpoint is left to go on from', ANEW),
        (lose('epoch_*.pth'), 'no checkpoint is left to go on from', ANEW),
    ],
)
def test_a_damaged_run_is_mended_or_run_again_and_that_is_said(
    damage: Callable[[Path], None],
    words: str,
    goes_on_from: str,
    done: Stage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    damage(done.folder)
    left = sum(path.is_file() for path in done.folder.rglob('*'))
    found = []

    def train(stage: Stage, state: dict, *_: Any) -> dict:
        note = stage.folder / 'last_checkpoint'
        found.append(Path(note.read_text()).name if note.exists() else '')
        assert all(is_complete_checkpoint(path) for path in stage.folder.glob('epoch_*.pth'))
        log_metrics(stage.folder, 2, start='20250102')
        torch.save({}, stage.checkpoint)
        return {**state, 'seconds': 12.0}

    monkeypatch.setattr('mkd_det.experiments.runs.stage._train', train)
    assert run_stage(done, {}, Lines(1)).figures['box_map'] == 0.25
    assert found == [goes_on_from]
    assert words in capsys.readouterr().out
    assert (done.folder.with_name('run.old1')).exists() == (goes_on_from == ANEW)
    kept = sum(path.is_file() for path in done.folder.parent.rglob('*'))
    assert kept >= left  # nothing is deleted
    assert run_stage(done, {}, Lines(1)).seconds == 12.0
    assert len(found) == 1 and 'done before' in capsys.readouterr().out


def test_a_damaged_student_is_written_again(
    done: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    student = done.folder / 'student_last.pth'
    student.write_bytes(done.checkpoint.read_bytes()[:-9])

    def train(stage: Stage, state: dict, *_: Any) -> dict:
        torch.save({}, student)
        return {**state, 'seconds': 12.0}

    monkeypatch.setattr('mkd_det.experiments.runs.stage._train', train)
    assert run_stage(done, {}, Lines(1)).seconds == 12.0
    assert 'damaged or gone; goes on' in capsys.readouterr().out
    assert is_complete_checkpoint(student)


@pytest.mark.parametrize('note', [b'', b'\xff\x00', b'/elsewhere/epoch_2.pth'])
def test_a_note_that_names_nothing_is_put_right(
    note: bytes, done: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> dict:
        raise StageError('it goes on')

    monkeypatch.setattr('mkd_det.experiments.runs.stage._train', fails)
    lose('done.json')(done.folder)
    put('last_checkpoint', note)(done.folder)
    with pytest.raises(StageError, match='it goes on'):
        run_stage(done, {}, Lines(1))
    assert (done.folder / 'last_checkpoint').read_text() == str(done.checkpoint)


def test_a_size_of_which_there_is_nothing_is_no_zero(tmp_path: Path) -> None:
    log_metrics(tmp_path, 1, **{'coco/bbox_mAP_s': -1.0})
    assert math.isnan(read_history(tmp_path).metrics[1]['coco/bbox_mAP_s'])


def test_no_detection_is_a_zero_of_whatever_counts(done: Stage) -> None:
    """CocoMetric says nothing then."""
    key = 'coco/bbox_mAP_75'
    stage = replace(done, figures={'bbox_mAP_75': key})
    (log,) = stage.folder.glob(SCALARS)
    log.write_text('')
    for epoch in (1, 2):
        with open(log, 'a') as file:
            file.write(json.dumps({'data_time': 0.1, 'step': epoch}) + '\n')
    figures = stage.measured()
    assert figures == {'bbox_mAP_75': 0.0}
    run = read_run('a', 0, stage, Result('a', figures, 1.0, ''), key)
    assert run.metrics[key] == 0.0 and run.curve == {1: 0.0, 2: 0.0}


# -- the tool -------------------------------------------------------------------------


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    return importlib.import_module('compare')


def fails(tool: Any, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert tool.main(list(arguments)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'nothing to compare with'),
        (['--base', 'b', '--seeds', '1', '2', '1'], '1 is given twice'),
        (['--base', 'b', '--seeds', '-1'], '0 or above'),
        (['--base', 'b', '--epochs', '0'], '--epochs must be at least 1'),
        (['--base', 'b', '--epochs', '1', '--iters', '1'], 'cannot both'),
        (['--base', 'b', '--least', '-1'], '--least must be'),
        (['--base', 'b', '--teacher', 'x', '--teacher', 't=y'], "are called 't'"),
        (['--base', 'b', '--teacher', 'gone.pth'], '--teacher: there is no such file'),
    ],
)
def test_arguments_that_cannot_be(
    tool: Any, capsys: pytest.CaptureFixture, arguments: list[str], words: str
) -> None:
    assert words in fails(tool, capsys, 'a.py', *arguments)


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(val_evaluator__topk=[3]), 'odd: `metric` is not measured'),
        (dict(model__num_classes=4), 'odd: the student tells 4 classes apart'),
        (dict(optim_wrapper__type='AmpOptimWrapper'), 'odd: mixed precision'),
        (dict(visualizer=dict(type='Visualizer')), 'odd: its visualizer writes no'),
        (dict(default_hooks__checkpoint__save_last=False), 'odd: its last checkpoint'),
        (dict(train_cfg__val_begin=99), 'odd: it is never validated'),
    ],
)
def test_what_would_stop_a_later_row_is_told_before_the_first(
    files: Path, tool: Any, capsys: Any, settings: dict, words: str
) -> None:
    odd = changed(files, 'odd', **settings)
    work = str(files / 'work')
    base = str(files / 'alone.py')
    assert words in fails(tool, capsys, odd, '--base', base, '--work-dir', work)
    assert not list(files.glob('work/alone-*'))


def test_a_recipe_that_does_not_fit(files: Path, tool: Any, capsys: Any) -> None:
    Config(dict(recipe={**RECIPE, 'taps': dict(logits='haed')})).dump(files / 'bad.py')
    base, bad = str(files / 'alone.py'), str(files / 'bad.py')
    big = ['--teacher', str(files / 'big.pth'), '--teacher-cfg', str(files / 'big.py')]
    work = str(files / 'work')
    said = fails(tool, capsys, bad, '--base', base, *big, '--work-dir', work)
    assert 'bad: ' in said and 'haed' in said


def test_ctrl_c_says_how_to_go_on(
    files: Path, tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, 'run_stage', stop)
    base, other = str(files / 'alone.py'), f'b={files / "alone.py"}'
    with pytest.raises(SystemExit) as caught:
        tool.main([other, '--base', base, '--work-dir', str(files / 'work')])
    assert caught.value.code == 130
    assert 'goes on from here' in capsys.readouterr().out


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_what_is_there_is_reported_when_it_is_stopped(
    sent: signal.Signals,
    files: Path,
    tool: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    before = signal.getsignal(sent)

    def train(stage: Stage, *more: Any) -> Result:
        if stage.name == 'b-1':
            if sent is signal.SIGTERM:  # SIGINT may be off, behind an `&`
                os.kill(os.getpid(), sent)
                assert more[-1].wait(30), 'nobody told it to stop'
            raise KeyboardInterrupt
        log_metrics(stage.folder, stage.epochs, **{'accuracy/top1': 90.0})
        return Result(stage.name, {}, 9.0, 'python x', 100.0)

    monkeypatch.setattr(tool, 'run_stage', train)
    base, other = str(files / 'alone.py'), f'b={files / "alone.py"}'
    work = str(files / 'work')
    with pytest.raises(SystemExit) as caught:
        tool.main([other, '--base', base, '--seeds', '0', '1', '--work-dir', work])
    assert caught.value.code == 130
    out = files / 'work' / 'report'
    assert str(out / 'index.html') in capsys.readouterr().out
    assert 'Stopped before its end: 1 of 4 runs' in (out / 'report.md').read_text()
    assert signal.getsignal(sent) is before


@pytest.fixture
def detectors(tmp_path: Path, coco_root: Path) -> Path:
    """A tiny detector alone, its teacher, and a recipe with a name to be escaped."""
    for name, model in (
        ('alone', tiny.gfl(base_channels=4, neck=8)),
        ('big', tiny.gfl(base_channels=8, neck=16)),
    ):
        model['test_cfg']['score_thr'] = 0.0
        cfg = tiny.runner_cfg(model, coco_root, tmp_path, epochs=2)
        cfg.default_hooks.teacher_check = None
        cfg.dump(tmp_path / f'{name}.py')
        tiny.write_checkpoint(model, tmp_path / f'{name}.pth')
    attention = dict(type='AttentionKD', student='fpn', teacher='t.fpn')
    recipe = dict(
        taps=dict(fpn='neck'), terms=dict(loss_attention=attention), probe_size=64
    )
    Config(dict(recipe=recipe)).dump(tmp_path / 'attention.py')
    return tmp_path


def arguments(files: Path, *more: str) -> list[str]:
    return [
        f'a <b>|c={files / "attention.py"}',
        *('--base', str(files / 'alone.py'), '--work-dir', str(files / 'work')),
        *('--teacher', str(files / 'big.pth'), '--teacher-cfg', str(files / 'big.py')),
        *more,
    ]


def test_the_report_says_what_the_logs_say(
    detectors: Path, tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def train(stage: Stage, *_: Any) -> Any:
        seed = int(stage.options['randomness.seed'])
        taught = not stage.name.startswith('alone')
        for epoch in (1, 2):
            log_metrics(
                stage.folder,
                epoch,
                **{
                    MAP: 0.1 * epoch + 0.01 * seed + 0.05 * taught,
                    'coco/bbox_mAP_s': -1.0,
                    'coco/bbox_mAP_m': 0.3,
                    'coco/bbox_mAP_l': 0.4,
                    'coco/red_precision': 0.5 + 0.1 * taught,
                    'coco/blue_precision': math.nan,
                },
            )
        with open(next(stage.folder.glob(SCALARS)), 'a') as file:
            for step in (1, 2) if stage.name == 'alone-1' else (1, 2, 3):
                line = dict(loss=4.0 - step, loss_cls=3.0 - step, step=step, lr=1)
                file.write(json.dumps({**line, 'time': 0.2 + 0.1 * taught}) + '\n')
        memory = 100.0 + 20 * taught
        return Result(stage.name, {'bbox_mAP': 0.0}, 9.0, 'python x', memory)

    monkeypatch.setattr(tool, 'run_stage', train)
    monkeypatch.chdir(detectors)
    other = changed_detector(detectors)
    assert tool.main(arguments(detectors, other)) == 0
    out = detectors / 'work' / 'report'
    data = json.loads((out / 'report.json').read_text())
    # What is shared with others does not tell where it lay.
    assert data['rows'][0]['config'] == 'work/configs/alone.py'
    check_json(data)
    check_texts(out)
    assert 'cannot be told' not in capsys.readouterr().out


def changed_detector(files: Path) -> str:
    cfg = Config.fromfile(files / 'alone.py')
    cfg.optim_wrapper.optimizer.lr = 0.5
    cfg.dump(files / 'alone_fast.py')
    return str(files / 'alone_fast.py')


def check_json(data: dict[str, Any]) -> None:
    base, taught, fast = data['rows']
    assert data['key'] == MAP and data['seeds'] == [0, 1, 2]
    assert base['figure']['mean'] == pytest.approx(0.21)
    assert base['figure']['deviation'] == pytest.approx(0.01)
    assert base['verdict'] is None and base['marks'] == []
    assert taught['difference']['spread']['mean'] == pytest.approx(0.05)
    assert taught['difference']['bootstrap'] == pytest.approx([0.05, 0.05])
    assert taught['verdict']['word'] == 'helped' and taught['marks'] == []
    assert fast['verdict']['word'] == 'did not help'
    assert 'lr 0.5, the base has 0.001' in fast['marks'][0]
    assert taught['extra_iteration']['mean'] == pytest.approx(0.1)
    assert taught['extra_memory']['mean'] == 20
    assert taught['parts']['size']['small']['mean'] is None
    assert taught['parts']['class']['red']['mean'] == pytest.approx(0.6)
    assert taught['parts']['class']['blue']['mean'] is None
    assert len(data['runs']) == 9
    run = data['runs'][3]
    assert (
        run['row'] == 'a <b>|c' and run['seed'] == 0 and run['memory_of'] == 'process'
    )
    assert run['curve'] == {'1': pytest.approx(0.15), '2': pytest.approx(0.25)}
    assert run['losses'] == {'1': 2.0, '2': 1.0, '3': 0.0}


def check_texts(out: Path) -> None:
    page, text = (out / 'index.html').read_text(), (out / 'report.md').read_text()
    links = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert links == {'runs.png', 'curves.png', 'parts.png'}
    for name in links:
        assert (out / name).stat().st_size > 5000
        assert f']({name})' in text
    assert 'a &lt;b&gt;|c: helped.' in page and '<b>' not in page
    assert 'a &lt;b&gt;\\|c: helped.' in text
    assert 'alone_fast*' in page and 'did not help' in page
    assert '+0.100 (+50 %)' in page and '+20 (+20 %)' in page
    assert 'three of three' in page  # how it is judged
    assert 'a part of the log was lost: alone with seed 1.' in page


@pytest.mark.skipif(sys.platform != 'linux', reason='kills trees of processes')
def test_a_comparison_from_nothing_to_its_report_through_a_kill_and_damage(
    detectors: Path,
) -> None:
    def command(*more: str) -> list[str]:
        given = arguments(detectors, '--seeds', '5', *more)
        return [sys.executable, str(ROOT / 'tools' / 'compare.py'), *given]

    work = detectors / 'work'
    alone, taught = work / 'alone-5', work / 'a_b_c-5'
    process = subprocess.Popen(
        command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    )
    while not (taught / 'last_checkpoint').exists():
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert (alone / 'done.json').is_file() and not (taught / 'done.json').exists()

    cut('epoch_2.pth')(alone)
    done = subprocess.run(
        command('--devices', 'cpu', 'cpu'), capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'a <b>|c, seed 5: goes on after' in done.stdout
    assert 'epoch_2.pth is damaged' in done.stdout
    assert 'goes on from epoch_1.pth' in done.stdout
    assert (alone / 'epoch_2.pth.damaged').is_file()
    assert is_complete_checkpoint(alone / 'epoch_2.pth')
    data = json.loads((work / 'report' / 'report.json').read_text())
    base, row = data['rows']
    assert row['verdict']['word'] == 'cannot be told from 1 seed'
    assert row['marks'] == []
    assert set(row['parts']['class']) == set(tiny.CLASSES)
    assert set(row['parts']['size']) == {'small', 'medium', 'large'}
    assert base['memory']['mean'] > 100 and base['iteration']['mean'] > 0
    assert [sorted(run['losses']) for run in data['runs']] == [list('12345678')] * 2
    # The same student, and the same first images.
    first = [run['losses']['1'] for run in data['runs']]
    assert first[0] == pytest.approx(first[1], rel=1e-5)


def test_what_fails_is_told_and_the_others_are_compared(
    detectors: Path, tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def train(stage: Stage, *_: Any) -> Any:
        if not stage.name.startswith('alone') and stage.name.endswith('1'):
            raise StageError('the training has failed', fix='its log')
        log_metrics(stage.folder, 2)
        return Result(stage.name, {'bbox_mAP': 0.25}, 9.0, 'python x')

    monkeypatch.setattr(tool, 'run_stage', train)
    assert tool.main(arguments(detectors)) == 2
    data = json.loads((detectors / 'work/report/report.json').read_text())
    assert [(run['row'], run['seed']) for run in data['runs']] == [
        ('alone', 0), ('alone', 1), ('alone', 2), ('a <b>|c', 0), ('a <b>|c', 2)
    ]  # fmt: skip
    assert data['notes'] == ['a <b>|c, seed 1: failed; not in here.']
    assert 'the training has failed' in capsys.readouterr().err


def test_warm_ups_never_become_one_step() -> None:
    """mmengine does not take those back."""
    cfg = Config(
        dict(
            train_cfg=dict(max_iters=90_000),
            model=dict(),
            param_scheduler=dict(
                type='LinearLR', by_epoch=False, start_factor=0.001, begin=0, end=500
            ),
            custom_hooks=[],
        )
    )
    set_budget(cfg, Common(iters=100))
    assert cfg.param_scheduler.end == 2


@pytest.mark.parametrize(
    'evaluator, wanted, key',
    [
        (dict(type='CocoMetric'), '', 'coco/bbox_mAP'),
        (dict(type=CocoMetric), '', 'coco/bbox_mAP'),
        (dict(type='CocoMetric', metric=['bbox', 'segm']), 'coco/segm_mAP', ''),
        (dict(type='CocoMetric', prefix='val'), '', 'val/bbox_mAP'),
        (dict(type='CocoMetric', classwise=True), 'coco/RBC_precision', ''),
        (dict(type='CocoMetric', metric_items=['mAP_50']), '', 'coco/bbox_mAP_50'),
        (dict(type='VOCMetric', iou_thrs=[0.75]), 'pascal_voc/AP75', ''),
        (dict(type='mmdet.ClassAccuracy', topk=[2]), '', 'accuracy/top2'),
    ],
)
def test_what_an_evaluator_measures(evaluator: dict, wanted: str, key: str) -> None:
    cfg = Config(dict(val_evaluator=evaluator))
    assert metric_of(cfg, 'it', wanted)[1] == (key or wanted)


@pytest.mark.parametrize(
    'evaluator, wanted',
    [
        (dict(type='CocoMetric', metric='proposal'), ''),
        (dict(type='CocoMetric'), 'coco/segm_mAP'),
        (dict(type='CocoMetric'), 'coco/RBC_precision'),
        (dict(type='VOCMetric', iou_thrs=[0.75]), 'pascal_voc/AP50'),
    ],
)
def test_what_it_does_not_measure_is_told(evaluator: dict, wanted: str) -> None:
    with pytest.raises(ConfigError, match='metric'):
        metric_of(Config(dict(val_evaluator=evaluator)), 'it', wanted)


def test_names_that_matplotlib_takes_for_its_own_are_shown() -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    for name in ('_soft', 'x$y'):
        axes.plot([0, 1], [0, 1], label=figures._plain(name))
    labels = axes.get_legend_handles_labels()[1]
    assert [label.strip() for label in labels] == ['_soft', r'x\$y']


def found(row: str, **metrics: float) -> Run:
    whole = {'coco/bbox_mAP': 0.0, **{f'coco/{k}': v for k, v in metrics.items()}}
    return Run(row, 0, whole, {}, {}, None, None, '', 1.0, '')


def test_a_row_that_finds_nothing_has_zero_of_what_the_base_has() -> None:
    sizes = dict(bbox_mAP_s=0.2, bbox_mAP_m=0.4, bbox_mAP_l=math.nan, cat_precision=0.3)
    base, none = [found('alone', **sizes)], [found('odd')]
    about: dict[str, Any] = dict(source='', config='', marks=[], params=1)
    told = outcome(none, base, 'coco/bbox_mAP', 0.005, **about).parts
    assert told['size']['small'].mean == told['size']['medium'].mean == 0.0
    assert told['class']['cat'].mean == 0.0
    assert math.isnan(told['size']['large'].mean)  # the data has none


def test_a_file_where_a_run_should_be_is_told(files: Path, tool: Any) -> None:
    (files / 'work').mkdir()
    (files / 'work' / 'run').write_text('mine')
    stage = Stage('run', 'run', 'x.py', files / 'work' / 'run', 1, 1, settings={})
    with pytest.raises(StageError, match='something else than a stage'):
        run_stage(stage, {}, Lines(1))
    assert (files / 'work' / 'run').read_text() == 'mine'


def test_a_run_whose_log_is_lost_is_left_out_of_the_curves() -> None:
    whole = Run('a', 0, {}, {1: 0.1}, {1: 2.0}, None, None, '', 1.0, '')
    short = replace(whole, seed=1, curve={})
    assert cut_off([whole, short], [whole, short]) == [short]
    none = replace(whole, losses={})  # its row has none that it is shorter than
    assert cut_off([none], [none, whole]) == [none]
    assert cut_off([none], [none]) == []  # too short a training to log any


def test_devices_that_are_not_there_are_refused(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,3')
    assert tool.parse_args(['a.py', '--devices', '3', '2', 'cpu']).devices[0] == '3'
    with pytest.raises(SystemExit):
        tool.parse_args(['a.py', '--devices', '0'])
    assert 'GPUs here: 2, 3' in capsys.readouterr().err


def test_rows_have_colours_of_their_own() -> None:
    assert len({figures._colour(number) for number in range(21)}) == 21
