"""A teacher whose outputs are stored: it teaches what it would teach in the loop."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope

import tiny
from mkd_det.errors import ConfigError, DataError, PlanError, TeacherError
from mkd_det.experiments.labelling.soft import SoftSettings, label_soft
from mkd_det.preflight.images.stored import check_stored_teachers
from mkd_det.run import train
from mkd_det.teachers.stored.store import OutputStore
from tooling import distiller_cfg, plain_dumps, run_command

ALL = 10**6
KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
SOFT = dict(loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'))
KINDS = dict(gfl=tiny.gfl, retinanet=tiny.retinanet)


def teacher_cfg(kind: str) -> dict[str, Any]:
    return KINDS[kind](base_channels=16, neck=24)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two teachers, and all that they say of the images."""
    init_default_scope('mmdet')
    root = tmp_path_factory.mktemp('stored')
    tiny.write_coco(root / 'data', images=4)
    for kind in KINDS:
        path = tiny.write_checkpoint(teacher_cfg(kind), root / f'{kind}.pth')
        content = torch.load(path)
        draw = torch.Generator().manual_seed(0)
        for name, value in content['state_dict'].items():
            if name.endswith(('_cls.weight', '_reg.weight', '_cls.bias')):
                # Sure of some things, and not of others.
                value += 0.5 * torch.randn(value.shape, generator=draw)
        torch.save(content, path)
        soft_labels(root, kind, root / f'{kind}.soft', ALL)
    return root


def soft_labels(root: Path, kind: str, out: Path, top_k: int, **settings: Any) -> Any:
    cfg = tiny.runner_cfg(teacher_cfg(kind), root / 'data', root / 'run')
    given = SoftSettings(top_k=top_k, batch_size=2, **settings)
    images = str(root / 'data/images')
    return label_soft(cfg, str(root / f'{kind}.pth'), images, out, given)


def distiller(root: Path, kind: str, stored: Path | None, **parts: Any) -> Any:
    """A student of a teacher in the loop, or of what it has said."""
    given = dict(checkpoint=str(root / f'{kind}.pth'), speed='off')
    if stored is not None:
        given = dict(checkpoint=None, stored=str(stored))
    cfg = distiller_cfg(None, **{'adapters': {}, 'terms': SOFT, **parts})
    cfg.update(
        student=KINDS[kind](),
        teachers=dict(t=dict(cfg=teacher_cfg(kind), **given)),
        taps=dict(head='bbox_head'),
    )
    return tiny.build(cfg).train()


def dataset(root: Path, *steps: Any, keys: Any = (*KEYS, 'homography_matrix')) -> Any:
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        *steps,
        dict(type='PackDetInputs', meta_keys=keys),
    ]
    cfg = tiny.runner_cfg({}, root / 'data', root / 'run').train_dataloader.dataset
    return DATASETS.build(dict(cfg.to_dict(), pipeline=pipeline))


RESIZE = dict(type='Resize', scale=(96, 64), keep_ratio=True)


def losses(model: Any, data: Any) -> dict[str, float]:
    batch = pseudo_collate([data[index] for index in range(3)])
    found = model(**model.data_preprocessor(batch, True), mode='loss')
    names = [name for name in found if name.startswith('loss_soft')]
    return {name: found[name].item() for name in names}


@pytest.mark.parametrize('kind', list(KINDS))
def test_all_rows_teach_what_the_teacher_in_the_loop_teaches(
    root: Path, kind: str
) -> None:
    """Up to the rounding to float16."""
    data = dataset(root, RESIZE)
    looped = losses(distiller(root, kind, None), data)
    stored = losses(distiller(root, kind, root / f'{kind}.soft'), data)
    assert looped.keys() == stored.keys() and len(looped) == 2
    for name, value in looped.items():
        assert value > 0
        assert stored[name] == pytest.approx(value, rel=2e-3), name


