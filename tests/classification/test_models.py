"""Image classifiers: training, test, distillation, and as start of detectors."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

import tiny
import tiny_images
from mkd_det.classification.cifar_wide_resnet import WideBlock
from mkd_det.errors import AnnotationError, ConfigError
from mkd_det.preflight.checks import check_pretrained
from tooling import fails, plain_dumps, run_command

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / '../shared/weights'
# What the weights in circulation call their parts, and what we do.
RENAME = (
    (r'^module\.', ''),
    ('^linear', 'head'),
    ('^(conv1|bn1|layer)', r'backbone.\1'),
)


@pytest.fixture(scope='module', autouse=True)
def _plain_dumps() -> Iterator[None]:
    with plain_dumps():
        yield


def torchvision_model(name: str, **more: Any) -> dict[str, Any]:
    backbone = dict(type='TorchvisionBackbone', name=name, **more)
    return dict(type='ImageClassifier', backbone=backbone, num_classes=3)


# ------------------------------------------------------------------------ models


@pytest.mark.parametrize(
    'depth, parameters', [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_resnets_for_cifar_are_those_of_the_paper(depth: int, parameters: int) -> None:
    # Table 6 has 0.27, 0.46, 0.66 and 0.85 million.
    cfg = tiny_images.classifier(depth, 16)
    cfg['num_classes'] = 10
    model = MODELS.build(cfg)
    assert sum(p.numel() for p in model.parameters()) == parameters
    maps = model.extract_feat(torch.zeros(1, 3, 32, 32))
    assert [m.shape[1:] for m in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize(
    'depth, widen, million', [(40, 1, 0.6), (40, 2, 2.2), (16, 4, 2.7), (16, 8, 11.0)]
)
def test_wide_resnets_are_those_of_the_paper(
    depth: int, widen: int, million: float
) -> None:
    """Table 2 and 3 of the paper, in millions of parameters."""
    cfg = dict(type='CifarWideResNet', depth=depth, widen=widen)
    model = MODELS.build(dict(type='ImageClassifier', backbone=cfg, num_classes=10))
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(million, abs=0.05)
    maps = model.extract_feat(torch.zeros(1, 3, 32, 32))
    k = widen
    assert [m.shape[1:] for m in maps] == [
        (16 * k, 32, 32),
        (32 * k, 16, 16),
        (64 * k, 8, 8),
    ]


def test_a_wide_block_adds_its_input() -> None:
    """A shortcut of the normalised input where the width changes, else the input."""
    same, other = WideBlock(4, 4, 1).eval(), WideBlock(4, 8, 2).eval()
    x = torch.randn(2, 4, 6, 6)
    for block in (same, other):
        torch.nn.init.zeros_(block.conv2.weight)
    assert torch.equal(same(x), x)
    normalised = torch.relu(other.bn1(x))
    assert torch.allclose(other(x), other.shortcut(normalised))


@pytest.mark.parametrize('depth', [11, 13, 16, 19])
def test_vggs_have_the_convolutions_of_the_paper(depth: int) -> None:
    whole = torchvision.models.get_model(f'vgg{depth}_bn', init_weights=False)
    features = whole.features
    expected = [m.weight.shape for m in features if isinstance(m, nn.Conv2d)]
    backbone = MODELS.build(dict(type='CifarVGG', depth=depth))
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert [m.weight.shape for m in convs] == expected


def test_a_small_vgg() -> None:
    """VGG-8 of the literature on distillation: 3.97 million for 100 classes."""
    cfg = dict(type='CifarVGG', depth=8)
    model = MODELS.build(dict(type='ImageClassifier', backbone=cfg, num_classes=100))
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(3.96, abs=0.01)
    narrow = MODELS.build(dict(type='CifarVGG', depth=8, base_channels=4))
    shapes = [m.shape[1:] for m in narrow(torch.zeros(1, 3, 32, 32))]
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (32, 2, 2)]


@pytest.mark.parametrize(
    'cfg, word',
    [
        (dict(type='CifarWideResNet', depth=20), '6n + 4'),
        (dict(type='CifarWideResNet', widen=0), 'positive integer'),
        (dict(type='CifarVGG', depth=12), 'available: 8, 11'),
    ],
)
def test_there_are_no_other_depths(cfg: dict, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MODELS.build(cfg)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='CifarWideResNet', depth=10),
        dict(type='CifarVGG', depth=8, base_channels=4),
    ],
)
def test_resnets_teach_other_kinds(backbone: dict) -> None:
    student = {**tiny_images.classifier(), 'backbone': backbone}
    model = MODELS.build(distiller(student=student))
    batch = tiny_images.batch()
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert losses['loss_soft'] > 0 and losses['loss_soft'].requires_grad


@pytest.mark.parametrize('depth', [20, 56])
def test_published_weights_are_complete(depth: int) -> None:
    file = WEIGHTS / f'resnet{depth}-cifar10.pth'
    if not file.is_file():
        pytest.skip(f'there is no {file}')
    cfg = tiny_images.classifier(depth, 16)
    cfg['num_classes'] = 10
    weights = torch.load(file, map_location='cpu', weights_only=True)['state_dict']
    renamed = {}
    for key, value in weights.items():
        for pattern, name in RENAME:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    MODELS.build(cfg).load_state_dict(renamed, strict=True)
    # The same through a teacher, whose keys are revised in the config.
    teacher = dict(cfg=cfg, checkpoint=str(file), revise_keys=RENAME)
    student = {**tiny_images.classifier(), 'num_classes': 10}
    model = MODELS.build(distiller(student=student, teachers=dict(t=teacher)))
    model.teachers.load()
    loaded = model.teachers['t'].model.state_dict()
    assert torch.equal(loaded['head.weight'], renamed['head.weight'])


def test_shortcuts_take_every_second_pixel_and_pad_with_zeros() -> None:
    model = MODELS.build(dict(type='CifarResNet', depth=8, base_channels=2))
    block = model.layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)  # the residual says nothing
    x = torch.rand(1, 2, 4, 4)
    out = block(x)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


@pytest.mark.parametrize(
    'name', ['resnet18', 'mobilenet_v3_small', 'squeezenet1_0', 'resnet_18']
)
def test_torchvisions_models_by_name(name: str) -> None:
    if name == 'squeezenet1_0':
        with pytest.raises(ConfigError, match='no linear layer'):
            MODELS.build(torchvision_model(name))
    elif name == 'resnet_18':
        with pytest.raises(ConfigError) as caught:
            MODELS.build(torchvision_model(name))
        assert caught.value.available[0] == 'resnet18'
    else:
        model = MODELS.build(torchvision_model(name))
        losses = model.train()(
            torch.randn(2, 3, 32, 32),
            tiny_images.batch((0, 2))['data_samples'],
            mode='loss',
        )
        losses['loss_cls'].backward()
        assert all(p.grad is not None for p in model.parameters())


def test_a_torchvision_model_with_auxiliary_classifiers() -> None:
    with pytest.raises(ConfigError, match='auxiliary') as caught:
        MODELS.build(torchvision_model('googlenet', options=dict(init_weights=False)))
    assert 'aux_logits=False' in caught.value.fix


def test_modes_of_a_classifier() -> None:
    model = tiny_images.build(tiny_images.classifier()).eval()
    data = model.data_preprocessor(tiny_images.batch((0, 1, 2)))
    logits = model(**data)
    assert logits.shape == (3, 3)
    samples = model(**data, mode='predict')
    for row, sample in zip(logits, samples, strict=True):
        assert torch.allclose(sample.pred_score, row.softmax(0))
        assert sample.pred_label.item() == row.argmax().item()
    loss = model(**data, mode='loss')['loss_cls']
    labels = torch.tensor([0, 1, 2])
    assert torch.allclose(loss, nn.functional.cross_entropy(logits, labels))


def test_the_preprocessor_normalises_and_mixes_in_training_only() -> None:
    cfg = tiny_images.classifier()
    cfg['data_preprocessor'].update(mixup=1.0, num_classes=3)
    model = tiny_images.build(cfg)
    batch = tiny_images.batch((0, 1, 2))
    plain = model.data_preprocessor(deepcopy(batch))
    mean, std = (
        torch.tensor([123.675, 116.28, 103.53]),
        torch.tensor([58.395, 57.12, 57.375]),
    )
    wanted = (batch['inputs'][0] - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(plain['inputs'][0], wanted)
    assert 'gt_score' not in plain['data_samples'][0]
    mixed = model.data_preprocessor(deepcopy(batch), training=True)
    scores = torch.stack([s.gt_score for s in mixed['data_samples']])
    assert torch.allclose(scores.sum(1), torch.ones(3))
    del batch['data_samples'][1].gt_label  # an image without a label
    with pytest.raises(ConfigError, match='mixup needs a label'):
        model.data_preprocessor(batch, training=True)
    # Images are mixed as their labels are: image 0 has as much of each as it says.
    again = torch.einsum('nk,kchw->nchw', scores, plain['inputs'])
    assert torch.allclose(mixed['inputs'], again, atol=1e-5)
    model.train()(**mixed, mode='loss')['loss_cls'].backward()


# ------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(backbone=dict(type='CifarResNet', depth=18)), '6n \\+ 2'),
        (dict(num_classes=1), 'num_classes'),
        (dict(num_classes='10'), 'num_classes'),
        (dict(loss=dict(type='GIoULoss')), 'cannot be built'),
        (
            dict(loss=dict(type='LossAggregation', losses=[dict(type='C')])),
            'no registered class loss',
        ),
        (
            dict(
                loss=dict(
                    type='LossAggregation',
                    losses=[dict(type='BalancedCE', counts=[1, 2])],
                )
            ),
            'one count per class',
        ),
        (
            dict(data_preprocessor=dict(type='ClassifierPreprocessor', mixup=1.0)),
            'with num_classes',
        ),
        (dict(backbone=tiny.gfl()['backbone']), 'out_channels'),
    ],
)
def test_parts_that_do_not_fit_fail_when_it_is_built(change: dict, words: str) -> None:
    from mkd_det.registry import build_mmengine_model

    with pytest.raises(ConfigError, match=words):
        build_mmengine_model(MODELS, {**tiny_images.classifier(), **change}, 'model')


@pytest.mark.parametrize('label', [-1, 3, -100])
def test_a_label_of_no_class_is_refused(label: int) -> None:
    model = tiny_images.build(tiny_images.classifier())
    data = model.data_preprocessor(tiny_images.batch((0, label)))
    with pytest.raises(AnnotationError) as caught:
        model(**data, mode='loss')
    assert caught.value.expected == '0 to 2'


def test_a_backbone_with_other_channels_than_the_head_is_an_error() -> None:
    model = tiny_images.build(tiny_images.classifier(in_channels=5))
    with pytest.raises(ConfigError) as caught:
        model(torch.zeros(1, 3, 16, 16))
    assert caught.value.expected == 'in_channels=16'


# --------------------------------------------------------- trained and distilled


def distiller(**parts: Any) -> dict[str, Any]:
    cfg: dict[str, Any] = dict(
        type='Distiller',
        student=tiny_images.classifier(),
        teachers=dict(t=dict(cfg=tiny_images.classifier(14), checkpoint=None)),
        taps=dict(logits='head', stages='backbone'),
        terms=dict(
            loss_soft=dict(
                type='SoftOutputKD', student='logits', teacher='t.logits', tau=4.0
            ),
            loss_attention=dict(
                type='AttentionKD', student='stages', teacher='t.stages', weight=10.0
            ),
        ),
        probe_size=16,
    )
    return {**cfg, **parts}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_images.write_folder(tmp_path_factory.mktemp('images'))


def write(path: Path, cfg: Config) -> str:
    cfg.dump(path)
    return str(path)


@pytest.fixture(scope='module')
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test a classifier with the commands; return its config."""
    root = tmp_path_factory.mktemp('teacher')
    cfg = tiny_images.classifier(14)
    cfg = tiny_images.runner_cfg(cfg, data, root / 'run', epochs=15)
    assert run_command('train', [write(root / 'config.py', cfg)]) == 0
    return root


