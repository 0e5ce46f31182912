"""Two models and data become configs that can be trained as they are."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from rich.console import Console

import tiny
from mkd_det.cli import main
from mkd_det.cli.distill import finish, make_parser
from mkd_det.config_files.reading import load_config
from mkd_det.errors import (
    CheckpointKeysError,
    ConfigError,
    ExperimentError,
    MkdError,
    PathError,
    PlanError,
)
from mkd_det.experiments.distillation import prepare as prepare_module
from mkd_det.experiments.distillation import trial
from mkd_det.experiments.distillation.config_text import format_value, options_text
from mkd_det.experiments.distillation.model_part import (
    common_divisor,
    scaled_schedule,
    with_classes,
)
from mkd_det.experiments.distillation.prepare import prepare
from mkd_det.experiments.distillation.report.finished_run import FinishedRun
from mkd_det.experiments.distillation.run import (
    check_checkpoint,
    write_configs,
    written_config,
)
from mkd_det.experiments.distillation.settings import (
    DistillSettings,
    check_same_run,
    note_sources,
)
from mkd_det.experiments.distillation.table import choice_table
from mkd_det.training.class_names import with_class_names
from mkd_det.training.runtime import build_model


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs of student and teacher on three classes, and the teacher's weights."""
    root = tmp_path_factory.mktemp('pair')
    data = tiny.write_coco(root / 'data', images=6)
    for name, model in (('small', tiny.gfl(4, 8)), ('big', tiny.gfl(8, 16))):
        cfg = tiny.runner_cfg(model, data, root / name, epochs=2)
        cfg.pop('work_dir')
        cfg.dump(root / f'{name}.py')
    tiny.write_checkpoint(tiny.gfl(8, 16), root / 'big.pth')
    return root


def settings(files: Path, work_dir: Path, **changes: Any) -> DistillSettings:
    given: dict[str, Any] = dict(
        student=str(files / 'small.py'),
        teacher=str(files / 'big.py'),
        checkpoint=str(files / 'big.pth'),
        work_dir=work_dir,
    )
    return DistillSettings(**{**given, **changes})


def distill_cfg(given: DistillSettings) -> Config:
    prepared = prepare(given)
    prepared.write(given.folder)
    return load_config(str(given.folder / 'distill.py'))


def test_the_written_config_is_short_and_can_be_built(
    files: Path, tmp_path: Path
) -> None:
    given = settings(files, tmp_path / 'run')
    cfg = distill_cfg(given)
    model = build_model(cfg)
    assert set(model.plan.terms) >= {'loss_soft', 'loss_feature'}
    model.teachers.load()
    text = (given.folder / 'distill.py').read_text()
    assert len(text.splitlines()) <= 20 and 'mkd_dense' in text
    assert cfg.train_cfg.max_epochs == 2
    assert 'class_map' not in cfg.model.teachers.t


