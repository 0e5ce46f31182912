"""Summary of a benchmark, as a dict for json and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import linear_regression, median, quantiles
from typing import Any

from rich.table import Table

from .models import CACHED, BenchmarkModels

PHASES = {
    'S': 'plain student, training step',
    'T': 'teachers as they are, needed forward',
    'K': 'distiller, training step',
}


def summarize(
    models: BenchmarkModels,
    seconds: Mapping[str, list[float]],
    peaks: Mapping[str, int],
) -> dict[str, Any]:
    """Return medians, quartiles, memory, and the ratio K / (S + T).

    Args:
        models: What was run.
        seconds: Seconds of each phase in each round.
        peaks: Peak memory of each phase, in bytes.
    """
    phases = {}
    for name, samples in seconds.items():
        low, middle, high = _quartiles(samples)
        phases[name] = dict(
            what=PHASES[name[0]] + name[1:].replace(' ', ', teachers ', 1),
            median_s=middle,
            q1_s=low,
            q3_s=high,
            peak_bytes=peaks[name],
            resident_bytes=models.resident_bytes(name),
            samples_s=samples,
        )
    ratios = {name: _ratio(seconds, name) for name in seconds if name[0] == 'K'}
    speedups = {
        name: {
            teacher: 'read from a disk' if speed == CACHED else str(engine.speedup)
            for teacher, engine in models.engines.get(speed, {}).items()
        }
        for name, speed in models.speeds.items()
    }
    found = dict(ratios=ratios, speedups=speedups, phases=phases)
    if len(models.active) > 1:
        found['sources'] = _cost_per_teacher(models.active, seconds)
    return found


def _cost_per_teacher(
    active: Mapping[str, int], seconds: Mapping[str, list[float]]
) -> dict[str, float]:
    """Return what one more teacher costs, and what the forward of one takes alone."""
    steps = [(count, median(seconds[name])) for name, count in active.items()]
    slope, _ = linear_regression(*zip(*steps))
    return dict(step_s_per_teacher=slope, forward_s=median(seconds['T']) / len(active))


def _ratio(seconds: Mapping[str, list[float]], name: str) -> dict[str, float]:
    """Return K / (S + T): of the medians, and how it varies from round to round."""
    rounds = zip(seconds['S'], seconds['T'], seconds[name], strict=True)
    low, middle, high = _quartiles([k / (s + t) for s, t, k in rounds])
    s, t, k = (median(seconds[n]) for n in ('S', 'T', name))
    return dict(of_medians=k / (s + t), median=middle, q1=low, q3=high)


def _quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    if len(samples) == 1:
        return (samples[0],) * 3
    low, middle, high = quantiles(samples, n=4, method='inclusive')
    return low, middle, high


def results_table(result: Mapping[str, Any]) -> Table:
    """Return the table of the phases.

    Args:
        result: What `run_benchmark` has returned.
    """
    table = Table(title=result['title'], title_justify='left')
    for name in ('', 'what', 'median ms', 'quartiles', 'stays MB', 'step adds MB'):
        table.add_column(name, justify='left' if name in ('', 'what') else 'right')
    for name, phase in result['phases'].items():
        table.add_row(
            name,
            phase['what'],
            f'{phase["median_s"] * 1e3:.1f}',
            f'{phase["q1_s"] * 1e3:.1f} .. {phase["q3_s"] * 1e3:.1f}',
            f'{phase["resident_bytes"] / 2**20:.1f}',
            f'{phase["peak_bytes"] / 2**20:.1f}',
        )
    return table


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the ratios, and the cost of each teacher, as lines of text.

    Args:
        result: What `run_benchmark` has returned.
    """
    lines = []
    for name, ratio in result['ratios'].items():
        speedups = '; '.join(
            f'{teacher}: {what}' for teacher, what in result['speedups'][name].items()
        )
        lines.append(
            f'{name} / (S + T) = {ratio["of_medians"]:.3f}   (by round: median'
            f' {ratio["median"]:.3f}, quartiles {ratio["q1"]:.3f} ..'
            f' {ratio["q3"]:.3f})   {speedups}'
        )
    if 'sources' in result:
        cost = {key: 1e3 * value for key, value in result['sources'].items()}
        lines.append(
            f'Each active teacher adds {cost["step_s_per_teacher"]:.1f} ms to a step'
            f' (its forward as it is: {cost["forward_s"]:.1f} ms)'
        )
    return lines
