"""Teachers are loaded completely or not at all, and no code of a file is run."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import Tensor, nn

import faults
import tiny
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.config_files.reading import read_config
from mkd_det.errors import (
    CheckpointFileError,
    ConfigError,
    MkdError,
    TeacherClassesError,
    TeacherFileError,
    TeacherKeysError,
    UntrustedCheckpointError,
)
from mkd_det.heads.running import run_features
from mkd_det.taps import Tap, TeacherReads
from mkd_det.teachers.bank import TeacherBank
from mkd_det.teachers.loading import Teacher, load_teacher_cfg

MODEL = tiny.gfl(4, 8)


def weights(seed: int = 1, cfg: dict[str, Any] = MODEL) -> dict[str, Tensor]:
    return dict(tiny.build(cfg, seed).state_dict())


def save(path: Path, state: Any, **meta: Any) -> str:
    torch.save({'state_dict': state, 'meta': meta}, path)
    return str(path)


def teacher(file: str | Path, **more: Any) -> Teacher:
    return Teacher.build('t', dict(cfg=MODEL, checkpoint=str(file), **more))


def refuses(one: Teacher, error: type[MkdError]) -> MkdError:
    """Loading raises `error` and leaves the model as it was."""
    before = {k: v.clone() for k, v in one.model.state_dict().items()}
    with pytest.raises(error) as caught:
        one.load()
    assert type(caught.value) is error
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not one.meta
    return caught.value


# -- complete or not at all ------------------------------------------------------


def test_a_whole_checkpoint_is_loaded_key_by_key(tmp_path: Path) -> None:
    state = weights()
    one = teacher(save(tmp_path / 't.pth', state, dataset_meta=dict(classes=('a',))))
    one.load()
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert one.classes == ('a',)
    assert not one.model.training
    assert not any(p.requires_grad for p in one.model.parameters())


@pytest.mark.parametrize('layout', ['bare', 'model', 'without counters'])
def test_other_layouts_of_files_are_known(layout: str, tmp_path: Path) -> None:
    state: Any = weights()
    expected = dict(state)
    if layout == 'without counters':  # files of old have no num_batches_tracked
        state = {k: v for k, v in state.items() if 'num_batches' not in k}
    content = {'model': state} if layout == 'model' else state
    torch.save(content, tmp_path / 't.pth')
    one = teacher(tmp_path / 't.pth')
    one.load()
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_missing_and_unexpected_keys_are_told(tmp_path: Path) -> None:
    state = weights()
    state['bbox_head.gfl_class.bias'] = state.pop('bbox_head.gfl_cls.bias')
    error = refuses(teacher(save(tmp_path / 't.pth', state)), TeacherKeysError)
    assert error.expected == 'bbox_head.gfl_cls.bias'
    assert error.actual == 'bbox_head.gfl_class.bias'
    assert '1 keys missing, 1 unexpected' in str(error)


@pytest.mark.parametrize('change', ['missing', 'unexpected'])
def test_one_key_too_few_or_too_many_is_enough(change: str, tmp_path: Path) -> None:
    state = weights()
    if change == 'missing':
        del state['backbone.bn1.running_mean']
    else:
        state['backbone.extra.weight'] = torch.zeros(1)
    refuses(teacher(save(tmp_path / 't.pth', state)), TeacherKeysError)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tiny.write_checkpoint(tiny.retinanet(4, 8), tmp_path / 't.pth')
    error = refuses(teacher(file), TeacherKeysError)
    assert 'of another model' in str(error)
    assert 'retina_cls' in str(error)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    file = tiny.write_checkpoint(tiny.gfl(4, 12), tmp_path / 't.pth')
    error = refuses(teacher(file), TeacherKeysError)
    assert 'neck.lateral_convs.0.conv.weight: (12, 8, 1, 1) instead of (8, 8,' in str(
        error
    )


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    for name in ('gfl', 'atss', 'retinanet', 'fcos'):
        make = getattr(tiny, name)
        file = tiny.write_checkpoint(
            make(4, 8, num_classes=5), tmp_path / f'{name}.pth'
        )
        one = Teacher.build('t', dict(cfg=make(4, 8), checkpoint=str(file)))
        error = refuses(one, TeacherClassesError)
        assert 'num_classes' in str(error)


def test_other_classes_or_another_order_are_told() -> None:
    one = Teacher.build('t', dict(cfg=MODEL, checkpoint=None))
    one.check_classes(('anything',))  # a file that says nothing is believed
    one.meta = dict(dataset_meta=dict(classes=('red', 'green', 'blue')))
    one.check_classes(('red', 'green', 'blue'))
    with pytest.raises(TeacherClassesError, match='in another order') as caught:
        one.check_classes(('green', 'red', 'blue'))
    assert caught.value.expected == ('green', 'red', 'blue')
    assert caught.value.actual == ('red', 'green', 'blue')
    with pytest.raises(TeacherClassesError, match='on other classes'):
        one.check_classes(('cat', 'dog', 'cow'))
    one.meta = dict(CLASSES=('red',))  # as mmdet 2 wrote it
    with pytest.raises(TeacherClassesError):
        one.check_classes(('red', 'green', 'blue'))


@pytest.mark.parametrize('prefix', ['student.', 'module.', 'module.student.'])
def test_a_prefix_is_named_and_can_be_cut_off(prefix: str, tmp_path: Path) -> None:
    state = {prefix + k: v for k, v in weights().items()}
    state['teacher.something'] = torch.zeros(1)
    file = save(tmp_path / 't.pth', state)
    error = refuses(teacher(file), TeacherKeysError)
    assert error.fix.startswith(f'prefix={prefix!r}')
    one = teacher(file, prefix=prefix)
    one.load()
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, state[prefix + key]), key


def test_a_wrong_prefix_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / 't.pth', weights())
    refuses(teacher(file, prefix='student.'), TeacherKeysError)


def test_of_two_teachers_the_bank_counts_as_loaded_when_both_are(
    tmp_path: Path,
) -> None:
    good = tiny.write_checkpoint(MODEL, tmp_path / 'good.pth')
    cfgs = dict(
        one=dict(cfg=MODEL, checkpoint=str(good)),
        two=dict(cfg=MODEL, checkpoint=str(tmp_path / 'late.pth')),
    )
    bank = TeacherBank(cfgs)
    with pytest.raises(CheckpointFileError):
        bank.load()
    assert not bank.loaded
    good.rename(tmp_path / 'late.pth')
    with pytest.raises(CheckpointFileError, match=r'good\.pth'):
        bank.load()
    tiny.write_checkpoint(MODEL, good)
    bank.load()
    assert bank.loaded
    good.unlink()
    bank.load()  # once is enough


# -- files that are none ---------------------------------------------------------


def test_a_missing_file_is_told_with_the_nearest_names(tmp_path: Path) -> None:
    for name in ('gfl_r101.pth', 'retina.pth', 'notes.txt'):
        (tmp_path / name).touch()
    error = refuses(teacher(tmp_path / 'gfl_r110.pth'), CheckpointFileError)
    assert [Path(name).name for name in error.available] == [
        'gfl_r101.pth',
        'retina.pth',
    ]
    refuses(teacher(tmp_path / 'no' / 'such' / 'folder.pth'), CheckpointFileError)
    refuses(teacher(tmp_path), CheckpointFileError)


def test_a_file_without_weights_is_told(tmp_path: Path) -> None:
    torch.save({'epoch': 3}, tmp_path / 't.pth')
    refuses(teacher(tmp_path / 't.pth'), CheckpointFileError)
    torch.save([torch.zeros(1)], tmp_path / 't.pth')
    refuses(teacher(tmp_path / 't.pth'), CheckpointFileError)


def test_an_address_that_cannot_be_reached_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    one = teacher('http://127.0.0.1:9/teacher.pth')
    refuses(one, CheckpointFileError)
    assert not list(tmp_path.rglob('*.pth'))


# -- hostile files ---------------------------------------------------------------


def test_a_class_of_ones_own_is_named_and_needs_trust(tmp_path: Path) -> None:
    from argparse import Namespace

    file = save(tmp_path / 't.pth', weights(), args=Namespace(lr=1))
    error = refuses(teacher(file), UntrustedCheckpointError)
    assert 'argparse.Namespace' in str(error)
    one = teacher(file, trust_checkpoint=True)
    one.load()
    assert one.meta['args'].lr == 1


def test_a_hostile_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    file = faults.hostile(tmp_path / 't.pth', tmp_path / 'ran', state_dict=weights())
    error = refuses(teacher(file), UntrustedCheckpointError)
    assert 'trust_checkpoint=True' in error.fix
    assert not (tmp_path / 'ran').exists()


def test_trust_runs_what_the_file_says(tmp_path: Path) -> None:
    """So the test above has a trap that can snap."""
    file = faults.hostile(tmp_path / 't.pth', tmp_path / 'ran', state_dict=weights())
    teacher(file, trust_checkpoint=True).load()
    assert (tmp_path / 'ran').exists()


def test_mmengines_own_checkpoints_load_without_trust(
    coco_root: Path, tmp_path: Path
) -> None:
    """They hold log buffers, numpy numbers and the config beside the weights."""
    cfg = tiny.runner_cfg(MODEL, coco_root, tmp_path / 'run')
    runner = Runner.from_cfg(cfg)
    runner.train()
    file = tmp_path / 'run' / 'epoch_1.pth'
    content = read_checkpoint(str(file))
    loss = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(loss, HistoryBuffer)
    assert loss.current() == runner.message_hub.get_scalar('train/loss').current()
    assert loss.mean() > 0
    one = teacher(file)
    one.load()
    assert one.classes == tiny.CLASSES
    for key, value in runner.model.state_dict().items():
        assert torch.equal(one.model.state_dict()[key], value), key


# -- configs ---------------------------------------------------------------------


def test_a_teachers_config_may_be_a_name_a_file_or_a_dict(tmp_path: Path) -> None:
    model, whole = load_teacher_cfg('mmdet::gfl/gfl_r50_fpn_1x_coco.py')
    assert model['type'] == 'GFL' and whole is not None
    assert whole.val_evaluator.type == 'CocoMetric'
    file = tmp_path / 'c.py'
    file.write_text(f'model = {MODEL!r}')
    assert load_teacher_cfg(str(file))[0] == MODEL
    assert load_teacher_cfg(MODEL) == (MODEL, None)


def test_the_preprocessor_beside_a_model_is_the_teachers(tmp_path: Path) -> None:
    bare = {k: v for k, v in MODEL.items() if k != 'data_preprocessor'}
    own = dict(type='DetDataPreprocessor', mean=[1, 2, 3], std=[4, 5, 6])
    other = {**own, 'mean': [7, 8, 9]}
    taught = dict(type='Distiller', student=bare)
    for cfg in (
        dict(model=bare, data_preprocessor=own),
        dict(model={**bare, 'data_preprocessor': own}, data_preprocessor=other),
        dict(model=taught, data_preprocessor=own),
        dict(model={**taught, 'data_preprocessor': own}, data_preprocessor=other),
    ):
        text = ''.join(f'{key} = {value!r}\n' for key, value in cfg.items())
        (tmp_path / 'teacher.py').write_text(text)
        model, _ = load_teacher_cfg(str(tmp_path / 'teacher.py'))
        assert model == {**bare, 'data_preprocessor': own}


@pytest.mark.parametrize('kind', ['Distiller', 'mkd_det.Distiller'])
def test_a_distilled_model_teaches_as_the_student_that_it_was(
    kind: str, tmp_path: Path
) -> None:
    whole = tiny.distiller(MODEL, tiny.gfl(8, 16)) | dict(type=kind)
    file = tmp_path / 'assistant.py'
    file.write_text(f'model = {whole!r}')
    assert load_teacher_cfg(str(file))[0] == MODEL
    # Its checkpoints are plain, with distillation state beside the weights.
    distilled = tiny.build(whole)
    torch.save({'state_dict': distilled.state_dict()}, tmp_path / 'a.pth')
    one = Teacher.build('a', dict(cfg=str(file), checkpoint=str(tmp_path / 'a.pth')))
    one.load()
    assert type(one.model).__name__ == 'GFL'
    for key, value in distilled.state_dict().items():
        assert torch.equal(one.model.state_dict()[key], value), key


@pytest.mark.parametrize(
    'cfg, error, says',
    [
        (dict(cfg='no.py', checkpoint='x'), TeacherFileError, 'no.py'),
        (dict(cfg='mmdet::no.py', checkpoint='x'), TeacherFileError, 'does not exist'),
        (dict(cfg='nobody::no.py', checkpoint='x'), TeacherFileError, 'nobody'),
        (dict(cfg=5, checkpoint='x'), ConfigError, 'teachers.t: cfg must be'),
        (dict(checkpoint='x'), ConfigError, 'teachers.t: `cfg` is missing'),
        (dict(cfg=MODEL), ConfigError, '`checkpoint` is missing'),
        (dict(cfg=MODEL, chekpoint='x'), ConfigError, "'chekpoint'"),
    ],
)
def test_a_bad_entry_is_told(cfg: dict, error: type[MkdError], says: str) -> None:
    with pytest.raises(error, match=says):
        Teacher.build('t', cfg)


def test_an_unknown_key_lists_the_known_ones_nearest_first() -> None:
    with pytest.raises(ConfigError) as caught:
        Teacher.build('t', dict(cfg=MODEL, chekpoint='x'))
    assert caught.value.available[0] == 'checkpoint'
    assert {'cfg', 'taps', 'prefix', 'trust_checkpoint'} <= set(caught.value.available)


def test_building_needs_no_file_and_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = {
        **MODEL['backbone'],
        'init_cfg': dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    }
    monkeypatch.setattr(
        torch.hub, 'download_url_to_file', lambda *_: pytest.fail('net')
    )
    monkeypatch.setattr(
        torch.hub, 'load_state_dict_from_url', lambda *_: pytest.fail('net')
    )
    Teacher.build('t', dict(cfg={**MODEL, 'backbone': backbone}, checkpoint='no.pth'))


# -- running ---------------------------------------------------------------------


def test_running_gives_what_the_model_gives_without_gradient(tmp_path: Path) -> None:
    file = tiny.write_checkpoint(MODEL, tmp_path / 't.pth')
    bank = TeacherBank(dict(t=dict(cfg=MODEL, checkpoint=str(file), speed='off')))
    bank.load()
    images = torch.randn(2, 3, 64, 64)
    taps = dict(fpn=Tap.parse('neck'), deep=Tap.parse('backbone'))
    seen = bank.run('t', images, TeacherReads(taps))
    model: nn.Module = tiny.build(MODEL)
    model.load_state_dict(torch.load(file)['state_dict'])
    with torch.no_grad():
        stages = model.eval().backbone(images)
        expected = model.neck(stages)
    assert all(map(torch.equal, seen['fpn'], expected))
    assert all(map(torch.equal, seen['deep'], stages))
    assert not any(level.requires_grad for level in seen['fpn'])
    # Of no_grad, not of inference_mode: the student's backward may save them.
    assert not any(level.is_inference() for level in seen['fpn'])


def test_features_of_any_detector_are_run_once_through_call() -> None:
    """The head's hooks fire, which `SingleStageDetector._forward` passes by."""
    model = tiny.build(MODEL)
    fired: OrderedDict[str, int] = OrderedDict()
    for name in ('backbone', 'neck', 'bbox_head'):

        def count(*_: Any, name: str = name) -> None:
            fired[name] = fired.get(name, 0) + 1

        getattr(model, name).register_forward_hook(count)
    run_features(model, torch.zeros(1, 3, 64, 64))
    assert fired == OrderedDict(backbone=1, neck=1, bbox_head=1)


