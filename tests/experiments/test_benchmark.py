"""The benchmark compares equal students, and counts what a step really needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny
from mkd_det.experiments.benchmark.batches import image_size
from mkd_det.experiments.benchmark.measure import measure_seconds, peak_bytes
from mkd_det.experiments.benchmark.models import BenchmarkModels
from mkd_det.experiments.benchmark.report import summarize
from tooling import distiller_cfg


def config(**parts: Any) -> Config:
    return tiny.runner_cfg(distiller_cfg(None, **parts), Path('nowhere'), Path('run'))


def test_students_are_equal_and_no_teacher_computes_a_loss() -> None:
    models = BenchmarkModels(config(), 'cpu')
    ours, plain = models.distiller.state_dict(), models.student.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in plain.items())
    assert models.classes == 3
    teacher = models.distiller.teachers['t'].model
    teacher.bbox_head.loss = teacher.bbox_head.predict = None
    for name, phase in models.phases().items():
        phase(models.prepare(name, tiny.batch()))


def test_teachers_with_masks_of_padding_get_what_a_training_gives_them() -> None:
    query = dict(type='QueryKD', student='head', teacher='t.head')
    cfg = tiny.distiller(
        tiny.detr(),
        tiny.detr(),
        taps=dict(head='bbox_head'),
        adapters={},
        branches={},
        terms=dict(loss_query=query),
    )
    models = BenchmarkModels(tiny.runner_cfg(cfg, Path('nowhere'), Path('run')), 'cpu')
    data = tiny.batch()
    data['data_samples'][0].set_metainfo(dict(img_shape=(64, 32)))
    batch = models.prepare('T', data)
    seen: list[Any] = []
    models.distiller.teachers['t'].model.encoder.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs), with_kwargs=True
    )
    models.phases()['T'](batch)
    assert seen and seen[0]['key_padding_mask'].any()


def test_every_speed_of_the_teachers_is_measured() -> None:
    models = BenchmarkModels(config(), 'cpu', ('off', 'exact', 'fast', 'cached'))
    names = ['K off', 'K exact', 'K fast', 'K cached']
    assert list(models.phases()) == ['S', 'T', *names]
    seconds = measure_seconds(models, [tiny.batch()], 1, 1)
    result = summarize(models, seconds, dict.fromkeys(seconds, 0))
    assert list(result['ratios']) == names
    words = ('as it is', 'float32', 'bfloat16', 'read from a disk')
    for name, expected in zip(names, words, strict=True):
        assert expected in result['speedups'][name]['t']
    # T runs the plain teacher, whatever ran before; copies count as memory.
    assert models.engines['off']['t'].model is models.distiller.teachers['t'].model
    off, exact, fast, _ = (models.resident_bytes(name) for name in names)
    assert off < fast < exact


def test_only_the_teachers_that_take_part_run(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = distiller_cfg(None, sampling=dict(drop_exact=1), adapters={})
    parts['teachers']['u'] = parts['teachers']['t']
    parts['terms'] = {
        f'loss_{name}': dict(type='AttentionKD', student='fpn', teacher=f'{name}.fpn')
        for name in 'tu'
    }
    models = BenchmarkModels(config(**parts), 'cpu', ['off'], each_count=True)
    assert list(models.phases()) == ['S', 'T', 'K 1 of 2', 'K 2 of 2']
    sampler = models.distiller.sampler
    run, ran = models.distiller.teachers.run, []
    monkeypatch.setattr(
        models.distiller.teachers,
        'run',
        lambda name, *rest: ran.append(name) or run(name, *rest),
    )
    for name, expected in (('K 1 of 2', ['t']), ('K 2 of 2', ['t', 'u'])):
        ran.clear()
        models.phases()[name](models.prepare(name, tiny.batch()))
        assert ran == expected
    assert models.distiller.sampler is sampler
    seconds = {'S': [1.0], 'T': [1.0], 'K 1 of 2': [2.0], 'K 2 of 2': [2.75]}
    found = summarize(models, seconds, dict.fromkeys(seconds, 0))
    assert found['sources'] == dict(step_s_per_teacher=0.75, forward_s=0.5)


def test_peak_memory_is_what_is_held_at_once() -> None:
    def phase(batch: dict) -> None:
        for _ in range(3):
            kept = torch.empty(1 << 20, dtype=torch.uint8)
            del kept

    assert peak_bytes(phase, {}, 'cpu') == pytest.approx(1 << 20, rel=0.01)


def test_the_image_size_is_the_last_and_largest_that_the_pipeline_names() -> None:
    assert image_size([dict(type='Resize', scale=(320, 240))]) == (240, 320)
    choice = dict(type='RandomChoiceResize', scales=[(1333, 640), (1333, 800)])
    assert image_size([dict(type='LoadImageFromFile'), choice]) == (800, 1333)
    crop = dict(type='RandomCrop', crop_size=(384, 600))
    assert image_size([choice, crop]) == (384, 600)
    assert image_size([]) == (640, 640)
