"""The authors' measurements: every row is a training that its options fit."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import gfl_pairs
import measure_arsenal
import measure_bccd
import measure_calibration
import measure_chain
import measure_cifar10
import measure_classifiers
import measure_families
import measure_mkd
import measure_speed
import measure_unlabelled
import measuring
import protocol
import pytest
import unlabelled_experiments
from mmengine.config import Config
from PIL import Image

from mkd_det.cli import compare
from mkd_det.config_files.reading import load_config, read_config
from mkd_det.errors import CheckpointFileError, ConfigError, ExperimentError
from mkd_det.experiments.chain.chain import read_chain
from mkd_det.experiments.comparison.options import ComparisonOptions
from mkd_det.experiments.comparison.rows import read_rows
from mkd_det.plan.recipes import read_recipe
from mkd_det.training.runtime import build_model
from tooling import distiller_cfg, plain_dumps, write_config


def test_no_script_imports_another(root: Path) -> None:
    for file in (root / 'benchmarks').glob('*.py'):
        assert 'import measure_' not in file.read_text()
        assert 'from measure_' not in file.read_text()


def test_every_row_on_bccd_is_planned_with_every_seed() -> None:
    rows = list(measure_bccd.ROWS)
    parser = measuring.make_parser('', rows, 'work_dirs/bccd')
    planned = measure_bccd.plan_trainings(parser.parse_args(['--seeds', '0', '1']))
    assert [row for row, _, _ in planned] == ['teacher', *rows, *rows]
    assert 'model.teachers.t.checkpoint' not in planned[1][2].options
    taught = planned[2][2].options['model.teachers.t.checkpoint']
    assert taught == str(planned[0][2].checkpoint)
    parameters = measure_bccd.parameters
    assert parameters('teacher') > 10 * parameters('full M-KD') > 0


def test_every_row_on_cifar10_is_a_config_that_its_options_fit(tmp_path: Path) -> None:
    for depth in (56, 44, 32):
        (tmp_path / f'resnet{depth}-cifar10jpeg.pth').touch()
    args = measure_cifar10.parse_args(['--weights', str(tmp_path), '--seeds', '7'])
    for row, seed, training in measure_cifar10.plan_trainings(args):
        cfg = read_config(training.config)
        named = set(cfg.model.get('teachers', ()))
        given = {key.split('.')[2] for key in training.options if 'teachers' in key}
        assert given == {n for n in named if 'cfg' in cfg.model.teachers[n]}, row
        for key in training.options:
            if key.endswith('.checkpoint'):
                assert Path(training.options[key]).is_file()
        assert (seed, training.options['randomness.seed']) == (7, '7')
        assert training.iterations == 15 * 313
    assert measure_cifar10.main(['--weights', str(tmp_path / 'none')]) == 2


def test_results_become_json_page_and_figure(tmp_path: Path) -> None:
    def entry(row: str, seed: int, value: float) -> dict[str, Any]:
        values = dict(box_map=value, box_map_50=2 * value)
        return dict(name=row, seed=seed, params=1, seconds=60.0, command='', **values)

    entries = [
        entry('teacher', 0, 0.4),
        entry('full M-KD', 0, 0.1),
        entry('full M-KD', 1, 0.3),
    ]
    measuring.write_report(measure_bccd.REPORT, 'the command', tmp_path, entries)
    assert json.loads((tmp_path / 'bccd.json').read_text()) == entries
    page = (tmp_path / 'bccd.md').read_text()
    assert page.startswith('# M-KD on BCCD: all numbers\n\n    the command\n')
    assert '| full M-KD | 0.200 ± 0.141 | 0.400 | 0.100, 0.300 | 60 |' in page
    assert (tmp_path / 'bccd.png').stat().st_size > 1000


@pytest.mark.parametrize('experiment', list(measure_chain.EXPERIMENTS))
def test_every_row_of_chains_is_a_chain(experiment: str, tmp_path: Path) -> None:
    """A given member was trained by an earlier row, or is in the folder."""
    rows = measure_chain.EXPERIMENTS[experiment].rows
    weights = measure_chain.EXPERIMENTS[experiment].weights
    for name in weights.values():
        (tmp_path / name).touch()
    given = [experiment, '--weights', str(tmp_path), '--seeds', '7']
    args = measure_chain.parse_args([*given, '--work-dir', 'runs'])
    assert args.rows == list(rows)
    students = set()
    for row in args.rows:
        if row == 'alone':
            continue
        chain = read_chain(Config(measure_chain.chain_of(args, row, 7)).to_dict())
        students.add(chain.members[-1].name)
        for member in chain.members:
            lender = rows[row].given.get(member.name)
            if member.name in weights:
                assert member.checkpoint == str(tmp_path / weights[member.name])
            elif lender:
                assert lender in args.rows[: args.rows.index(row)]
                own = measure_chain.folder_of(args, lender, 7) / 'students'
                assert member.checkpoint == str(own / f'{member.name}.pth')
            else:
                assert member.checkpoint is None
    assert len(students) == 1
    if weights:
        none = str(tmp_path / 'none')
        assert measure_chain.main([experiment, '--weights', none]) == 2


def test_members_of_chains_are_averaged_over_seeds() -> None:
    entries = [
        dict(
            name='TAKD',
            seed=seed,
            top1=value,
            stages=[
                dict(name='t', params=3, top1=90.0),
                dict(name='s', params=1, top1=value),
            ],
        )
        for seed, value in enumerate((60.0, 64.0))
    ]
    entries.append(dict(name='alone', seed=0, params=1, top1=50.0))
    found = measure_chain.mean_members(entries, 'top1')
    assert [(m['name'], m['top1']) for m in found['TAKD']] == [('t', 90), ('s', 62)]
    assert [(m['params'], m['top1']) for m in found['alone']] == [(1, 50)]


@pytest.mark.parametrize('pair', ['gfl', 'retinanet'])
def test_every_row_of_the_arsenal_teaches_the_base(
    pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    compare = measure_arsenal.compare
    monkeypatch.setattr(compare, 'main', lambda argv: given.extend(argv))
    weights = tmp_path / f'{pair}_r18-w64_bccd.pth'
    weights.touch()
    argv = ['--out', str(tmp_path), '--weights', str(tmp_path), '--pairs', pair]
    assert measure_arsenal.main(argv) == 0
    args = compare.make_parser().parse_args(given)
    named_paths = compare.named_paths
    options = ComparisonOptions(
        teachers=named_paths('--teacher', args.teacher),
        teacher_cfgs=named_paths('--teacher-cfg', args.teacher_cfg),
    )
    base, *rows = read_rows(args.base, args.rows, options)
    assert [row.name for row in rows] == list(measure_arsenal.PAIRS[pair][0])
    for row in rows:
        taught = row.cfg.model
        assert taught.student == base.cfg.model, row.name
        assert taught.teachers['t'].checkpoint == str(weights)
    assert json.loads((tmp_path / 'arsenal.json').read_text()) == {}


def test_measured_speeds_become_table_and_figure(
    coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in measure_speed.CASES.values():
        read_config(options[0])
    with plain_dumps():
        config = tmp_path / 'config.py'
        write_config(config, distiller_cfg(None), coco_root, tmp_path / 'run')
    case = [str(config), '--batches', '2', '--batch-size', '2', '--warmup', '2']
    monkeypatch.setattr(measure_speed, 'CASES', {'tiny': case})
    out = tmp_path / 'out'
    assert measure_speed.main(['--iters', '1', '--out', str(out)]) == 0
    saved = json.loads((out / 'speed.json').read_text())['tiny']
    assert saved['command'].startswith('mkd-det benchmark ')
    ratio = saved['ratios']['K cached']['of_medians']
    assert f'{ratio:.2f} |' in (out / 'speed.md').read_text()
    assert saved['speedups']['K cached']['t'] == 'read from a disk'
    assert (out / 'speed.png').stat().st_size > 1000


@pytest.fixture
def gfl_args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of measurements of the GFL pairs; the data are not read."""
    monkeypatch.setattr(gfl_pairs, 'write_val', lambda work_dir: None)
    return ['--weights', str(tmp_path), '--work-dir', str(tmp_path)]