def test_nothing_is_written_before_all_is_checked(files: Path, tmp_path: Path) -> None:
    prepare(settings(files, tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


def two_classes(folder: Path) -> Path:
    """Write data with the last two of the three classes, in reverse order."""
    data = tiny.write_coco(folder, images=8, seed=3)
    content = json.loads((data / 'annotations.json').read_text())
    content['categories'] = content['categories'][:0:-1]
    kept = {c['id'] for c in content['categories']}
    content['annotations'] = [
        a for a in content['annotations'] if a['category_id'] in kept
    ]
    (data / 'annotations.json').write_text(json.dumps(content))
    return data / 'annotations.json'


def test_errors_of_what_is_tried_elsewhere_name_the_folder_of_the_run(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: Any, bases: Any, batches: Any, folder: Path) -> None:
        raise PlanError(
            'no', actual=folder / 'data' / 'train.json', fix=f'see {folder}'
        )

    monkeypatch.setattr(prepare_module, 'try_configs', fail)
    with pytest.raises(PlanError) as caught:
        prepare(settings(files, tmp_path / 'run'))
    configs = settings(files, tmp_path / 'run').folder
    assert caught.value.actual == str(configs / 'data' / 'train.json')
    assert caught.value.fix == f'see {configs}'


def test_data_of_the_user(files: Path, tmp_path: Path) -> None:
    """Two of the three classes: heads, pipelines, evaluators and a class map follow."""
    given = settings(files, tmp_path / 'run', data=two_classes(tmp_path / 'mine'))
    cfg = distill_cfg(given)
    assert cfg.model.student.bbox_head.num_classes == 2
    assert cfg.model.teachers.t.class_map == 'auto'
    assert {'loss_soft', 'loss_feature'} <= set(cfg.model.terms)
    dataset = cfg.train_dataloader.dataset
    assert dataset.metainfo.classes == tuple(reversed(tiny.CLASSES[1:]))
    assert [t['type'] for t in dataset.pipeline][-1] == 'PackDetInputs'
    assert Path(cfg.val_evaluator.ann_file).is_file()
    assert cfg.train_cfg.max_epochs == 100
    alone = load_config(str(given.folder / 'student.py'))
    assert alone.model.bbox_head.num_classes == 2
    assert build_model(alone).bbox_head.num_classes == 2


def test_images_without_labels(files: Path, tmp_path: Path) -> None:
    other = tiny.write_coco(tmp_path / 'more', images=3, seed=5)
    cfg = distill_cfg(
        settings(files, tmp_path / 'run', unlabeled=other / 'images', epochs=1)
    )
    kinds = [one.type for one in cfg.train_dataloader.dataset.datasets]
    assert kinds == ['CocoDataset', 'UnlabeledImages']
    assert cfg.train_dataloader.dataset.datasets[1].pipeline
    assert cfg.train_cfg.max_epochs == 1


def test_a_batch_has_labels_beside_many_images_without(
    files: Path, tmp_path: Path
) -> None:
    """Six labelled images and 20 others: labelled ones are repeated."""
    other = tiny.write_coco(tmp_path / 'more', images=20, seed=5) / 'images'
    cfg = distill_cfg(settings(files, tmp_path / 'run', unlabeled=other))
    first = cfg.train_dataloader.dataset.datasets[0]
    assert (first.type, first.times) == ('RepeatDataset', 2)


def test_images_without_labels_beside_several_parts_are_refused(
    files: Path, tmp_path: Path
) -> None:
    other = tiny.write_coco(tmp_path / 'more', images=3, seed=5) / 'images'
    cfg = Config.fromfile(files / 'small.py')
    part = cfg.train_dataloader.dataset.to_dict()
    loader = cfg.train_dataloader.to_dict()
    cfg.train_dataloader = dict(
        loader, dataset=dict(type='ConcatDataset', datasets=[part, part])
    )
    cfg.dump(tmp_path / 'parts.py')
    student = str(tmp_path / 'parts.py')
    with pytest.raises(ConfigError, match='several parts'):
        prepare(settings(files, tmp_path / 'run', student=student, unlabeled=other))
    mixed = dict(type='MultiImageMixDataset', dataset=part, pipeline=[])
    cfg.train_dataloader = dict(loader, dataset=mixed)
    cfg.dump(tmp_path / 'parts.py')
    with pytest.raises(ConfigError, match='in a wrapper'):
        prepare(settings(files, tmp_path / 'run', student=student, unlabeled=other))


def test_swapped_models_are_told(files: Path, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.gfl(4, 8), tmp_path / 'small.pth')
    given = settings(
        files,
        tmp_path / 'run',
        student=str(files / 'big.py'),
        teacher=str(files / 'small.py'),
        checkpoint=str(tmp_path / 'small.pth'),
    )
    (warning,) = prepare(given).warnings
    counts = [
        sum(p.numel() for p in tiny.build(model).parameters())
        for model in (tiny.gfl(8, 16), tiny.gfl(4, 8))
    ]
    assert 'swapped' in warning and all(f'{n:,}' in warning for n in counts)
    assert prepare(settings(files, tmp_path / 'run')).warnings == []


def test_a_student_that_begins_better_is_told(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both figures are named, by the metric."""
    tiny.write_checkpoint(tiny.gfl(4, 8), tmp_path / 'small.pth')
    figures = iter([{'coco/bbox_mAP': 0.25}, {'coco/bbox_mAP': 0.5}] * 2)
    for where in ('doctor.teacher_metrics', 'doctor.start_metric'):
        monkeypatch.setattr(
            f'mkd_det.experiments.{where}.evaluate_teacher',
            lambda *_, **__: next(figures),
        )
    given = settings(files, tmp_path / 'run', init=str(tmp_path / 'small.pth'))
    (warning,) = prepare(given).warnings
    assert 'bbox_mAP 0.500' in warning and '0.250' in warning and 'swapped' in warning
    figures = iter([{'coco/bbox_mAP': 0.5}, {'coco/bbox_mAP': 0.25}])
    assert prepare(given).warnings == []


def test_a_start_of_another_model_is_refused_before_files(
    files: Path, tmp_path: Path
) -> None:
    tiny.write_checkpoint(tiny.gfl(12, 8), tmp_path / 'other.pth')
    given = settings(files, tmp_path / 'run', init=str(tmp_path / 'other.pth'))
    with pytest.raises(CheckpointKeysError):
        prepare(given)
    copy = shutil.copy(files / 'big.pth', tmp_path / 'copy.pth')
    with pytest.raises(ConfigError) as caught:
        prepare(settings(files, tmp_path / 'run', init=str(copy)))
    assert caught.value.fix == 'without --init'
    assert not given.work_dir.exists()


def test_another_number_of_classes_than_the_data(files: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(files / 'small.py')
    cfg.model.bbox_head.num_classes = 5
    cfg.dump(tmp_path / 'five.py')
    with pytest.raises(ConfigError) as caught:
        prepare(settings(files, tmp_path / 'run', student=str(tmp_path / 'five.py')))
    assert caught.value.actual == 'num_classes=5'


def test_other_names_of_classes_than_the_data(files: Path, tmp_path: Path) -> None:
    """As many classes, which the annotations do not have."""
    cfg = Config.fromfile(files / 'small.py')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.metainfo.classes = ('a', 'b', 'c')
    cfg.dump(tmp_path / 'other.py')
    given = settings(files, tmp_path / 'run', student=str(tmp_path / 'other.py'))
    with pytest.raises(MkdError):
        prepare(given)
    assert not given.work_dir.exists()


def test_no_recipe_fits_without_taps_in_common(files: Path, tmp_path: Path) -> None:
    """A two-stage student without a neck, and a one-stage teacher."""
    student = tiny.faster_rcnn(4, 32)
    del student['neck']
    student['backbone']['out_indices'] = (3,)
    student['rpn_head']['anchor_generator']['strides'] = [32]
    student['roi_head']['bbox_roi_extractor']['featmap_strides'] = [32]
    cfg = Config.fromfile(files / 'small.py')
    cfg.model = student
    cfg.dump(tmp_path / 'bare.py')
    given = settings(files, tmp_path / 'run', student=str(tmp_path / 'bare.py'))
    with pytest.raises(PlanError) as caught:
        prepare(given)
    assert 'the student has no neck' in str(caught.value.actual)
    assert 'inspect' in caught.value.fix
    assert not given.work_dir.exists()


def test_a_work_dir_of_another_run_is_refused(files: Path, tmp_path: Path) -> None:
    """Of a training that has begun, of a comparison, of anything else."""
    names = ('epoch_1.pth', 'report', '20261129_1200/vis_data', 'runs/a-0/vis_data')
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch() if '.' in name else (folder / name).mkdir()
        with pytest.raises(PathError) as caught:
            prepare(settings(files, folder), resume=True)
        assert caught.value.fix == f'--work-dir {folder}_2'
        wanted = name if number else 'checkpoints'
        assert wanted in str(caught.value.actual)
    (tmp_path / 'logs').mkdir()
    for name in ('train.log', '.gitkeep', 'small.py', 'slurm-1.out'):
        (tmp_path / 'logs' / name).touch()
    prepare(settings(files, tmp_path / 'logs'))
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='--work-dir'):
        prepare(settings(files, tmp_path / 'file'))
    for name in ('student', 'teacher'):  # trained before, by what the docs say
        (tmp_path / 'own' / name).mkdir(parents=True)
    prepare(settings(files, tmp_path / 'own'))


def test_resuming_another_pair_is_refused(files: Path, tmp_path: Path) -> None:
    given = settings(files, tmp_path / 'run')
    prepare(given).write(given.folder)
    config = given.folder / 'distill.py'
    note_sources(given)
    check_same_run(given, config)
    for changes in (
        dict(data=tmp_path / 'other'),
        dict(class_map={'mine': 'theirs'}),
        dict(unlabeled=tmp_path / 'more'),
        dict(student=str(files / 'big.py')),
        dict(teacher=str(files / 'small.py')),
        dict(checkpoint=str(files / 'other.pth')),
        dict(recipe='cwd_dense'),
        dict(epochs=7),
        dict(init='small.pth'),
    ):
        with pytest.raises(PathError) as caught:
            check_same_run(settings(files, tmp_path / 'run', **changes), config)
        assert 'another run' in caught.value.message
        assert '--resume' in caught.value.fix


def changed_data(folder: Path, change: Callable[[dict], Any]) -> Path:
    """Write data of which a person has changed something by hand."""
    data = tiny.write_coco(folder, images=4) / 'annotations.json'
    content = json.loads(data.read_text())
    change(content)
    data.write_text(json.dumps(content))
    return data


@pytest.mark.parametrize('trains', [True, False])
def test_bad_data_is_refused_before_files(
    files: Path, tmp_path: Path, trains: bool
) -> None:
    """A dry run finds what a training would."""
    changes: dict[str, Callable[[dict], Any]] = {
        'images': lambda c: c['images'][0].update(file_name='gone.png'),
        'bbox': lambda c: [a.pop('bbox') for a in c['annotations']],
        'id': lambda c: [a.pop('id') for a in c['categories']],
        'name': lambda c: [a.update(name=None) for a in c['categories']],
        'file_name': lambda c: [a.update(file_name=3) for a in c['images']],
        'category_id': lambda c: c['annotations'][0].update(category_id=None),
    }
    for name, change in changes.items():
        data = changed_data(tmp_path / name, change)
        given = settings(files, tmp_path / 'run', data=data, trains=trains)
        with pytest.raises(MkdError):
            prepare(given)
    wrong = {'optim_wrapper.optimizer.lr': 'abc'}
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'other.pth')
    for more in (dict(options=wrong), dict(init=str(tmp_path / 'other.pth'))):
        with pytest.raises(MkdError):
            prepare(settings(files, tmp_path / 'run', trains=trains, **more))
    assert not (tmp_path / 'run').exists()


def test_a_dry_run_does_not_need_the_data(files: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(files / 'small.py')
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'elsewhere')
    cfg.dump(tmp_path / 'small.py')
    student = str(tmp_path / 'small.py')
    given = settings(files, tmp_path / 'run', student=student, trains=False)
    prepared = prepare(given)
    (note,) = [note for note in prepared.notes if 'not checked' in note]
    assert str(tmp_path / 'elsewhere' / 'annotations.json') in note
    with pytest.raises(MkdError):
        prepare(settings(files, tmp_path / 'run', student=student))


def test_the_table_says_what_is_compared_with_what(files: Path, tmp_path: Path) -> None:
    """Of other widths and levels: what meets, and what is left out."""
    student = tiny.gfl(4, 8)
    student['data_preprocessor'].update(mean=[0.0] * 3, std=[255.0] * 3)
    cfg = Config.fromfile(files / 'small.py')
    cfg.model = student
    cfg.dump(tmp_path / 'other.py')
    given = settings(files, tmp_path / 'run', student=str(tmp_path / 'other.py'))
    console = Console(width=160, record=True, file=StringIO())
    console.print(choice_table(prepare(given)))
    text = console.export_text()
    for part in (
        'GFLHead (dense',
        'images of t',
        'levels of student',
        'fpn: 8/8',
        'fpn: 16/8',
        'GuidanceLayer: explore.inherit <- t.fpn',
        'SoftOutputKD: head <- t.head, on outputs of heads',
        'features alone',
    ):
        assert part in text, part
    # Recipes that do not fit for the same reason have one row.
    reasons = [line for line in text.splitlines() if 'rpn_head' in line]
    assert 0 < len(reasons) <= 2


def test_what_the_command_line_says_is_written(files: Path, tmp_path: Path) -> None:
    options = {
        'train_dataloader.batch_size': 3,
        'model.terms.loss_soft.weight': 0.25,
        'model.student.bbox_head.loss_cls.loss_weight': 2.0,
    }
    given = settings(files, tmp_path / 'run', options=options)
    prepare(given).write(given.folder)
    assert given.config.name == 'options.py'
    cfg = load_config(str(given.config))
    assert cfg.train_dataloader.batch_size == 3
    assert cfg.model.terms.loss_soft.weight == 0.25
    assert cfg.model.student.bbox_head.loss_cls.loss_weight == 2.0
    assert build_model(cfg).plan.terms
    text = options_text('distill.py', {'param_scheduler.0.end': 7, 'a.b': 1})
    assert '--cfg-options param_scheduler.0.end=7' in text and 'a = dict(b=1)' in text


def test_a_recipe_that_balances_itself_is_not_calibrated(
    files: Path, tmp_path: Path
) -> None:
    given = settings(files, tmp_path / 'run', recipe='mkd_balanced_dense')
    prepared = prepare(given)
    assert any('not calibrated' in note for note in prepared.notes)
    config = write_configs(given, prepared)
    assert config.name == 'distill.py'
    assert load_config(str(config)).model.balance.type == 'GradientShare'


def test_configs_of_equal_text_over_other_bases_are_two(
    files: Path, tmp_path: Path
) -> None:
    for name in ('small', 'big'):
        (tmp_path / name).mkdir()
        shutil.copy(files / f'{name}.py', tmp_path / name / 'base.py')
        (tmp_path / name / 'train.py').write_text("_base_ = ['base.py']\n")
    student, teacher = (str(tmp_path / n / 'train.py') for n in ('small', 'big'))
    prepare(settings(files, tmp_path / 'run', student=student, teacher=teacher))


def test_a_dry_run_leaves_out_what_is_on_another_machine(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, 'get_device', lambda: 'cpu')
    cfg = Config.fromfile(files / 'small.py')
    cfg.load_from = str(tmp_path / 'elsewhere.pth')
    cfg.dump(tmp_path / 'small.py')
    options = {
        'optim_wrapper.type': 'AmpOptimWrapper',
        'optim_wrapper.loss_scale': 'dynamic',
    }
    student = str(tmp_path / 'small.py')
    given = dict(student=student, options=options)
    prepared = prepare(settings(files, tmp_path / 'run', trains=False, **given))
    (note,) = [note for note in prepared.notes if 'not checked' in note]
    assert 'elsewhere.pth' in note and 'mixed precision' in note
    wrong = {**options, 'optim_wrapper.optimizer.lr': 'abc'}
    with pytest.raises(MkdError):  # the rest is checked
        prepare(settings(files, tmp_path / 'run', trains=False, options=wrong))


def test_a_student_with_modules_of_its_own(files: Path, tmp_path: Path) -> None:
    """Both it and the recipe import modules, which two bases may not."""
    text = "_base_ = ['small.py']\ncustom_imports = dict(imports=['json'])\n"
    shutil.copy(files / 'small.py', tmp_path)
    (tmp_path / 'own.py').write_text(text)
    given = settings(files, tmp_path / 'run', student=str(tmp_path / 'own.py'))
    cfg = distill_cfg(given)
    assert cfg.custom_imports.imports == ['mkd_det', 'json']
    model = build_model(cfg)
    assert set(model.plan.terms) >= {'loss_soft', 'loss_relation'}
    plain = distill_cfg(settings(files, tmp_path / 'other'))
    for name, term in cfg.model.terms.items():
        other = plain.model.terms[name]
        assert term == {k: v for k, v in other.items() if k != '_scope_'}
    check_same_run(given, given.folder / 'distill.py')


def test_what_is_resumed_is_what_was_trained(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another try has left a config with options."""
    work_dir = tmp_path / 'run'
    options = {'optim_wrapper.optimizer.lr': 0.1}
    first = settings(files, work_dir, options=options)
    assert write_configs(first, prepare(first), calibrated=False).name == 'options.py'
    second = settings(files, work_dir)
    write_configs(second, prepare(second), calibrated=False)
    second.run_dir.mkdir()
    (second.run_dir / 'last_checkpoint').touch()
    assert written_config(second) == second.folder / 'distill.py'


def test_a_copy_or_the_packaged_form_of_a_config_is_the_same(
    files: Path, tmp_path: Path
) -> None:
    shutil.copy(files / 'small.py', tmp_path / 'copy.py')
    packaged = 'mkd_det::demo/gfl_r18-w16_digits.py'
    path = str(load_config(packaged).filename)
    for student, teacher in (
        (str(files / 'small.py'), str(tmp_path / 'copy.py')),
        (packaged, path),
    ):
        with pytest.raises(ConfigError, match='the same config'):
            prepare(settings(files, tmp_path, student=student, teacher=teacher))


def test_what_cannot_be_distilled(files: Path, tmp_path: Path) -> None:
    small = str(files / 'small.py')
    work_dir = tmp_path / 'run'
    for changes in (
        dict(teacher=small),
        dict(recipe='mkd_dens'),
        dict(epochs=0),
        dict(data=tmp_path / 'missing'),
    ):
        with pytest.raises(MkdError):
            prepare(settings(files, work_dir, **changes))
    with pytest.raises(PlanError) as wrong:
        prepare(settings(files, work_dir, recipe='mkd_two_stage'))
    assert '--recipe mkd_dense' in wrong.value.fix
    assert 'rpn_head' in str(wrong.value.actual)
    assert not work_dir.exists()


def test_no_class_in_common_is_refused(files: Path, tmp_path: Path) -> None:
    data = tiny.write_coco(tmp_path / 'mine', images=4)
    content = json.loads((data / 'annotations.json').read_text())
    for category in content['categories']:
        category['name'] += ' thing'
    (data / 'annotations.json').write_text(json.dumps(content))
    given = settings(files, tmp_path / 'run', data=data / 'annotations.json')
    with pytest.raises(MkdError) as caught:
        prepare(given)
    assert '--class-map' in str(caught.value) and not given.work_dir.exists()


def test_other_names_of_the_same_classes_are_given(files: Path, tmp_path: Path) -> None:
    """What the user says, and the others by name; heads are compared."""
    data = tiny.write_coco(tmp_path / 'mine', images=4)
    content = json.loads((data / 'annotations.json').read_text())
    content['categories'][0]['name'] = 'my own name'
    (data / 'annotations.json').write_text(json.dumps(content))
    named = {'my own name': tiny.CLASSES[0]}
    given = settings(
        files, tmp_path / 'run', data=data / 'annotations.json', class_map=named
    )
    cfg = distill_cfg(given)
    assert cfg.model.teachers.t.class_map == {**named, '*': 'auto'}
    model = build_model(with_class_names(cfg))
    assert model.plan.class_maps['t'].changes_nothing
    assert 'loss_soft' in model.plan.terms


def test_a_class_map_of_classes_that_are_not_there(files: Path, tmp_path: Path) -> None:
    given = settings(files, tmp_path / 'run', class_map={'unicorn': tiny.CLASSES[0]})
    with pytest.raises(ConfigError, match='no class') as wrong:
        prepare(given)
    assert tiny.CLASSES[0] in str(wrong.value)
    first = settings(files, tmp_path / 'run', checkpoint=None, class_map={'a': 'b'})
    with pytest.raises(ConfigError, match='trained on the classes of the data'):
        prepare(first)


def test_a_run_that_has_begun_is_kept(files: Path, tmp_path: Path) -> None:
    given = settings(files, tmp_path / 'run')
    given.run_dir.mkdir(parents=True)
    (given.run_dir / 'epoch_1.pth').touch()
    with pytest.raises(PathError) as caught:
        prepare(given)
    assert '--resume' in caught.value.fix
    prepare(given, resume=True)


def test_a_teacher_needs_weights_or_a_training(files: Path, tmp_path: Path) -> None:
    given = settings(files, tmp_path / 'run', checkpoint=None)
    with pytest.raises(ConfigError) as caught:
        check_checkpoint(given, train=False)
    assert '--train-teacher' in caught.value.fix
    prepare(given).write(given.folder)
    teacher = load_config(str(given.folder / 'teacher.py'))
    assert teacher.model.backbone.base_channels == 8


def test_a_teacher_that_is_trained_first_gets_the_classes_of_the_data(
    files: Path, tmp_path: Path
) -> None:
    data = two_classes(tmp_path / 'mine')
    given = settings(files, tmp_path / 'run', checkpoint=None, data=data)
    cfg = distill_cfg(given)
    teacher = load_config(cfg.model.teachers.t.cfg)
    assert Path(cfg.model.teachers.t.cfg) == given.folder / 'teacher.py'
    assert teacher.model.bbox_head.num_classes == 2
    assert (
        teacher.train_dataloader.dataset.ann_file
        == cfg.train_dataloader.dataset.ann_file
    )
    assert 'class_map' not in cfg.model.teachers.t
    assert build_model(cfg).plan.terms


def test_images_are_padded_for_the_teacher() -> None:
    """A stock RTMDet pads nothing; a stock YOLOX cannot run on any size."""

    def cfg(**preprocessor: Any) -> dict[str, Any]:
        return dict(model=dict(data_preprocessor=preprocessor))

    assert common_divisor(cfg(), cfg(pad_size_divisor=32)) == 32
    assert common_divisor(cfg(pad_size_divisor=12), cfg(pad_size_divisor=32)) == 96
    assert common_divisor(cfg(pad_size_divisor=64), cfg(pad_size_divisor=32)) is None
    assert common_divisor(cfg(pad_size_divisor=32), dict(model={})) is None
    wrapped = cfg(
        type='MultiBranchDataPreprocessor', data_preprocessor=dict(pad_size_divisor=8)
    )
    assert common_divisor(cfg(), wrapped) == 8


def test_a_student_that_pads_nothing_gets_the_padding_of_its_teacher(
    files: Path, tmp_path: Path
) -> None:
    student = tmp_path / 'unpadded.py'
    changed = 'model = dict(data_preprocessor=dict(pad_size_divisor=1))'
    student.write_text(f'_base_ = [{str(files / "small.py")!r}]\n{changed}\n')
    given = settings(files, tmp_path / 'run', student=str(student))
    model = build_model(distill_cfg(given))
    assert model.data_preprocessor.pad_size_divisor == 32


def test_the_teacher_that_is_trained_first_has_its_own_config(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def train(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr('mkd_det.experiments.distillation.run.subprocess.run', train)
    given = settings(files, tmp_path / 'run', checkpoint=None)
    with pytest.raises(ExperimentError):
        write_configs(given, prepare(given), calibrated=False)
    (command,) = commands
    assert command[3:5] == ['train', str(given.folder / 'teacher.py')]
    assert command[-1] == str(given.teacher_dir)


def test_classes_of_every_head_change() -> None:
    model = dict(
        bbox_head=dict(num_classes=80, width=3),
        roi_head=dict(bbox_head=[dict(num_classes=80, a=1), dict(num_classes=80)]),
    )
    assert with_classes(model, 2) == dict(
        bbox_head=dict(num_classes=2),
        roi_head=dict(bbox_head=[dict(num_classes=2, a=1), dict(num_classes=2)]),
    )
    assert with_classes(model, 80) == {}


def test_a_schedule_follows_the_number_of_images() -> None:
    cfg = dict(
        train_dataloader=dict(batch_size=10),
        train_cfg=dict(max_epochs=10, val_interval=1, dynamic_intervals=[(8, 1)]),
        param_scheduler=[
            dict(type='LinearLR', by_epoch=False, begin=0, end=500),
            dict(type='MultiStepLR', by_epoch=True, milestones=[6, 9]),
        ],
        custom_hooks=[dict(type='YOLOXModeSwitchHook', num_last_epochs=2)],
    )
    parts = scaled_schedule(cfg, 1000)
    assert parts['train_cfg']['max_epochs'] == 20
    assert parts['train_cfg']['dynamic_intervals'] == [(16, 1)]
    assert parts['param_scheduler'][0]['end'] == 200
    assert parts['param_scheduler'][1]['milestones'] == [12, 18]
    assert parts['custom_hooks'][0]['num_last_epochs'] == 4
    assert scaled_schedule(cfg, 100_000) == {}
    assert scaled_schedule(cfg, 1000, epochs=5)['train_cfg']['max_epochs'] == 5
    # Without the number of images, a warm-up in iterations stays as it is.
    alone = scaled_schedule(cfg, None, epochs=20)
    assert alone['param_scheduler'][0]['end'] == 500
    assert alone['param_scheduler'][1]['milestones'] == [12, 18]
    counted = {**cfg, 'train_cfg': dict(type='IterBasedTrainLoop', max_iters=9)}
    assert scaled_schedule(counted, 1000) == {}
    with pytest.raises(ConfigError):
        scaled_schedule(counted, None, epochs=5)


@pytest.mark.parametrize('epochs', [1, 2, 10, 30])
@pytest.mark.parametrize(
    'name', ['yolox/yolox_s_8xb8-300e_coco', 'rtmdet/rtmdet_s_8xb32-300e_coco']
)
def test_long_schedules_can_be_short(name: str, epochs: int) -> None:
    """Each part of them that is left has an epoch, and the learning rate falls."""
    cfg = load_config(f'mmdet::{name}.py')
    parts = scaled_schedule(cfg, 64, epochs=epochs)
    for one in parts['param_scheduler']:
        assert one.get('begin', 0) < one['end']
        assert one['end'] <= epochs or not one.get('by_epoch', True)
    kinds = [one['type'] for one in parts['param_scheduler']]
    assert len(kinds) == len(cfg.param_scheduler) or epochs < 30
    assert epochs == 1 or 'CosineAnnealingLR' in kinds


def test_a_config_that_was_edited_is_kept(files: Path, tmp_path: Path) -> None:
    given = settings(files, tmp_path / 'run')
    prepare(given).write(given.folder)
    prepare(given).write(given.folder)  # the same again
    config = given.folder / 'distill.py'
    config.write_text(config.read_text() + '# mine\n')
    with pytest.raises(PathError) as caught:
        prepare(given).write(given.folder)
    assert f'mkd-det train {config}' in caught.value.fix
    assert config.read_text().endswith('# mine\n')


def test_a_checkpoint_without_class_names_and_of_other_classes(
    files: Path, tmp_path: Path
) -> None:
    """Its config knows the names; the map is asked for, not left to an error."""
    data = tiny.write_coco(tmp_path / 'mine', images=4)
    content = json.loads((data / 'annotations.json').read_text())
    content['categories'] = content['categories'][:2]
    content['annotations'] = [
        a for a in content['annotations'] if a['category_id'] <= 2
    ]
    (data / 'annotations.json').write_text(json.dumps(content))
    tiny.write_checkpoint(tiny.gfl(8, 16), tmp_path / 'plain.pth', classes=None)
    cfg = distill_cfg(
        settings(
            files,
            tmp_path / 'run',
            checkpoint=str(tmp_path / 'plain.pth'),
            data=data / 'annotations.json',
        )
    )
    assert cfg.model.teachers.t.class_map == 'auto'


@pytest.mark.commands
def test_the_student_is_trained_by_one_command(files: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / 'run'
    argv = ['distill', '--teacher', str(files / 'big.py'), str(files / 'big.pth')]
    argv += ['--student', str(files / 'small.py'), '--work-dir', str(work_dir)]
    argv += ['--epochs', '1']
    assert main([*argv, '--dry-run']) == 0
    assert sorted(f.name for f in (work_dir / 'configs').iterdir()) == [
        'distill.py',
        'student.py',
    ]
    options = ['default_hooks.teacher_check=None']
    assert main([*argv, '--cfg-options', *options]) == 0
    weights = torch.load(work_dir / 'distill/student_last.pth')['state_dict']
    model = tiny.build(tiny.gfl(4, 8))
    model.load_state_dict(weights, strict=True)
    calibrated = load_config(str(work_dir / 'configs/calibrated.py'))
    assert all(term.weight > 0 for term in calibrated.model.terms.values())
    assert main(argv) == 2  # it has begun
    before = {f.name: f.read_text() for f in (work_dir / 'configs').iterdir()}
    page = work_dir / 'report/index.html'
    assert page.is_file()
    page.unlink()
    assert main([*argv, '--resume']) == 0  # it has ended: the page alone is made
    assert page.is_file()
    after = {f.name: f.read_text() for f in (work_dir / 'configs').iterdir()}
    assert after == before
    three = [*argv[:4], 'third.pth', *argv[4:]]
    assert main(three) == 2
    shutil.rmtree(work_dir)


def test_calibration_and_page_are_of_the_training_with_its_options(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stop(cfg: Config, *_: Any) -> None:
        seen.append(cfg.train_dataloader.batch_size)
        raise KeyboardInterrupt

    monkeypatch.setattr('mkd_det.experiments.distillation.run.calibrate', stop)
    options = {'train_dataloader.batch_size': 3}
    given = settings(files, tmp_path / 'run', options=options)
    with pytest.raises(KeyboardInterrupt):
        write_configs(given, prepare(given))
    assert seen == [3]
    page = FinishedRun(
        given.work_dir, given.folder / 'distill.py', given.run_dir, options
    )
    assert page.cfg.train_dataloader.batch_size == 3


def test_a_dry_run_names_what_follows(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its commands can be copied, whatever the folder is called."""
    argv = ['distill', '--teacher', str(files / 'big.py'), str(files / 'big.pth')]
    argv += ['--student', str(files / 'small.py'), '--dry-run']
    assert main([*argv, '--work-dir', str(tmp_path / 'my run')]) == 0
    file = tmp_path / 'my run/configs/distill.py'
    out = capsys.readouterr().out
    assert f"mkd-det calibrate '{file}'" in out
    assert f"mkd-det train '{file}'" in out
    entry = 'train_dataloader.dataset.pipeline.0.to_float32=False'
    more = ['--recipe', 'mkd_balanced_dense', '--cfg-options', entry]
    assert main([*argv, '--work-dir', str(tmp_path / 'other'), *more]) == 0
    out = capsys.readouterr().out
    assert 'mkd-det calibrate' not in out
    assert f'options.py --cfg-options {entry}' in out


@pytest.mark.parametrize(
    ('text', 'pair'),
    [
        ('television=tv', ('television', 'tv')),
        ('dining table=16', ('dining table', 16)),
        ('vehicle=car, bus', ('vehicle', ['car', 'bus'])),
        ('dog=', ('dog', None)),
    ],
)
def test_classes_are_given_in_pairs(text: str, pair: tuple[str, Any]) -> None:
    models = ['--teacher', 'b.py', '--student', 's.py']
    args = make_parser().parse_args([*models, '--class-map', text])
    assert args.class_map == [pair]


def test_a_class_without_its_pair_is_refused(capsys: pytest.CaptureFixture) -> None:
    models = ['--teacher', 'b.py', '--student', 's.py']
    with pytest.raises(SystemExit):
        make_parser().parse_args([*models, '--class-map', 'television'])
    assert 'television=tv' in capsys.readouterr().err


@pytest.mark.parametrize('count', [1, 20])
def test_class_maps_are_written_as_they_are(count: int) -> None:
    """Names of classes are seldom identifiers, and `class` is a word of Python."""
    given = {f'dining table {n}': 'table [b]' for n in range(count)} | {'class': None}
    assert ast.literal_eval(format_value(given)) == given


def test_names_in_the_table_are_no_markup() -> None:
    console = Console(width=60, record=True, file=StringIO())
    prepared: Any = SimpleNamespace(
        sizes={}, notes=['cat [b], a[/x]'], rows=[], choice=SimpleNamespace(reasons={})
    )
    console.print(choice_table(prepared))
    assert 'cat [b], a[/x]' in console.export_text()


def test_a_page_that_cannot_be_written_does_not_lose_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = DistillSettings('small.py', 'big.py', 'big.pth', tmp_path)
    finish(given, tmp_path / 'gone.py')
    assert '--resume makes the page again' in capsys.readouterr().out


@pytest.mark.commands
def test_several_processes_prepare_once(files: Path, tmp_path: Path) -> None:
    """The first writes, calibrates and makes the page; the others wait and train."""
    work_dir = tmp_path / 'run'
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc_per_node', '2', '-m', 'mkd_det', 'distill']
    command += ['--teacher', str(files / 'big.py'), str(files / 'big.pth')]
    command += ['--student', str(files / 'small.py'), '--work-dir', str(work_dir)]
    command += ['--launcher', 'pytorch', '--epochs', '1', '--cfg-options']
    command += ['default_hooks.teacher_check=None', 'env_cfg.dist_cfg.backend=gloo']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('Trains ') == 1
    assert (work_dir / 'configs/calibrated.py').is_file()
    assert (work_dir / 'distill/student_last.pth').is_file()
    assert (work_dir / 'report/index.html').is_file()