@pytest.mark.parametrize(
    ('key', 'change', 'words'),
    [
        ('backbone.conv1.weight', lambda v: v * float('nan'), 'not finite'),
        ('backbone.bn1.running_var', lambda v: -v - 1, 'below 0'),
        ('backbone.conv1.weight', lambda v: v.int(), 'int32'),
        ('backbone.conv1.weight', lambda v: v.to(torch.complex64), 'complex64'),
    ],
)
def test_weights_that_no_training_leaves_behind_are_refused(
    key: str, change: Any, words: str, tmp_path: Path
) -> None:
    state = weights()
    state[key] = change(state[key])
    error = refuses(teacher(save(tmp_path / 't.pth', state)), TeacherKeysError)
    assert key in error.message and words in error.message


def test_a_prefix_that_no_key_has_is_told(tmp_path: Path) -> None:
    file = save(tmp_path / 't.pth', weights())
    error = refuses(teacher(file, prefix='module.'), TeacherKeysError)
    assert "begins with 'module.'" in error.message


def test_a_teachers_config_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / 'teacher.py').write_text('model = dict(type=')
    with pytest.raises(TeacherFileError, match='cannot be read'):
        Teacher.build('t', dict(cfg=str(tmp_path / 'teacher.py'), checkpoint=None))


def test_a_package_that_is_not_there_is_told_and_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr('mmengine.hub.hub.install_package', asked.append)
    for name in ('mmseg::x.py', 'mmdett::x.py', '::x.py'):
        with pytest.raises(ConfigError, match='packaged config'):
            read_config(name)
        with pytest.raises(TeacherFileError, match='does not exist'):
            load_teacher_cfg(name)
    assert not asked