@pytest.mark.parametrize('data', gfl_pairs.DATA)
def test_every_way_to_set_weights_is_a_row(
    data: str, gfl_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrations are not run, but written: 0.7 on BCCD, 0.9 elsewhere."""
    calls = []

    def calibrate(argv: list[str]) -> None:
        calls.append(argv)
        terms = dict(loss_soft=dict(weight=0.7 if 'bccd' in argv[0] else 0.9))
        Path(argv[argv.index('--json') + 1]).write_text(json.dumps(dict(terms=terms)))

    monkeypatch.setattr(measure_calibration.calibrate, 'main', calibrate)
    args = measure_calibration.parse_args(gfl_args)
    rows = measure_calibration.rows_on(args, data)
    weights = []
    for row in rows:
        cfg = measure_calibration.make_row(args, data, row)
        weights.append(cfg.model.terms.loss_soft.weight)
        assert cfg.custom_hooks[0].type == 'GradientShareHook'
        held = row == measure_calibration.HELD
        assert held == bool(cfg.model.get('balance'))
    recipe = read_recipe('mkd_det::_base_/recipes/mkd_dense.py').arguments
    shipped = recipe['terms']['loss_soft']['weight']
    carried = [] if data == 'bccd' else [0.7]
    own = 0.7 if data == 'bccd' else 0.9
    assert weights == [shipped, *carried, own, shipped]
    assert len(calls) == len({0.7, own})


def test_bccd_is_chosen_on_val(tmp_path: Path) -> None:
    val = gfl_pairs.alone(tmp_path, 'bccd').val_dataloader
    assert val.dataset.ann_file.endswith('bccd_val.json')


@pytest.mark.parametrize('row', measure_mkd.ROWS)
def test_every_row_of_mkd_is_planned(
    row: str, gfl_args: list[str], tmp_path: Path
) -> None:
    args = measure_mkd.parse_args(gfl_args)
    settings = dict(lr=0.5, weight=2.0, ema=0, cosine=0)
    cfg = measure_mkd.make_row(args, 'cards', row, 1, settings)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    of, times = measure_mkd.LONGER.get(row, (row, 1))
    assert cfg.train_cfg.max_epochs == 16 * times
    assert cfg.param_scheduler[1].milestones == [11 * times, 14 * times]
    if of == measure_mkd.BASE:
        assert cfg.optim_wrapper.optimizer.weight_decay == 0.1
        return
    weight = {name: term.weight for name, term in cfg.model.terms.items()}
    base = measure_mkd.make_row(args, 'cards', row, 0, dict(settings, weight=1.0))
    assert weight == {name: 2 * t.weight for name, t in base.model.terms.items()}
    teacher = cfg.model.teachers['t']
    assert teacher.checkpoint == str(tmp_path / 'gfl_r18-w64_cards_1.pth')
    teacher.update(checkpoint=None, cache=None)
    model = build_model(cfg)
    kept = {**measure_mkd.PARTS, **measure_mkd.LESS}.get(of, cfg.model.terms)
    assert set(model.plan.terms) == set(kept)
    soft = [t for t in cfg.model.terms.values() if t.type == 'SoftOutputKD']
    assert all(term.balance == 1.0 for term in soft)
    explored = 'loss_feature' in kept and 'exploration' not in row
    assert bool(cfg.model.get('branches')) == (explored and row not in PEERS)
    if row == measure_mkd.FASTER:
        multiplied = cfg.optim_wrapper.paramwise_cfg.custom_keys
        found = [
            name
            for name, _ in model.student.named_parameters()
            if any(key in name for key in multiplied)
        ]
        assert len(found) == 10  # weight and bias of five convolutions


def test_averaged_weights_and_a_cosine_are_offered_to_every_row(
    gfl_args: list[str],
) -> None:
    args = measure_mkd.parse_args(gfl_args)
    settings = dict(lr=0.5, weight=1.0, ema=1, cosine=1)
    for row in measure_mkd.BASE, 'M-KD, 3 times as long':
        cfg = measure_mkd.make_row(args, 'cards', row, 0, settings)
        assert cfg.custom_hooks[-1].type == 'EMAHook'
        warm_up, cosine = cfg.param_scheduler
        assert warm_up.type == 'LinearLR'
        assert cosine.T_max == cosine.end == cfg.train_cfg.max_epochs
    stages = measure_mkd.STAGES
    assert sum(len(stage.values) for stage in stages) == 8  # as many for all rows


PEERS = measure_mkd.PEERS


def test_rows_of_mkd_that_belong_to_another_bring_it_along(
    gfl_args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(protocol, 'measure', lambda *given: calls.append(given))
    argv = [*gfl_args, '--data', 'cards', 'pcb', '--rows', measure_mkd.LINEAR[0]]
    argv.append('student alone, twice as long')
    assert measure_mkd.main(argv) in (None, 0)
    [([task, other], _, seeds)] = calls
    assert list(task.rows) == ['student alone', 'M-KD'] and seeds == [0, 1, 2, 3, 4]
    assert (task.place.out.name, other.place.out.name) == ('mkd_cards', 'mkd_pcb')
    assert {row: of for row, (of, _) in task.also.items()} == {
        measure_mkd.LINEAR[0]: 'M-KD',
        'student alone, twice as long': 'student alone',
        'M-KD, second teacher': 'M-KD',
    }
    assert measure_mkd.main([*argv, '--epochs', '2']) == 2  # it would not be longer


def test_shares_that_trainings_had_are_read_from_their_logs(tmp_path: Path) -> None:
    log = tmp_path / 'run' / '2026' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    shares = {50: 100.0, 100: 2.0, 200: 8.0, 250: 1.0}
    lines = [json.dumps(dict(step=s, stat_share_soft=v)) for s, v in shares.items()]
    log.write_text('\n'.join([*lines, '{"step": 300, "stat_sh']))
    had = measure_calibration.shares_had([tmp_path / 'run'])
    assert had == dict(soft=dict(first=pytest.approx(4.0), later=1.0))
    figure = dict(mean=0.41, deviation=0.01, count=3)
    term = dict(share=3.0, weight=0.7, measured=4.3)
    found = dict(
        split='test',
        calibration=dict(loss_soft=term),
        metrics={measure_calibration.CALIBRATED: figure},
        shares=dict.fromkeys(measure_calibration.WEIGHINGS, had),
    )
    file = tmp_path / 'calibration.md'
    file.write_text(f'an old table\n\n{measure_calibration.WORDS}\n\nMuch.\n')
    text = measure_calibration.page(
        dict(cards=found), measure_calibration.words_of(file)
    )
    assert 'an old table' not in text
    assert text.endswith(f'pooled\n```\n\n{measure_calibration.WORDS}\n\nMuch.\n')
    assert '| cards |  |  |  | 0.410 ± 0.010 |  |' in text
    assert '| cards | loss_soft | 3 | 0.7 | 4.3 |' in text
    assert '| cards | soft | 4, 1 | 4, 1 | 4, 1 | 4, 1 |' in text


UNLABELLED = unlabelled_experiments.EXPERIMENTS


@pytest.mark.parametrize('name', list(UNLABELLED))
def test_every_row_without_labels_is_a_config_of_one_student(
    name: str, tmp_path: Path
) -> None:
    """The rows differ in data and teachers only, and count the same steps."""
    experiment = UNLABELLED[name]
    teachers = {kind: tmp_path / f'{kind}.pth' for kind in ('all', 'part')}
    hard = dict(type='CocoDataset', ann_file='labels.json')
    cfg = unlabelled_experiments.read(
        experiment, experiment.unlabelled, 'test', tmp_path
    )
    soft = tmp_path / 'labels.soft' if experiment.soft else None
    made = unlabelled_experiments.rows(experiment, cfg, teachers, hard, soft)
    stored = made.get('soft outputs, unlabelled, stored')
    assert (stored is None) != experiment.soft
    if stored is not None:
        assert stored.model.teachers['t'].stored == str(soft)
        data = str(stored.train_dataloader.dataset)
        assert data.count('homography_matrix') == data.count('PackDetInputs') == 3
    (_, base), *others = made.items()
    wanted = {'M-KD', 'M-KD, unlabelled', 'hard pseudo-labels'}
    assert wanted <= made.keys()
    assert ('no labels at all' in made) == experiment.no_labels
    for row, one in others:
        assert one.model.get('student', one.model) == base.model, row
        assert one.train_cfg == base.train_cfg and one.train_cfg.max_iters
        assert one.val_dataloader == base.val_dataloader
    own = 'part' if experiment.part else 'all'
    taught = made['M-KD, unlabelled'].model.teachers['t']
    assert taught.checkpoint == str(teachers[own])
    # The labelled part is the same, and its teacher sees no other.
    part = base.train_dataloader.dataset
    assert made['M-KD, unlabelled'].train_dataloader.dataset.datasets[0] == part
    if experiment.part:
        teacher = unlabelled_experiments.teacher_config(experiment, 'part', tmp_path)
        assert teacher.train_dataloader.dataset == part
        rest = unlabelled_experiments.unlabelled_part(cfg)
        indices = rest.get('datasets', [rest])[0]['indices']
        assert sorted([*indices, *part.indices]) == list(
            range(len(indices) + len(part.indices))
        )


@pytest.mark.parametrize('name', [n for n in UNLABELLED if n.startswith('bccd')])
def test_images_of_val_are_unlabelled_only_where_test_is_reported(
    name: str, tmp_path: Path
) -> None:
    experiment = UNLABELLED[name]
    for split, ending in (('val', 'val.json'), ('test', 'test.txt')):
        cfg = unlabelled_experiments.read(
            experiment, experiment.unlabelled, split, tmp_path
        )
        assert cfg.val_dataloader.dataset.ann_file.endswith(ending)
        rest = json.dumps(cfg.train_dataloader.dataset.datasets[1])
        assert ('val.txt' in rest) == (split == 'test')
        assert 'test.txt' not in rest


@pytest.mark.parametrize('share', unlabelled_experiments.SHARES)
def test_cost_is_measured_by_the_share_of_images_without_labels(share: float) -> None:
    cfg = unlabelled_experiments.cost_config(share)
    assert cfg.train_dataloader.batch_size == 16
    if 0 < share < 1:
        ratio = cfg.train_dataloader.sampler.source_ratio
        assert sum(ratio) == 16 and ratio[1] == 16 * share
    else:
        kind = 'XMLDataset' if share == 0 else 'UnlabeledImages'
        assert kind in str(cfg.train_dataloader.dataset)
        assert cfg.model.get('task_weight', 1) == 1 - share


def test_figures_of_images_without_labels_become_a_page(tmp_path: Path) -> None:
    args = measure_unlabelled.parse_args(['--out', str(tmp_path), '--seeds', '0', '1'])
    figure = dict(mean=0.41, deviation=0.01, count=2)
    teacher = dict(rows=['M-KD'], metrics={'coco/bbox_mAP': 0.5})
    result = dict(
        key='coco/bbox_mAP',
        teachers=[teacher],
        rows=[dict(name='student alone', metric=figure)],
    )
    text = measure_unlabelled.page(args, dict(pcb=result))
    assert '| student alone | 0.410 ± 0.010 |' in text
    assert '| teacher of M-KD | 0.500 |' in text
    assert '[Report](unlabelled_pcb_val/report.md)' in text


@pytest.mark.parametrize('family', list(measure_families.FAMILIES))
def test_every_row_of_a_family_teaches_one_student(family: str, tmp_path: Path) -> None:
    rows = measure_families.make_rows(family, tmp_path, tmp_path / 'cache')
    alone, *taught = (make(dict(lr=0.5)) for make in rows.values())
    for cfg in taught:
        assert cfg.optim_wrapper.optimizer.lr == 0.5
        assert cfg.model.student == alone.model
        teacher = cfg.model.teachers.t
        assert Path(teacher.checkpoint).parent == Path(teacher.cache).parent == tmp_path
        teacher.checkpoint = None
        assert build_model(cfg).plan.terms


def test_the_protocol_tests_what_was_best_of_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is not run: it reports for each row what `reached` says."""
    calls = []
    reached = {
        'alone, lr 1, weight 1': 0.3,
        'alone, lr 3, weight 1': 0.2,
        'alone, lr 1, weight 2': 0.1,
        'taught, lr 1, weight 1': 0.1,
        'taught, lr 3, weight 1': 0.4,
        'taught, lr 3, weight 2': 0.5,
        'more': 0.4,
    }

    def run(argv: list[str]) -> None:
        args = compare.make_parser().parse_args(argv)
        calls.append(args)
        names = [row.partition('=')[0] for row in (args.base, *args.rows)]
        rows = [dict(name=n, metric=dict(mean=reached[n])) for n in names]
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / 'report.json').write_text(json.dumps(dict(rows=rows)))

    monkeypatch.setattr(compare, 'main', run)
    stages = [protocol.Stage('lr', (1, 3)), protocol.Stage('weight', (2,))]
    place = protocol.Place(tmp_path / 'runs', tmp_path / 'out', ['cpu'], epochs=2)
    rows: dict[str, protocol.Make] = dict(alone=Config, taught=Config)

    def more(settings: protocol.Settings) -> Config:
        return Config(dict(settings, other=1))

    task = protocol.Task(rows, place, dict(more=('taught', more)))
    best = protocol.measure([task], stages, [5, 6])
    assert best == dict(alone=dict(lr=1, weight=1), taught=dict(lr=3, weight=2))
    *tries, last = calls
    assert [(c.seeds, c.test, len(c.rows)) for c in tries] == [
        ([5], False, 3),
        ([5], False, 2),
    ]
    assert (last.seeds, last.test, last.epochs) == ([5, 6], True, 2)
    assert last.base.startswith('alone, lr 1, weight 1=') and len(last.rows) == 2
    second, _, file = last.rows[1].partition('=')
    assert second == 'more'
    assert Config.fromfile(file).to_dict() == dict(lr=3, weight=2, other=1)
    saved = json.loads((tmp_path / 'out' / 'tries.json').read_text())
    assert saved['taught'] == {k: v for k, v in reached.items() if 'taught' in k}
    tried = Config.fromfile(last.rows[0].partition('=')[2])
    assert tried.to_dict() == dict(lr=3, weight=2)
    # Once more, on another machine: tries that have figures are not trained again.
    del saved['taught']['taught, lr 3, weight 2'], calls[:]
    saved['taught']['taught, lr 9, weight 1'] = 0.9  # of another version of the script
    (tmp_path / 'out' / 'tries.json').write_text(json.dumps(saved))
    place = protocol.Place(tmp_path / 'other', tmp_path / 'out', ['cpu'], epochs=2)
    task = protocol.Task(rows, place)
    assert protocol.measure([task], stages, [5, 6]) == best
    [left, last] = calls
    assert left.base.startswith('alone, lr 1, weight 1=')
    assert [row.partition('=')[0] for row in left.rows] == ['taught, lr 3, weight 2']
    assert last.test


