"""Pure-Python configs work as all others: classes as types, bases as imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine.registry
import pytest
import torch
from mmdet.models import GFL
from mmengine.config import Config
from mmengine.registry import Registry

import mkd_det.registry
import tiny
from chains import SOFT
from mkd_det.config_files.reading import read_config
from mkd_det.errors import ConfigError
from mkd_det.experiments.chain.chain import read_chain
from mkd_det.experiments.chain.member_configs import write_member_configs
from mkd_det.experiments.comparison.options import ComparisonOptions
from mkd_det.experiments.comparison.rows import read_rows
from mkd_det.plan.recipes import read_recipe
from mkd_det.registry import ADAPTERS, LOSSES, find_class
from mkd_det.teachers.loading import Teacher
from mkd_det.training.runtime import build_model, prepare_config
from mkd_det.training.student_config import student_config
from tooling import distiller_cfg, fails, plain_dumps, run_command

# Names that are no classes, or that mmcv builds from its own tables.
NAMES = ('BN', 'GN', 'nms')


def classes() -> dict[str, type]:
    """All classes of all registries, by name."""
    known = [*vars(mmengine.registry).values(), *vars(mkd_det.registry).values()]
    for registry in [r for r in known if isinstance(r, Registry)]:
        known += registry.children.values()
    registries = [r for r in known if isinstance(r, Registry)]
    # Of several classes of a name, mmdet's and ours: mmpretrain has a ResNet too.
    registries.sort(key=lambda r: r.scope in ('mmdet', 'mkd_det'))
    return {name: cls for r in registries for name, cls in r.module_dict.items()}


def as_code(value: Any, known: dict[str, type], used: set[type]) -> str:
    """The value as code, with classes instead of the names of types."""
    if isinstance(value, dict):
        items = []
        for key, item in value.items():
            if key == 'type' and item not in NAMES:
                used.add(known[item])
                items.append(f'{key!r}: {known[item].__name__}')
            else:
                items.append(f'{key!r}: {as_code(item, known, used)}')
        return '{' + ', '.join(items) + '}'
    if isinstance(value, (list, tuple)):
        inner = ''.join(as_code(item, known, used) + ', ' for item in value)
        return f'[{inner}]' if isinstance(value, list) else f'({inner})'
    return repr(value)


def write_pure_python(path: Path, cfg: Config) -> Path:
    """Write a config whose types are classes, without a default scope."""
    known, used = classes(), set[type]()
    content = {**cfg.to_dict(), 'default_scope': None}
    lines = [f'{k} = {as_code(v, known, used)}' for k, v in content.items()]
    imports = [f'from {c.__module__} import {c.__name__}' for c in used]
    path.write_text('\n'.join(['import os', *sorted(imports), *lines]))
    return path


@pytest.fixture(scope='module', autouse=True)
def _plain_dumps() -> Iterator[None]:
    with plain_dumps():
        yield


@pytest.fixture
def names(coco_root: Path, teacher_file: Path, tmp_path: Path) -> Config:
    """A distillation with losses, an adapter, a branch and hooks; types are names."""
    branches = dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs'))
    model = distiller_cfg(teacher_file, branches=branches)
    model['teachers']['t']['speed'] = 'exact'
    cfg = tiny.runner_cfg(model, coco_root, tmp_path / 'run')
    cfg.custom_imports = dict(imports=['mkd_det'])
    cfg.default_hooks.teacher_check = dict(type='TeacherCheckHook', threshold=0)
    cfg.custom_hooks = [dict(type='GradientShareHook', interval=2)]
    return cfg


@pytest.fixture
def config(names: Config, tmp_path: Path) -> Path:
    """The same with classes."""
    return write_pure_python(tmp_path / 'config.py', names)


def test_it_trains_to_the_same_weights_as_with_names(
    names: Config, config: Path, tmp_path: Path
) -> None:
    names.dump(tmp_path / 'names.py')
    weights = []
    for file in (config, tmp_path / 'names.py'):
        run = tmp_path / f'run_{file.stem}'
        assert run_command('train', [file, '--work-dir', run]) == 0
        content = torch.load(run / 'epoch_1.pth', weights_only=False)
        weights.append(content['state_dict'])
        assert Config.fromfile(run / file.name).model.student  # as it was written
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


def test_every_command_takes_it(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / 'run'
    assert run_command('train', [config]) == 0
    more = ['--resume', '--cfg-options', 'train_cfg.max_epochs=2']
    assert run_command('train', [config, *more]) == 0
    assert run_command('test', [config, run / 'epoch_2.pth']) == 0
    assert run_command('export', [config, run / 'epoch_2.pth', tmp_path / 'out']) == 0
    student = Config.fromfile(tmp_path / 'out/student_config.py')
    assert student.model.type == 'mmdet.models.detectors.gfl.GFL'
    assert isinstance(tiny.build(student.model), GFL)
    assert student.default_scope == 'mmdet'
    assert run_command('inspect', [config, '--teacher', 't']) == 0
    out = tmp_path / 'calibrated.py'
    shares = ['--shares', 'loss_soft=0.5', '--iters', '2']
    assert run_command('calibrate', [config, *shares, '--out', out]) == 0
    assert read_config(str(out)).model.terms.loss_soft.share == 0.5
    build_model(read_config(str(out)))
    capsys.readouterr()
    assert run_command('plan', [config]) == 0
    assert 'loss_soft' in capsys.readouterr().out
    wrong = ['--cfg-options', 'model.terms.loss_soft.student=heat']
    fails(capsys, 'plan', [config, *wrong], 'ConfigError', 'available: head')


def test_it_is_a_row_a_member_and_a_teacher(
    config: Path, coco_root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    alone = tiny.runner_cfg(tiny.gfl(), coco_root, tmp_path / 'run')
    plain = write_pure_python(tmp_path / 'alone.py', alone)
    rows = read_rows(str(plain), [str(config)], ComparisonOptions())
    assert [row.name for row in rows] == ['alone', 'config']
    for row in rows:
        build_model(prepare_config(row.cfg))

    recipe = dict(
        taps=dict(head='bbox_head'), terms=dict(loss_soft=SOFT), probe_size=64
    )
    recipe['terms']['loss_soft'] = {**SOFT, 'student': 'head', 'teacher': 't.head'}
    member = dict(name='t', cfg=str(plain), checkpoint=str(teacher_file))
    stage = dict(name='s', cfg=str(plain))
    chain = read_chain(dict(root=member, stages=[stage], recipe=recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        write_member_configs(chain, tmp_path / 'chain')
    written = read_config(str(tmp_path / 'chain/configs/s.py'))
    written.model.teachers.t.checkpoint = None
    build_model(written)

    teacher = Teacher.build('t', dict(cfg=str(config), checkpoint=None))
    assert type(teacher.model).__name__ == 'GFL'


def test_recipes_are_bases(root: Path, tmp_path: Path) -> None:
    """Relative imports, as packaged configs have them."""
    recipes = root / 'configs/_base_/recipes'
    (tmp_path / 'recipes').symlink_to(recipes)
    text = 'from mmengine.config import read_base\nwith read_base():\n'
    for file in sorted(recipes.glob('*.py')):
        if '_base_ =' in file.read_text():
            continue
        mine = tmp_path / 'mine.py'
        mine.write_text(f'{text}    from .recipes.{file.stem} import *\n')
        assert read_config(str(mine)).recipe == read_recipe(str(file)).arguments


def test_classes_of_a_room_are_imported_from_it_or_named_in_full() -> None:
    from mkd_det.losses import SoftOutputKD
    from mkd_det.losses.outputs.soft_output import SoftOutputKD as Same

    assert SoftOutputKD is Same
    for kind in (
        Same,
        'SoftOutputKD',
        'mkd_det.losses.outputs.soft_output.SoftOutputKD',
    ):
        assert find_class(LOSSES, dict(type=kind), 'it') is Same
    assert (
        find_class(ADAPTERS, dict(type='torch.nn.Identity'), 'it') is torch.nn.Identity
    )
    for kind in ('mkd_det.losses.SoftOutput', 'mkd_det.losses', 'no.such.Loss', '.'):
        with pytest.raises(ConfigError) as caught:
            find_class(LOSSES, dict(type=kind), 'it')
        assert 'SoftOutputKD' in caught.value.available


def test_the_students_config_names_classes_of_a_config_made_in_python(
    tmp_path: Path,
) -> None:
    cfg = Config(dict(model={**tiny.gfl(), 'type': GFL}))
    student_config(cfg).dump(tmp_path / 'student.py')
    student = Config.fromfile(tmp_path / 'student.py').model
    assert student.type == 'mmdet.models.detectors.gfl.GFL'
    assert isinstance(tiny.build(student), GFL)


def test_what_mmengine_leaves_undone_is_done_or_refused(tmp_path: Path) -> None:
    base = tmp_path / 'base.py'
    base.write_text("data_root = '{{$DATA:data}}'\nloader = dict(root=[data_root])\n")
    mine = tmp_path / 'mine.py'
    text = 'from mmengine.config import read_base\nwith read_base():\n'
    mine.write_text(f'{text}    from .base import *\n')
    with pytest.raises(ConfigError, match='placeholders') as caught:
        read_config(str(mine))
    assert caught.value.expected == 'a value of data_root'
    mine.write_text(
        "import torch\nimport os\ncustom_imports = dict(imports=['nope'])\n"
    )
    with pytest.raises(ConfigError, match='cannot be read') as caught:
        read_config(str(mine))
    assert 'nope' in caught.value.actual
    mine.write_text('import torch\nimport os\nfrom math import sqrt, pi\n')
    assert dict(read_config(str(mine))) == dict(pi=pytest.approx(3.1416, abs=1e-4))


@pytest.mark.parametrize('style', ['names', 'imports'])
def test_a_circle_of_bases_is_named(tmp_path: Path, style: str) -> None:
    for name, base in (('a', 'b'), ('b', 'c'), ('c', 'b')):
        text = f"_base_ = './{base}.py'\n"
        if style == 'imports':
            text = 'from mmengine.config import read_base\nwith read_base():\n'
            text += f'    from .{base} import *\n'
        (tmp_path / f'{name}.py').write_text(text)
    with pytest.raises(ConfigError, match='inherits from itself') as caught:
        read_config(str(tmp_path / 'a.py'))
    names = [Path(file).stem for file in caught.value.actual.split(' -> ')]
    assert names == ['b', 'c', 'b']