@pytest.mark.parametrize('kind', list(KINDS))
def test_a_teacher_of_mirrored_features_teaches_mirrored_images(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Student and stored rows are mirrored alike: the loss stays the same, but for the
    places at the edge, where anchors at the corners of cells have no partner."""
    model = distiller(root, kind, root / f'{kind}.soft')
    plain = model.teachers.run, dataset(root, RESIZE)
    flip = dict(type='RandomFlip', prob=1.0)
    output = {}
    for name, data in (('plain', plain[1]), ('flipped', dataset(root, RESIZE, flip))):
        batch = pseudo_collate([data[0]])
        given = model.data_preprocessor(batch, True)
        model.teachers.load()
        reads = model.plan.reads['t']
        levels = plain[0]('t', given['inputs'], reads, given['data_samples'])
        term = model.plan.terms['loss_soft']
        output[name] = term.readers['teacher'].read(None, levels['head'])
    before, after = output['plain'], output['flipped']
    w, anchors = 12, 1 if kind == 'gfl' else 9
    rows = before.scores[0, : 8 * w * anchors].reshape(8, w, anchors, -1)
    turned = after.scores[0, : 8 * w * anchors].reshape(8, w, anchors, -1)
    # Place i is at 8 i px: its mirror image is place 12 - i.
    assert torch.equal(turned[:, 1 : w - 1], rows[:, 2:].flip(1))
    boxes = before.boxes[0, : 8 * w * anchors].reshape(8, w, anchors, 4)[:, 2:].flip(1)
    mirrored = torch.stack(
        [96 - boxes[..., 2], boxes[..., 1], 96 - boxes[..., 0], boxes[..., 3]], -1
    )
    found = after.boxes[0, : 8 * w * anchors].reshape(8, w, anchors, 4)[:, 1 : w - 1]
    assert torch.allclose(found, mirrored, atol=1e-2)


def test_images_resized_flipped_and_cropped_are_trained_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A whole training, through all checks, with few rows of each image. The hook that
    measures teachers does not measure a model that has no weights."""
    store = tmp_path / 'few.soft'
    soft_labels(root, 'gfl', store, 40)
    model = distiller_cfg(None, adapters={}, terms=SOFT, taps=dict(head='bbox_head'))
    teacher = dict(cfg=teacher_cfg('gfl'), checkpoint=None, stored=str(store))
    model['teachers'] = dict(t=teacher)
    cfg = tiny.runner_cfg(model, root / 'data', tmp_path / 'run')
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomResize', scale=(96, 64), ratio_range=(0.5, 2.0)),
        dict(type='RandomCrop', crop_size=(64, 64)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs', meta_keys=(*KEYS, 'homography_matrix')),
    ]
    cfg.custom_imports, cfg.launcher = dict(imports=['mkd_det']), 'none'
    cfg.default_hooks.teacher_check = dict(type='TeacherCheckHook')
    cfg.log_level = 'INFO'
    with plain_dumps():
        cfg.dump(tmp_path / 'config.py')
        assert not run_command('plan', [tmp_path / 'config.py'])
    assert 'outputs of' in ' '.join(capsys.readouterr().out.split())
    train(cfg)
    assert (tmp_path / 'run/epoch_1.pth').is_file()
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'Teacher t is not evaluated: its outputs are stored' in log


def test_the_model_of_a_stored_teacher_does_not_run(root: Path) -> None:
    model = distiller(root, 'gfl', root / 'gfl.soft')
    model.teachers.load()
    model.teachers['t'].model.forward = None
    model.teachers['t'].model.backbone = None
    assert losses(model, dataset(root, RESIZE))
    assert model.teachers['t'].classes == tiny.CLASSES
    assert 'weights' in model.teachers['t'].weights


def test_terms_on_features_are_refused(root: Path) -> None:
    stored = dict(cfg=teacher_cfg('gfl'), checkpoint=None, stored=root / 'gfl.soft')
    cfg = distiller_cfg(None, teachers=dict(t=stored))
    with pytest.raises(PlanError) as error:
        tiny.build(cfg)
    assert 'loss_feature' in error.value.message
    assert error.value.fix == 'terms=dict(loss_feature=dict(weight=0))'
    cfg['terms']['loss_feature']['weight'] = 0  # the fix
    assert list(tiny.build(cfg).plan.terms) == ['loss_soft']
    features = {'loss_feature': {**cfg['terms']['loss_feature'], 'weight': 1}}
    with pytest.raises(PlanError) as error:
        tiny.build({**cfg, 'terms': features})
    assert 'soft_dense' in error.value.fix


def test_transforms_of_whole_batches_are_refused(root: Path) -> None:
    stored = dict(cfg=teacher_cfg('gfl'), checkpoint=None, stored=root / 'gfl.soft')
    cfg = distiller_cfg(None, teachers=dict(t=stored), adapters={}, terms=SOFT)
    cfg['student']['data_preprocessor']['batch_augments'] = [
        dict(type='BatchSyncRandomResize', random_size_range=(64, 128))
    ]
    with pytest.raises(PlanError) as error:
        tiny.build(cfg)
    assert 'BatchSyncRandomResize' in error.value.message
    cfg['student']['data_preprocessor']['batch_augments'] = None  # the fix
    tiny.build(cfg)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='RandomAffine'),
        dict(type='MinIoURandomCrop'),
        dict(type='RandomApply', transforms=[dict(type='Rotate')]),
        dict(type='CachedMosaic', img_scale=(96, 64)),
    ],
)
def test_transforms_that_are_not_known_are_named(root: Path, step: Any) -> None:
    model = distiller(root, 'gfl', root / 'gfl.soft')
    inner = step.get('transforms', [step])[0]['type']
    with pytest.raises(ConfigError) as error:
        check_stored_teachers(Config(), model, dataset(root, RESIZE, deepcopy(step)))
    assert error.value.message.startswith(f'{inner}: ')
    mixing = dict(
        type='PatientDataset',
        size=(96, 64),
        dataset=tiny.runner_cfg(
            {}, root / 'data', root / 'run'
        ).train_dataloader.dataset.to_dict(),
    )
    with pytest.raises(ConfigError) as error:
        check_stored_teachers(Config(), model, DATASETS.build(mixing))
    assert 'Mosaic: ' in error.value.message or 'MixUp' in str(error.value.actual)


