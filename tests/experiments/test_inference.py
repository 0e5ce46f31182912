"""How fast student and teacher are when they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.registry import init_default_scope

import tiny
from mkd_det.deploy.graph import InferenceGraph
from mkd_det.errors import ConfigError
from mkd_det.experiments.benchmark.inference import (
    InferenceSettings,
    count_operations,
    measure_phases,
    run_inference_benchmark,
)
from mkd_det.experiments.benchmark.inference_report import (
    inference_notes,
    inference_rows,
    summarize_latency,
)
from tooling import distiller_cfg

RESULTS = Path(__file__).resolve().parents[2] / 'docs' / 'results'


@pytest.fixture(scope='module')
def result() -> dict[str, Any]:
    """Teacher with two stages, student without: one has no ONNX."""
    init_default_scope('mmdet')
    teacher = dict(cfg=tiny.faster_rcnn(), checkpoint=None)
    model = distiller_cfg(None, teachers=dict(t=teacher))
    cfg = tiny.runner_cfg(model, Path('nowhere'), Path('run'))
    settings = InferenceSettings(2, 1, (1, 2), (64,), 'cpu')
    return run_inference_benchmark(cfg, settings, 'tiny')


def test_student_and_teacher_take_turns_in_both_runtimes(
    result: dict[str, Any],
) -> None:
    measured = [(e['model'], e['runtime'], e['batch_size']) for e in result['latency']]
    student = [('student', r, b) for b in (1, 2) for r in ('torch', 'onnxruntime')]
    assert measured == [*student, ('t', 'torch', 1), ('t', 'torch', 2)]
    assert all(len(e['samples_s']) == 2 for e in result['latency'])
    assert 'faster' not in str(result['latency'][0].keys())
    own, teacher = result['latency'][0], result['latency'][4]
    ratio = teacher['median_s'] / own['median_s']
    assert teacher['student_is_faster']['of_medians'] == pytest.approx(ratio)
    assert json.loads(json.dumps(result)) == result


def test_parameters_are_those_of_the_models(result: dict[str, Any]) -> None:
    for name, cfg in (('student', tiny.gfl()), ('t', tiny.faster_rcnn())):
        count = sum(p.numel() for p in tiny.build(cfg).parameters())
        assert result['models'][name]['parameters'] == count


def test_what_has_no_onnx_is_told(result: dict[str, Any]) -> None:
    header, student, teacher, ratio = inference_rows(result)
    assert header[3:] == [
        f'{runtime}, batch {batch}: ms'
        for runtime in ('torch', 'onnxruntime')
        for batch in (1, 2)
    ]
    assert teacher[0] == 't (with post-processing)' and teacher[5:] == ['', '']
    assert ratio[0] == 't / student' and all(student[1:]) and ratio[5:] == ['', '']
    (line,) = [line for line in inference_notes(result) if line.startswith('t: ')]
    assert 'FasterRCNN' in line and 'NMS' in line


def test_operations_are_counted_for_one_image() -> None:
    cfg = tiny.gfl()
    model: Any = tiny.build(cfg)
    graph = InferenceGraph(model)
    small, large = (
        count_operations(graph, size)['flops'] for size in ((64, 64), (128, 128))
    )
    assert 3.5 < large / small < 4.5
    # The first convolution alone: 7x7 kernels, three channels, 32x32 places.
    assert small > 7 * 7 * 3 * model.backbone.conv1.out_channels * 32 * 32


def test_the_order_rotates_so_that_all_meet_the_same_machine() -> None:
    seen: list[str] = []
    phases = {
        (name, 'torch', 1): (lambda name=name: seen.append(name)) for name in 'abc'
    }
    seconds = measure_phases(phases, 3, 0, 'cpu')
    assert ''.join(seen) == 'abcbcacab'
    assert [len(samples) for samples in seconds.values()] == [3, 3, 3]


def test_ratios_say_how_many_times_as_fast_the_student_is() -> None:
    seconds = {
        ('student', 'torch', 1): [1.0, 2.0, 3.0],
        ('t', 'torch', 1): [4.0, 8.0, 30.0],
        ('t', 'onnxruntime', 1): [1.0, 1.0, 1.0],
    }
    student, teacher, other = summarize_latency(seconds, 'student')['latency']
    assert 'student_is_faster' not in student and 'student_is_faster' not in other
    ratio = teacher['student_is_faster']
    assert ratio['of_medians'] == 4.0 and ratio['median'] == 4.0
    assert teacher['median_s'] == 8.0


@pytest.mark.parametrize(
    'wrong', [dict(iters=0), dict(batch_sizes=(8, 0)), dict(image_size=(64, -1))]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        InferenceSettings(**wrong)
    assert 'must be at least 1' in caught.value.message


def test_the_page_shows_what_was_measured() -> None:
    page = (RESULTS / 'inference.md').read_text()
    result = json.loads((RESULTS / 'inference.json').read_text())
    header, *rows = inference_rows(result)
    for row in rows:
        assert f'| {" | ".join(row)} |' in page
    assert f'| {" | ".join(header)} |' in page
    assert result['weights'] == 'random' and 'random weights' in page