def test_settings_are_chosen_for_all_data_sets_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By shares of the gap: a gain counts more where the teacher is near."""
    reached = dict(
        a={'alone, lr 1': 0.2, 'alone, lr 2': 0.1, 'kd, lr 1': 0.3, 'kd, lr 2': 0.5},
        b={'alone, lr 1': 0.5, 'alone, lr 2': 0.5, 'kd, lr 1': 0.6, 'kd, lr 2': 0.55},
    )
    goals = dict(a=1.2, b=0.7)

    def run(argv: list[str]) -> None:
        args = compare.make_parser().parse_args(argv)
        names = [row.partition('=')[0] for row in (args.base, *args.rows)]
        data = args.work_dir.parent.name
        rows = [dict(name=n, metric=dict(mean=reached[data][n])) for n in names]
        teachers = [dict(metrics=dict(mAP=goals[data]))]
        args.out.mkdir(parents=True, exist_ok=True)
        content = dict(key='mAP', rows=rows, teachers=teachers)
        (args.out / 'report.json').write_text(json.dumps(content))

    monkeypatch.setattr(compare, 'main', run)
    rows: dict[str, protocol.Make] = dict(alone=Config, kd=Config)
    tasks = [
        protocol.Task(
            rows, protocol.Place(tmp_path / n, tmp_path / f'out_{n}', ['cpu'])
        )
        for n in reached
    ]
    stages = [protocol.Stage('lr', (1, 2))]
    # Shares of lr 1: 0.1 and 0.5; of lr 2: 0.3 and 0.25.
    assert protocol.measure(tasks, stages, [0])['kd'] == dict(lr=1)
    goals['b'] = 1.5  # now 0.1 and 0.1 against 0.3 and 0.05
    for task in tasks:
        (task.place.out / 'tries.json').unlink()
    assert protocol.measure(tasks, stages, [0])['kd'] == dict(lr=2)


def test_figures_of_tries_stay_where_the_protocol_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(argv: list[str]) -> int:
        args = compare.make_parser().parse_args(argv)
        done = dict(name=args.base.partition('=')[0], metric=dict(mean=0.5))
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / 'report.json').write_text(json.dumps(dict(rows=[done])))
        return 130

    monkeypatch.setattr(compare, 'main', stop)
    place = protocol.Place(tmp_path / 'runs', tmp_path / 'out', ['cpu'])
    stages = [protocol.Stage('lr', (1, 2))]
    with pytest.raises(SystemExit):
        protocol.measure([protocol.Task(dict(alone=Config), place)], stages, [0])
    saved = json.loads((tmp_path / 'out' / 'tries.json').read_text())
    assert saved == dict(alone={'alone, lr 1': 0.5})


@pytest.mark.parametrize('failed', [0, 1, 2])
def test_a_try_that_diverges_is_the_worst(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failed: int,
) -> None:
    """`compare` leaves failed rows out, and writes no report without its base."""
    names = [f'{row}, lr {lr}' for row in ('alone', 'taught') for lr in (1, 2, 3)]
    wrong = {names[failed], names[failed + 3]}
    missing = names[0] if failed else names[1]
    made = []

    def run(argv: list[str]) -> int:
        args = compare.make_parser().parse_args(argv)
        rows = [row.partition('=')[0] for row in (args.base, *args.rows)]
        made.append(rows)
        if rows[0] not in wrong:
            entries = [
                dict(name=n, metric=dict(mean=None if n == missing else 0.5))
                for n in rows
                if n not in wrong
            ]
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / 'report.json').write_text(json.dumps(dict(rows=entries)))
        if wrong & set(rows):
            assert args.debug
            raise ExperimentError('it has diverged')
        return 0

    monkeypatch.setattr(compare, 'main', run)
    rows: dict[str, protocol.Make] = dict(alone=Config, taught=Config)
    stages = [protocol.Stage('lr', (1, 2, 3))]
    place = protocol.Place(tmp_path / 'runs', tmp_path / 'out', ['cpu'])
    best = protocol.measure([protocol.Task(rows, place)], stages, [0])
    chosen = {f'{row}, lr {s["lr"]}' for row, s in best.items()}
    assert set(made[-1]) == chosen and not chosen & (wrong | {missing})
    said = capsys.readouterr().out
    assert all(f'{name}: it has failed' in said for name in wrong)
    tried = json.loads((tmp_path / 'out' / 'tries.json').read_text())
    assert all(tried[name.partition(',')[0]][name] is None for name in wrong)


def test_tries_that_all_fail_and_other_errors_end_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for error in (ExperimentError('it has diverged'), ConfigError('a wrong key')):
        out = tmp_path / type(error).__name__
        place = protocol.Place(tmp_path / 'runs', out, ['cpu'])

        def run(argv: list[str], error: Exception = error) -> None:
            calls.append(argv)
            raise error

        monkeypatch.setattr(compare, 'main', run)
        with pytest.raises(type(error)):
            task = protocol.Task(dict(alone=Config), place)
            protocol.measure([task], [protocol.Stage('lr', (1, 2))], [0])
    assert len(calls) == 2


def summary_of(folder: Path, python: str, **settings: str) -> tuple[int, str, str]:
    """Run `gpu.sh` with a script in place of Python."""
    fake = folder / 'python'
    fake.write_text('#!/usr/bin/env bash\n' + python)
    fake.chmod(0o755)
    script = Path(protocol.__file__).with_name('gpu.sh')
    done = subprocess.run(
        ['bash', str(script), str(folder / 'out')],
        env={**os.environ, 'PYTHON': str(fake), 'DEVICE': 'cpu', 'EPOCHS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_step_on_the_gpu_that_fails_shows_its_log(tmp_path: Path) -> None:
    python = '[ "$3" = benchmark ] && { echo out of memory >&2; exit 3; }; exit 0\n'
    code, _, said = summary_of(tmp_path, python)
    assert code == 3
    assert 'out of memory' in said and 'bccd.log' in said


def test_a_training_on_the_gpu_that_is_skipped_keeps_its_seconds(
    tmp_path: Path,
) -> None:
    python = """
