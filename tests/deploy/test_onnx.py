"""A student as ONNX: equal to torch, at other sizes too, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from mmengine.config import Config

import stock
import tiny
import tiny_images
from mkd_det.deploy import onnx_file
from mkd_det.deploy.activation import is_activated
from mkd_det.deploy.class_list import class_list
from mkd_det.deploy.graph import InferenceGraph, output_names
from mkd_det.deploy.onnx_file import (
    OnnxSettings,
    OnnxStudent,
    make_onnx,
    noise_images,
    random_images,
)
from mkd_det.deploy.preprocessing import pad_divisor, padded
from mkd_det.errors import ExportError
from mkd_det.heads.running import image_samples

SIZE = (64, 96)


def exported(model: Any, cfg: dict[str, Any], **settings: Any) -> OnnxStudent:
    plain = Config(dict(model=cfg))
    return make_onnx(model, plain, OnnxSettings(**{'size': SIZE, **settings}))


def run(student: OnnxStudent, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs by name, as somebody without mkd_det gets them."""
    session = onnxruntime.InferenceSession(
        student.content, providers=['CPUExecutionProvider']
    )
    (given,) = session.get_inputs()
    names = [out.name for out in session.get_outputs()]
    values = session.run(names, {given.name: images.numpy()})
    return {n: torch.from_numpy(v) for n, v in zip(names, values, strict=True)}


