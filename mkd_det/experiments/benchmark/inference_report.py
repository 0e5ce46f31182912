"""Summary of an inference benchmark, as a dict for json and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from rich.table import Table

Seconds = Mapping[tuple[str, str, int], Sequence[float]]


def describe_models(
    shipped: Sequence[Any], costs: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, Any]]:
    """Return what each model is, ready for json.

    Args:
        shipped: The models.
        costs: Parameters and multiply-adds by name.
    """
    return {
        model.name: dict(
            model=type(model.module.model).__name__,
            post_processing=type(model.module).__name__ == 'Whole',
            onnx=model.content is not None,
            why_no_onnx=model.why_not,
            **costs[model.name],
        )
        for model in shipped
    }


def summarize_latency(seconds: Seconds, student: str) -> dict[str, Any]:
    """Return medians and quartiles, and how many times as fast the student is.

    Args:
        seconds: Seconds of each round, by (model, runtime, batch).
        student: Name of the student.
    """
    latency = []
    for (model, runtime, batch), samples in seconds.items():
        low, middle, high = _quartiles(samples)
        entry: dict[str, Any] = dict(
            model=model,
            runtime=runtime,
            batch_size=batch,
            median_s=middle,
            q1_s=low,
            q3_s=high,
            samples_s=list(samples),
        )
        own = seconds.get((student, runtime, batch))
        if model != student and own:
            low, by_round, high = _quartiles([t / s for t, s in zip(samples, own)])
            entry['student_is_faster'] = dict(
                of_medians=middle / median(own), median=by_round, q1=low, q3=high
            )
        latency.append(entry)
    return dict(latency=latency)


def _quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    if len(samples) == 1:
        return (samples[0],) * 3
    low, middle, high = quantiles(samples, n=4, method='inclusive')
    return low, middle, high


def inference_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the table as rows of text; the first is the header.

    One row for each model, and one for each teacher in relation to the student.

    Args:
        result: What `run_inference_benchmark` or `measure_inference` has returned.
    """
    columns = list(
        dict.fromkeys((e['runtime'], e['batch_size']) for e in result['latency'])
    )
    columns.sort(key=lambda column: (column[0] != 'torch', column[1]))
    found = {(e['model'], e['runtime'], e['batch_size']): e for e in result['latency']}
    header = ['', 'parameters', 'GFLOPs']
    header += [f'{runtime}, batch {batch}: ms' for runtime, batch in columns]
    rows = [header]
    student = result['models']['student']
    for name, model in result['models'].items():
        cells = [found.get((name, *column)) for column in columns]
        rows.append(
            [
                name + ' (with post-processing)' * model['post_processing'],
                f'{model["parameters"] / 1e6:.2f} M',
                f'{model["flops"] / 1e9:.2f}',
                *(f'{1e3 * cell["median_s"]:.1f}' if cell else '' for cell in cells),
            ]
        )
        if name == 'student':
            continue
        faster = [(cell or {}).get('student_is_faster') for cell in cells]
        rows.append(
            [
                f'{name} / student',
                _times(model['parameters'], student['parameters']),
                _times(model['flops'], student['flops']),
                *(f'{ratio["of_medians"]:.1f}' if ratio else '' for ratio in faster),
            ]
        )
    return rows


def _times(teacher: int, student: int) -> str:
    return f'{teacher / student:.1f}' if student else ''


def inference_table(result: Mapping[str, Any]) -> Table:
    """Return the table for a terminal.

    Args:
        result: What `run_inference_benchmark` has returned.
    """
    header, *rows = inference_rows(result)
    table = Table(title=result['title'], title_justify='left')
    for index, name in enumerate(header):
        table.add_column(name, justify='right' if index else 'left')
    for row in rows:
        table.add_row(*row, style='green' if row[0].endswith('/ student') else '')
    return table


def inference_notes(result: Mapping[str, Any]) -> list[str]:
    """Return what must be known beside the table, as lines.

    Args:
        result: What `run_inference_benchmark` has returned.
    """
    notes = [
        'Latency of a batch, median, without pre- and post-processing; ratios of'
        ' medians. GFLOPs: multiply-adds for one image. Weights:'
        f' {result.get("weights", "as given")}.'
    ]
    notes += [
        f'{name}: not as ONNX: {model["why_no_onnx"]}'
        for name, model in result['models'].items()
        if not model['onnx']
    ]
    on_gpu = result['device'].startswith('cuda')
    if on_gpu and result['providers'] == ['CPUExecutionProvider']:
        notes.append('onnxruntime has run on the CPU: it has no provider for the GPU.')
    return notes