if [ "$3" = train ]; then
    while [ "$1" != --work-dir ]; do shift; done
    mkdir -p "$2" && touch "$2/epoch_1.pth"
    echo 'coco/bbox_mAP: 0.5'
    sleep 1.1
fi
"""
    seconds = []
    for _ in range(2):
        code, said, wrong = summary_of(tmp_path, python)
        assert code == 0, wrong
        seconds.append([line for line in said.splitlines() if ' s, ' in line])
    assert len(seconds[0]) == 4 and seconds[0] == seconds[1]
    assert not any(': 0 s' in line for line in seconds[1])


@pytest.fixture
def signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Two pictures of each sign, empty checkpoints, and the arguments for them."""
    for split in ('train', 'val', 'test'):
        for sign in range(10):
            folder = tmp_path / 'signs' / split / str(sign)
            folder.mkdir(parents=True)
            for number in range(1 + sign % 2):
                Image.new('RGB', (48, 48), (sign, 0, 0)).save(folder / f'{number}.png')
    monkeypatch.setenv('SIGNS_ROOT', str(tmp_path / 'signs'))
    for depth in (56, 44, 32):
        (tmp_path / f'resnet{depth}_signs.pth').touch()
    files = ['--weights', str(tmp_path), '--work-dir', str(tmp_path / 'runs')]
    return measure_classifiers.parse_args(files)


