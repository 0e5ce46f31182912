"""Everything that would stop a later row is found before the first training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from comparisons import RECIPE, changed, options_of
from mkd_det.errors import MkdError
from mkd_det.experiments.comparison.options import ComparisonOptions
from mkd_det.experiments.comparison.preparation import (
    notes_on_schedules,
    prepare_comparison,
)
from mkd_det.experiments.comparison.rows import read_rows


def refuse(files: Path, row: str, options: ComparisonOptions) -> MkdError:
    rows = read_rows(str(files / 'alone.py'), [row], options)
    with pytest.raises(MkdError) as caught:
        prepare_comparison(rows, options, files / 'work')
    assert not list(files.glob('work/alone-*'))
    return caught.value


IN_ITERATIONS = dict(_delete_=True, by_epoch=False, max_iters=6, val_interval=3)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(val_evaluator__topk=[3]), 'odd: its evaluator does not measure'),
        (dict(model__num_classes=4), 'odd: the student has 4 classes'),
        (dict(optim_wrapper__type='AmpOptimWrapper'), 'odd: mixed precision'),
        (dict(visualizer=dict(type='Visualizer')), 'odd: its visualizer'),
        (dict(train_cfg__val_begin=99), 'odd: it is never validated'),
        (dict(train_cfg__val_interval=0), 'odd: train_cfg: val_interval'),
        (dict(log_level='LOUD'), 'odd: log_level'),
        (dict(custom_hooks=[dict(type='EMAHok')]), 'odd: custom_hooks[0]'),
        (dict(model=dict(type='Distiller'), compile=True), 'odd: compile'),
        (dict(train_cfg=IN_ITERATIONS), 'odd is not trained in the unit'),
    ],
)
def test_a_row_that_cannot_be_trained(
    files: Path, settings: dict[str, Any], message: str
) -> None:
    odd = changed(files, 'odd', **settings)
    assert message in refuse(files, odd, ComparisonOptions(seeds=[0])).message


def test_a_recipe_that_does_not_fit(files: Path) -> None:
    Config(dict(recipe={**RECIPE, 'taps': dict(logits='haed')})).dump(files / 'bad.py')
    error = refuse(files, str(files / 'bad.py'), options_of(files, seeds=[0]))
    assert error.message.startswith('bad: ') and 'haed' in str(error)


def test_every_row_is_prepared_with_every_seed(files: Path) -> None:
    options = options_of(files, seeds=[4, 2], iters=None)
    rows = read_rows(str(files / 'alone.py'), [str(files / 'soft.py')], options)
    prepared = prepare_comparison(rows, options, files / 'work')
    assert list(prepared.trainings) == [
        ('alone', 4), ('soft', 4), ('alone', 2), ('soft', 2)
    ]  # fmt: skip
    training = prepared.trainings['soft', 2]
    assert training.title == 'soft, seed 2' and training.folder.name == 'soft-2'
    assert training.options == {'randomness.seed': '2'}
    assert set(training.depends_on) == {'teacher t'}
    assert prepared.metric == ('top1', 'accuracy/top1')
    assert prepared.students['alone', 4] == prepared.students['soft', 4]
    config = Config.fromfile(prepared.config_file(rows[1]))
    assert config.model.type == 'Distiller'


def test_a_schedule_that_is_longer_than_the_training_is_noted(files: Path) -> None:
    warm_up = dict(type='LinearLR', by_epoch=False, begin=0, end=500)
    long = changed(files, 'long', param_scheduler=[warm_up])
    options = ComparisonOptions(seeds=[0])
    rows = read_rows(str(files / 'alone.py'), [long], options)
    prepared = prepare_comparison(rows, options, files / 'work')
    assert notes_on_schedules(prepared) == [
        'long: its LinearLR takes 500 iterations, the training 30.'
    ]