def test_a_pipeline_that_hooks_switch_to_is_looked_at(root: Path) -> None:
    model = distiller(root, 'gfl', root / 'gfl.soft')
    hook = dict(type='PipelineSwitchHook', switch_pipeline=[dict(type='Expand')])
    data = dataset(root, RESIZE)
    check_stored_teachers(Config(), model, data)
    with pytest.raises(ConfigError) as error:
        check_stored_teachers(Config(dict(custom_hooks=[hook])), model, data)
    assert error.value.message.startswith('Expand: ')


def test_samples_must_say_how_images_were_transformed(root: Path) -> None:
    model = distiller(root, 'gfl', root / 'gfl.soft')
    with pytest.raises(ConfigError) as error:
        check_stored_teachers(Config(), model, dataset(root, RESIZE, keys=KEYS))
    assert "'homography_matrix')" in error.value.fix
    with pytest.raises(DataError) as data_error:  # without the checks, in the step
        losses(model, dataset(root, RESIZE, keys=KEYS))
    assert 'homography_matrix' in data_error.value.expected


def test_images_that_are_not_stored_are_told(root: Path, tmp_path: Path) -> None:
    tiny.write_coco(tmp_path / 'data', images=4, seed=7)
    model = distiller(root, 'gfl', root / 'gfl.soft')
    model.teachers.load()
    data = dataset(tmp_path, RESIZE)
    with pytest.raises(DataError) as error:
        check_stored_teachers(Config(), model, data)
    assert '4 of 4' in error.value.message and '--soft' in error.value.fix
    with pytest.raises(DataError) as error:
        losses(model, data)
    assert 'no soft labels of' in error.value.message


def test_a_moved_image_is_found_again(root: Path, tmp_path: Path) -> None:
    source = root / 'data/images/000.png'
    moved = tmp_path / 'other.png'
    moved.write_bytes(source.read_bytes())
    store = OutputStore(root / 'gfl.soft')
    assert torch.equal(store.read(str(moved)).rows, store.read(str(source)).rows)


def test_a_file_of_another_head_is_refused(root: Path) -> None:
    cfg = distiller_cfg(None, adapters={}, terms=SOFT, taps=dict(head='bbox_head'))
    stored = dict(cfg=teacher_cfg('gfl'), checkpoint=None)
    cfg['teachers'] = dict(t=dict(stored, stored=root / 'retinanet.soft'))
    model, data = tiny.build(cfg).train(), dataset(root, RESIZE)
    model.teachers.load()
    with pytest.raises(TeacherError) as error:
        check_stored_teachers(Config(), model, data)
    assert 'RetinaHead' in error.value.expected and error.value.actual == 'GFLHead'
    with pytest.raises(TeacherError):  # without the checks, in the step
        losses(model, data)


@pytest.mark.parametrize('content', [None, b'', b'no database' * 100])
def test_a_file_that_is_no_store_is_refused(
    root: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / 'labels.soft'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        distiller(root, 'gfl', path).teachers.load()
    assert 'mkd-det label' in error.value.fix


def test_settings_that_would_have_no_effect_are_refused(root: Path) -> None:
    for more in (dict(cache='folder'), dict(prune=0.5)):
        cfg = distiller_cfg(None)
        cfg['teachers']['t'].update(stored=str(root / 'gfl.soft'), **more)
        with pytest.raises(ConfigError) as error:
            tiny.build(cfg)
        assert next(iter(more)) in error.value.actual


@pytest.mark.parametrize(
    'term',
    [
        dict(type='LD'),
        dict(type='SoftOutputKD', boxes='giou'),
        dict(type='SoftOutputKD', balance=0.5),
    ],
)
def test_other_terms_on_the_output_of_a_head_are_taught_alike(
    root: Path, term: dict[str, Any]
) -> None:
    terms = dict(loss_soft=dict(student='head', teacher='t.head', **term))
    data = dataset(root, RESIZE)
    looped, stored = (
        losses(distiller(root, 'gfl', path, terms=terms), data)
        for path in (None, root / 'gfl.soft')
    )
    assert looped == pytest.approx(stored, rel=5e-3) and any(looped.values())


def test_a_teacher_of_more_classes_teaches_those_that_both_know(root: Path) -> None:
    order = dict(class_map=[2, 1, 0], classes=('blue', 'green', 'red'))
    teacher = dict(cfg=teacher_cfg('gfl'), **order)
    data = dataset(root, RESIZE)
    found = []
    for given in (
        dict(checkpoint=str(root / 'gfl.pth'), speed='off'),
        dict(checkpoint=None, stored=str(root / 'gfl.soft')),
    ):
        cfg = distiller_cfg(None, adapters={}, terms=SOFT, taps=dict(head='bbox_head'))
        cfg['teachers'] = dict(t={**teacher, **given})
        found.append(losses(tiny.build(cfg).train(), data))
    assert found[0] == pytest.approx(found[1], rel=5e-3)