@pytest.mark.parametrize(
    'name',
    [
        name
        for name, row in measure_classifiers.ROWS.items()
        if row.student == 'ResNet-20' or row.members
    ],
)
def test_every_row_of_classifiers_is_planned(
    name: str, signs: argparse.Namespace
) -> None:
    row = measure_classifiers.ROWS[name]
    cfg = measure_classifiers.make_row(signs, 'signs', row, dict(lr=0.5, weight=4.0))
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    student = cfg.model.student if row.terms else cfg.model
    assert student.backbone == measure_classifiers.STUDENTS[row.student]
    if row.members:
        balanced = [loss for loss in student.loss.losses if loss.type == 'BalancedCE']
        assert all(loss.counts == [1, 2] * 5 for loss in balanced)
    if not row.terms:
        assert cfg.optim_wrapper.optimizer.weight_decay == pytest.approx(4e-4)
        return
    each = (len(row.terms) + row.aligned) * len(row.depths)
    assert sum(t.weight for t in cfg.model.terms.values()) == pytest.approx(
        4.0 * each / len(row.depths)
    )
    assert bool(cfg.get('custom_hooks')) == ('DLKD' in row.terms)
    for teacher in cfg.model.teachers.values():
        if 'checkpoint' in teacher:
            teacher.checkpoint = None
    assert len(build_model(cfg).plan.terms) == each