def by_argument(outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Outputs as `predict_by_feat` takes them: a list for each name with a number."""
    found: dict[str, Any] = {}
    for name, value in outputs.items():
        stem, _, number = name.rpartition('_')
        if number.isdigit():
            found.setdefault(stem, []).append(value)
        else:
            found[name] = value
    return found


@pytest.mark.parametrize('kind', ['gfl', 'fcos', 'rtmdet', 'detr'])
def test_outputs_give_the_predictions_of_the_student(kind: str) -> None:
    """At a batch and a size that the file was not traced with."""
    cfg = getattr(tiny, kind)()
    if kind != 'detr':
        cfg['test_cfg']['score_thr'] = 0.0
    model = tiny.build(cfg)
    student = exported(model, cfg)
    assert student.dynamic == ('batch', 'height', 'width')
    images = random_images((3, 3, 128, 64), seed=1)
    given = by_argument(run(student, images))
    samples = image_samples(images)
    with torch.no_grad():
        expected = model.predict(images, samples, rescale=False)
        head: Any = model.bbox_head
        metas = [sample.metainfo for sample in samples]
        if kind == 'detr':
            found = head.predict_by_feat(
                *[[part] for part in given.values()], metas, rescale=False
            )
        else:
            factors = [given[n] for n in ('centernesses',) if n in given]
            found = head.predict_by_feat(
                given['cls_scores'],
                given['bbox_preds'],
                *factors,
                batch_img_metas=metas,
            )
    for ours, theirs in zip(found, expected, strict=True):
        scores = theirs.pred_instances.scores
        assert len(ours.scores) == len(scores) > 0
        torch.testing.assert_close(ours.scores, scores, atol=1e-4, rtol=1e-3)


def test_outputs_have_names_and_strides() -> None:
    cfg = tiny.fcos()
    student = exported(tiny.build(cfg), cfg)
    names = [output.name for output in student.outputs]
    kinds = ('cls_scores', 'bbox_preds', 'centernesses')
    assert names == [f'{kind}_{level}' for kind in kinds for level in range(5)]
    assert [output.stride for output in student.outputs[:3]] == [8, 16, 32]
    assert student.outputs[0].shape == (2, 3, 8, 12)
    assert max(student.differences.values()) < 1e-4
    assert student.checked == ((2, 3, 64, 96), (1, 3, 64, 96), (1, 3, 96, 160))


def test_the_file_says_how_images_are_prepared() -> None:
    cfg = tiny.gfl()
    resize = dict(type='Resize', scale=(96, 64), keep_ratio=True)
    data = dict(metainfo=dict(classes=tiny.CLASSES), pipeline=[resize])
    plain = Config(dict(model=cfg, test_dataloader=dict(dataset=data)))
    student = make_onnx(tiny.build(cfg), plain, OnnxSettings(fixed=True))
    session = onnxruntime.InferenceSession(student.content)
    assert session.get_inputs()[0].shape == [1, 3, 64, 96]
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told['classes']) == list(tiny.CLASSES)
    given = json.loads(told['input'])
    assert given['channel_order'] == 'RGB' and given['pad_size_divisor'] == 32
    assert given['mean'] == pytest.approx([123.675, 116.28, 103.53])
    assert given['std'] == pytest.approx([58.395, 57.12, 57.375])
    assert given['resize'] == [dict(scale=[96, 64], keep_ratio=True)]
    assert told['head'] == 'GFLHead' and told['activation'] == 'sigmoid'


def test_a_classifier_yields_logits() -> None:
    cfg = tiny_images.classifier()
    model = tiny_images.build(cfg).eval()
    student = exported(model, cfg, size=(32, 32))
    images = random_images((5, 3, 32, 32), seed=2)
    with torch.no_grad():
        expected = model(images)
    assert [output.name for output in student.outputs] == ['logits']
    torch.testing.assert_close(run(student, images)['logits'], expected)


def test_two_stages_are_refused_and_their_features_are_not() -> None:
    cfg = tiny.faster_rcnn()
    model = tiny.build(cfg)
    with pytest.raises(ExportError) as caught:
        exported(model, cfg)
    assert caught.value.actual == 'FasterRCNN' and '--features' in caught.value.fix
    student = exported(model, cfg, features=True)
    assert student.outputs[0].name == 'features_0'
    images = random_images((1, 3, 96, 64), seed=3)
    with torch.no_grad():
        maps = model.extract_feat(images)
    for ours, theirs in zip(run(student, images).values(), maps, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


class Fixed(torch.nn.Module):
    """A head that knows one size only: its numbers are constants of the graph."""

    def forward(self, maps: Any) -> tuple[list[torch.Tensor]]:
        rows = torch.arange(maps[0].shape[-2], dtype=torch.float32)
        return ([maps[0] * rows.view(1, 1, -1, 1)],)


def test_what_is_wrong_at_another_size_is_not_dynamic() -> None:
    cfg = tiny.gfl()
    model: Any = tiny.build(cfg)
    model.bbox_head = Fixed()
    with pytest.MonkeyPatch.context() as patch:
        # A tracer turns a number of Python's into a constant.
        patch.setattr(torch, 'arange', constant_arange(torch.arange))
        student = exported(model, cfg)
    assert student.dynamic == ('batch',)
    assert student.checked == ((2, 3, 64, 96), (1, 3, 64, 96))


def constant_arange(arange: Any) -> Any:
    return lambda end, *args, **kwargs: arange(int(end), *args, **kwargs)


class Noise(torch.nn.Module):
    """A head whose output no other runtime can repeat."""

    def forward(self, maps: Any) -> tuple[list[torch.Tensor]]:
        return ([maps[0] + torch.rand_like(maps[0])],)


def test_outputs_that_differ_from_torch_are_an_error() -> None:
    cfg = tiny.gfl()
    model: Any = tiny.build(cfg)
    model.bbox_head = Noise()
    with pytest.raises(ExportError) as caught:
        exported(model, cfg)
    assert 'relative difference' in caught.value.expected
    assert 'output0_0' in caught.value.actual


def test_they_are_compared_on_images_like_the_models_own() -> None:
    model = tiny.build(tiny.gfl())
    images = noise_images(model, (2, 3, 64, 64))
    # Uniform pixels from 0 to 255, minus about 115, over about 57.
    assert -2.2 < float(images.min()) < -1.7 and 2.1 < float(images.max()) < 2.7
    model.data_preprocessor._enable_normalize = False
    assert 250 < float(noise_images(model, (2, 3, 64, 64)).max()) < 255


def solo(kind: str) -> dict[str, Any]:
    """A narrow SOLO of mmdet."""
    model = stock.narrow_resnet(stock.model_of(kind))
    model['neck'].update(out_channels=8)
    norm = dict(type='GN', num_groups=2)
    model['mask_head'].update(
        in_channels=8, feat_channels=8, num_classes=3, norm_cfg=norm
    )
    return model


@pytest.mark.parametrize(
    ('kind', 'masks'),
    [
        ('solo/solo_r50_fpn_1x_coco', ['mask_preds']),
        ('solo/decoupled-solo_r50_fpn_1x_coco', ['mask_preds_x', 'mask_preds_y']),
    ],
)
def test_masks_and_class_scores_have_names_of_their_own(
    kind: str, masks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of neighbours that are equal but for rounding, it keeps the larger one alone.
    monkeypatch.setattr(onnx_file, 'TOLERANCE', 0.1)
    cfg = solo(kind)
    student = exported(tiny.build(cfg), cfg, fixed=True)
    names = [output.name for output in student.outputs]
    assert names == [f'{n}_{i}' for n in (*masks, 'cls_scores') for i in range(5)]
    scores = [one for one in student.outputs if one.name.startswith('cls_scores')]
    assert [one.shape[1] for one in scores] == [3] * 5
    # Its forward has applied the sigmoid, in eval mode.
    assert student.metadata['activation'] == 'none'
    assert all(output['activated'] for output in student.metadata['outputs'])


def test_scores_that_the_graph_activates_are_no_logits() -> None:
    cfg = stock.centernet()
    student = exported(tiny.build(cfg), cfg, fixed=True)
    assert student.metadata['activation'] == 'none'
    found = {o['name']: o['activated'] for o in student.metadata['outputs']}
    assert found == {
        'center_heatmap_preds_0': True,
        'wh_preds_0': False,
        'offset_preds_0': False,
    }


@pytest.mark.parametrize(('kind', 'meant'), [('gfl', 'sigmoid'), ('detr', 'softmax')])
def test_logits_are_told_by_their_activation(kind: str, meant: str) -> None:
    cfg = getattr(tiny, kind)()
    student = exported(tiny.build(cfg), cfg, fixed=True)
    assert student.metadata['activation'] == meant
    assert not any(o.activated for o in student.outputs if 'cls' in o.name)


def test_a_gate_is_no_activation() -> None:
    def node(kind: str, inputs: str, output: str) -> Any:
        return SimpleNamespace(op_type=kind, input=inputs.split(), output=[output])

    nodes = [
        node('Conv', 'images w', 'x'),
        node('Sigmoid', 'x', 'p'),
        node('Mul', 'x p', 'gated'),
        node('Sqrt', 'p', 'score'),
        node('Log', 'p', 'logit'),
        node('Shape', 'images', 'size'),
        node('Reshape', 'score size', 'rows'),
    ]
    makers = {one.output[0]: one for one in nodes}
    found = {name: is_activated(makers, name) for name in makers}
    assert [name for name, value in found.items() if value] == ['p', 'score', 'rows']


def test_classes_are_those_that_the_model_was_trained_on(tmp_path: Path) -> None:
    cfg = tiny.gfl()
    model = tiny.build(cfg)
    data = tiny.write_coco(tmp_path, images=1)
    plain = tiny.runner_cfg(cfg, data, tmp_path)
    file = Path(plain.train_dataloader.dataset.ann_file)
    file = file if file.is_file() else data / file
    # mmdet numbers the classes as the file does, whatever metainfo says.
    assert class_list(model, plain, {}) == list(tiny.CLASSES)
    for part in (plain.train_dataloader, plain.val_dataloader):
        part.dataset.metainfo = dict(classes=tiny.CLASSES[::-1])
    assert class_list(model, plain, {}) == list(tiny.CLASSES)
    run = dict(run=dict(label_names=['a', 'b', 'c']))
    assert class_list(model, plain, run) == ['a', 'b', 'c']
    file.unlink()
    noted = dict(dataset_meta=dict(classes=('x', 'y', 'z')))
    assert class_list(model, plain, noted) == ['x', 'y', 'z']
    assert class_list(model, plain, dict(dataset_meta=dict(classes=('x',)))) == []


def test_stock_data_has_the_names_of_its_dataset_and_others_have_none() -> None:
    cfg = tiny.gfl(num_classes=80)
    dataset = dict(type='CocoDataset', ann_file='absent.json')
    plain = Config(dict(model=cfg, train_dataloader=dict(dataset=dataset)))
    names = class_list(tiny.build(cfg), plain, {})
    assert len(names) == 80 and names[0] == 'person'
    student = exported(tiny.build(tiny.gfl()), tiny.gfl(), fixed=True)
    assert 'classes' not in student.metadata


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ExportError) as caught:
        exported(tiny.build(tiny.gfl()), tiny.gfl())
    assert caught.value.fix == 'pip install onnx onnxruntime'


def test_names_are_those_of_the_heads_own_prediction() -> None:
    head: Any = tiny.build(tiny.gfl()).bbox_head
    assert output_names(head, 2) == ['cls_scores', 'bbox_preds']
    assert output_names(None, 2) == ['output0', 'output1']


def test_sizes_are_multiples_of_what_the_batch_is_padded_to() -> None:
    model = tiny.build(tiny.gfl())
    assert padded((100,), pad_divisor(model)) == (128, 128)
    assert InferenceGraph(model).outputs(torch.zeros(1, 3, 64, 64))[0].stride == 8
