"""Configs of a chain's members: complete, plain, runnable by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

import tiny_images
from chains import chain, write_chain
from mkd_det.errors import ConfigError
from mkd_det.experiments.chain.chain import Chain, read_chain
from mkd_det.experiments.chain.member_configs import (
    member_config,
    write_member_configs,
)


def read(files: Path) -> Chain:
    return read_chain(Config.fromfile(files / 'chain.py').to_dict())


@pytest.mark.parametrize(
    ('lam', 'ce_scale', 'weight'),
    [(0.25, True, 2.25), (0.25, False, 0.75), (1, True, 0)],
)
def test_the_task_counts_once_for_each_guide(
    lam: float, ce_scale: bool, weight: float, tmp_path: Path
) -> None:
    plain = dict(model=tiny_images.classifier(), default_scope='mmdet')
    Config(plain).dump(tmp_path / 's.py')
    imports = dict(imports=['json'])
    cfg = chain('t', 'a', 'b', 's', lam=lam, ce_scale=ce_scale, custom_imports=imports)
    cfg['stages'][2]['cfg'] = str(tmp_path / 's.py')
    cfg['stages'][0]['teacher'] = dict(speed='exact')
    students = {name: (f'{name}.py', f'{name}.pth') for name in 'tab'}
    made = member_config(read_chain(cfg)['s'], students, read_chain(cfg))
    assert made.model.task_weight == pytest.approx(weight)
    assert {n: term.weight for n, term in made.model.terms.items()} == {
        'loss_soft_t': 2 * lam,
        'loss_soft_a': 2 * lam,
        'loss_soft_b': 2 * lam,
    }
    assert made.model.teachers.a == dict(cfg='a.py', checkpoint='a.pth', speed='exact')
    assert made.model.student == plain['model']
    assert made.custom_imports['imports'] == ['mkd_det', 'json']


def test_configs_are_written_for_trainings_and_for_plain_models(files: Path) -> None:
    write_member_configs(read(files), files / 'work')
    training = Config.fromfile(files / 'work' / 'configs' / 's.py')
    assert training.work_dir == str(files / 'work' / 's')
    assert set(training.model.teachers) == {'t', 'a'}
    plain = Config.fromfile(files / 'work' / 'students' / 's.py')
    assert plain.model == tiny_images.classifier(base_channels=4)


def test_a_wrong_option_is_an_error_of_its_member(files: Path) -> None:
    cfg = Config.fromfile(files / 'chain.py')
    cfg.stages[1]['options'] = {'randomnes.seed': 1}
    cfg.dump(files / 'chain.py')
    with pytest.raises(ConfigError) as caught:
        write_member_configs(read(files), files / 'work')
    assert caught.value.message.startswith('chain: s: `options`: ')
    assert caught.value.available[0] == 'randomness'


def test_the_root_has_no_hooks_of_a_distillation(files: Path) -> None:
    options = {'default_hooks.teacher_check': None, 'default_hooks.sampler_seed': None}
    write_chain(files, options=options)
    hooks = write_member_configs(read(files), files / 'work')['t'].default_hooks
    assert 'teacher_check' not in hooks  # mmengine does not know it
    assert hooks['sampler_seed'] is None  # but this one