def test_noisy_labels_have_teachers_of_their_own(
    signs: argparse.Namespace, tmp_path: Path
) -> None:
    soft = measure_classifiers.ROWS['soft outputs']
    signs.noise = 0.2
    with pytest.raises(CheckpointFileError, match='resnet56_signs_noise.pth'):
        measure_classifiers.make_row(signs, 'signs', soft, dict(lr=0.1, weight=1))
    (tmp_path / 'resnet56_signs_noise.pth').touch()
    cfg = measure_classifiers.make_row(signs, 'signs', soft, dict(lr=0.1, weight=1))
    assert cfg.train_dataloader.dataset.label_noise == 0.2
    assert cfg.val_dataloader.dataset.get('label_noise', 0) == 0


def test_students_of_each_kind_are_compared_with_their_own_kind_alone(
    signs: argparse.Namespace, tmp_path: Path
) -> None:
    signs.rows = ['soft outputs', 'VGG-8, soft outputs', 'aggregation on labels alone']
    first, second = measure_classifiers.tasks(signs, 'signs')
    assert list(first.rows) == ['student alone', *signs.rows[:1], signs.rows[2]]
    assert list(second.rows) == ['VGG-8 alone', 'VGG-8, soft outputs']
    names = [task.place.out.name for task in (first, second)]
    assert names == ['classifiers_signs', 'classifiers_signs_vgg-8']
    assert {name: of for name, (of, _) in first.also.items()} == {
        'soft outputs, second teacher': 'soft outputs',
        'student alone, 2 times as long': 'student alone',
        'student alone, 3 times as long': 'student alone',
    }
    settings = dict(lr=0.1, weight=1.0)
    (tmp_path / 'resnet56_signs_1.pth').touch()
    cfg = first.also['soft outputs, second teacher'][1](settings)
    assert cfg.model.teachers.t56.checkpoint.endswith('resnet56_signs_1.pth')
    longer = first.also['student alone, 2 times as long'][1](settings)
    assert longer.train_cfg.max_epochs == 60