def test_a_classifier_trains_and_tests_through_the_tools(
    teacher: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'out.pkl'
    argv = [str(teacher / 'config.py'), str(teacher / 'run/epoch_15.pth')]
    argv += ['--work-dir', str(tmp_path), '--out', str(out)]
    assert run_command('test', argv) == 0
    metrics = Config.fromfile(next(tmp_path.glob('*/*.json')))
    # Three colours: the tiny thing has learned them.
    assert metrics['accuracy/top1'] == 100 and metrics['accuracy/top2'] == 100
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 12
    for sample in predictions:
        assert sample['pred_label'] == sample['pred_score'].argmax()
        assert sample['pred_label'] == sample['gt_label']


def test_a_classifier_is_distilled_and_exported(
    teacher: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # The teacher by its own config and checkpoint, checked on the data before.
    t = dict(cfg=str(teacher / 'config.py'))
    t['checkpoint'] = str(teacher / 'run/epoch_15.pth')
    model = distiller(teachers=dict(t=t))
    cfg = tiny_images.runner_cfg(model, data, tmp_path / 'run', epochs=2)
    cfg.log_level = 'INFO'
    config = write(tmp_path / 'config.py', cfg)
    assert run_command('train', [config]) == 0
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'Teacher t (ImageClassifier): accuracy/top1 100.0000' in log
    assert 'loss_soft:' in log and 'loss_attention:' in log
    # Plain in the work dir, and by the tool.
    out = tmp_path / 'out'
    source = str(tmp_path / 'run/epoch_2.pth')
    assert run_command('export', [config, source, str(out)]) == 0
    assert 'where mkd_det is installed' in capsys.readouterr().out
    for folder, file in ((tmp_path / 'run', 'student_last.pth'), (out, 'student.pth')):
        plain = Config.fromfile(folder / 'student_config.py')
        assert plain.model.type == 'ImageClassifier'
        content = torch.load(folder / file, weights_only=True)
        assert content['meta']['dataset_meta']['classes'] == tiny_images.CLASSES
        MODELS.build(plain.model).load_state_dict(content['state_dict'], strict=True)
    # And it is a model for the tools.
    argv = [str(out / 'student_config.py'), str(out / 'student.pth')]
    assert run_command('test', [*argv, '--work-dir', str(tmp_path / 'test')]) == 0


def test_a_teacher_of_another_order_of_classes_is_refused(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # Named so that the folders' order is another.
    other = tiny_images.write_folder(tmp_path / 'data', classes=('a', 'b', 'c'))
    t = dict(cfg=str(teacher / 'config.py'))
    t['checkpoint'] = str(teacher / 'run/epoch_15.pth')
    cfg = tiny_images.runner_cfg(distiller(teachers=dict(t=t)), other, tmp_path / 'run')
    config = write(tmp_path / 'config.py', cfg)
    fails(capsys, 'train', [config], 'TeacherClassesError', "'blue'", "'a'")


def test_a_student_of_another_number_of_classes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    four = ('blue', 'green', 'red', 'white')
    data = tiny_images.write_folder(tmp_path / 'data', classes=four)
    for model in (tiny_images.classifier(), distiller()):
        cfg = tiny_images.runner_cfg(model, data, tmp_path / 'run')
        config = write(tmp_path / 'config.py', cfg)
        fails(capsys, 'train', [config], 'ConfigError', 'num_classes=4')
    # Nor where only the test data has another class.
    cfg.train_dataloader.dataset.root = str(tiny_images.write_folder(tmp_path / 'ok'))
    config = write(tmp_path / 'config.py', cfg)
    fails(capsys, 'train', [config], 'ConfigError', 'the val data has 4')
    assert not (tmp_path / 'run').exists()


# ------------------------------------------------------- a backbone for a detector


def small_resnet() -> dict[str, Any]:
    """The backbone of `tiny.gfl` as a classifier, with strides for small images."""
    backbone = {**tiny.gfl()['backbone'], 'strides': (1, 1, 2, 2), 'out_indices': (3,)}
    return {**tiny_images.classifier(), 'backbone': backbone, 'in_channels': 64}


def started_from(checkpoint: Path, prefix: str = 'backbone.') -> dict[str, Any]:
    """A distilled detector whose student starts from a classifier's backbone."""
    student = tiny.gfl()
    student['backbone']['init_cfg'] = dict(
        type='Pretrained', checkpoint=str(checkpoint), prefix=prefix
    )
    return dict(
        type='Distiller',
        student=student,
        teachers=dict(t=dict(cfg=tiny.gfl(16, 24), checkpoint=None)),
        taps=dict(fpn='neck'),
        terms=dict(
            loss_attention=dict(type='AttentionKD', student='fpn', teacher='t.fpn')
        ),
        # Beside layers of the backbone: the weights must reach what is inside.
        branches=dict(
            explore=dict(type='ExplorationBranch', on='backbone.layer4.1.conv2')
        ),
        probe_size=64,
    )


def test_a_classifiers_backbone_arrives_in_the_detector(
    data: Path, tmp_path: Path
) -> None:
    cfg = tiny_images.runner_cfg(small_resnet(), data, tmp_path / 'run')
    config = write(tmp_path / 'config.py', cfg)
    assert run_command('train', [config]) == 0
    file = tmp_path / 'backbone.pth'
    source = str(tmp_path / 'run/epoch_1.pth')
    assert run_command('export', [config, source, str(file)]) == 0
    weights = torch.load(file, weights_only=True)['state_dict']

    model = MODELS.build(started_from(file))
    check_pretrained(MODELS.build(started_from(file)))
    model.init_weights()
    plain = model.state_dict()
    arrived = [key for key in plain if key.startswith('backbone.')]
    assert len(arrived) > 100
    for key in arrived:
        assert torch.equal(plain[key], weights[key]), key


def test_a_missing_start_is_an_error_before_training(
    coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = started_from(tmp_path / 'bakcbone.pth')
    other = tiny_images.build(tiny_images.classifier())
    torch.save(dict(state_dict=other.state_dict()), tmp_path / 'backbone.pth')
    cfg = tiny.runner_cfg(model, coco_root, tmp_path / 'run')
    cfg.custom_imports = dict(imports=['mkd_det'])
    config = write(tmp_path / 'config.py', cfg)
    fails(capsys, 'train', [config], 'CheckpointFileError', 'bakcbone.pth')
    # Nor does mmengine's warning do where the file is another model's.
    cfg.model.student.backbone.init_cfg.checkpoint = str(tmp_path / 'backbone.pth')
    config = write(tmp_path / 'config.py', cfg)
    said = fails(capsys, 'train', [config], 'CheckpointKeysError', 'init_cfg of backb')
    assert 'expected:  backbone.conv1.weight' in said
    assert not (tmp_path / 'run').exists()