def test_images_are_fewer_mixed_or_changed_more(signs: argparse.Namespace) -> None:
    settings, row = dict(lr=0.1, weight=1.0), measure_classifiers.ROWS['soft outputs']
    signs.images = 10
    for name in ('mixup', 'heavy'):
        signs.augment = name
        cfg = measure_classifiers.make_row(signs, 'signs', row, settings)
        data = cfg.train_dataloader.dataset
        assert data.num_images == 10
        kinds = [step['type'] for step in data.transforms]
        assert ('RandAugment' in kinds) == (name == 'heavy')
        mixed = cfg.model.student.data_preprocessor.get('mixup', 0)
        assert bool(mixed) == (name == 'mixup')
        cfg.model.teachers.t56.checkpoint = None
        assert build_model(cfg).plan.terms
        (task,) = measure_classifiers.tasks(
            argparse.Namespace(**{**vars(signs), 'rows': ['soft outputs']}), 'signs'
        )
        assert task.place.out.name == f'classifiers_signs_{name}_10_images'


def test_cifar10_is_chosen_on_other_images_than_it_is_tested_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        for kind in ('cat', 'dog'):
            file = tmp_path / 'test' / kind / f'{number}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (32, 32)).save(file)
    monkeypatch.setenv('CIFAR10_ROOT', str(tmp_path))
    for _ in range(2):
        cfg = load_config('mkd_det::classification/resnet20_cifar10.py')
        measure_classifiers.split_test_images(cfg, tmp_path / 'runs')
        val, test = (
            {p.resolve() for p in Path(loader.dataset.root).rglob('*.png')}
            for loader in (cfg.val_dataloader, cfg.test_dataloader)
        )
        assert (len(val), len(test), val & test) == (4, 16, set())
