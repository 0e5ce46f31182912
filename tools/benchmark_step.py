#!/usr/bin/env python
"""Measures what distillation costs, in one run.

    python tools/benchmark_step.py CONFIG --iters 30 --json out.json

Three things take turns, in an order that rotates, on the same batches:

    S  training step of the plain student: preprocessing, forward, loss,
       backward, optimizer (built from the config's student alone)
    T  forward of the needed part of the teachers as they are (speed 'off'), on
       preprocessed images
    K  training step of the distiller

K / (S + T) tells the overhead: at speed 'off', 1.0 would be adapters and terms for
nothing. `--speeds off exact fast` measures K with each speed of the teachers, `cached`
with what they said about these images read from a disk. `--sources` measures K with
one, two, ... all of several teachers taking part, as stochastic teaching picks them.

Peak memory is what a step needs above what stays between steps. On a GPU it
is CUDA's allocator that knows. On a CPU it is torch's own record of every
allocation and release during one more step, summed up over time: exact for
tensors, and free of what the other two have left behind in the process, as
the peak of the resident set would not be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import linear_regression, median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import _environment  # noqa: F401

# torch's profiler tells about itself on stderr; it asks when torch is imported.
os.environ.setdefault('KINETO_LOG_LEVEL', '6')

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from mkd_det.cli.common import (
    config_parser,
    console,
    main_guard,
    quiet_libraries,
)
from mkd_det.configs import load_config
from mkd_det.errors import ConfigError
from mkd_det.io.paths import check_output_file
from mkd_det.teachers.engine import SPEEDS, Engine
from mkd_det.training.preflight import check_amp
from mkd_det.training.runtime import build_model, is_distill, student_config
from mkd_det.weighting.sampler import SourceSampler

CACHED = 'cached'

Batch = dict[str, Any]
Phase = Callable[[Batch], Any]
NAMES = {
    'S': 'plain student, training step',
    'T': 'teachers as they are, needed forward',
    'K': 'distiller, training step',
}


# -- data ---------------------------------------------------------------------


def image_size(pipeline: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(H, W) of the images that a pipeline yields: the last size it names, and
    of several (multi-scale training) the largest.
    """
    found = (640, 640)
    for step in pipeline:
        for key in ('scale', 'scales', 'img_scale', 'crop_size', 'size'):
            sizes = _sizes(step.get(key))
            if sizes:
                width, height = max(sizes, key=lambda wh: wh[0] * wh[1])
                # mmcv writes scales as (W, H), crops as (H, W).
                found = (width, height) if key == 'crop_size' else (height, width)
    return found


def _sizes(value: Any) -> list[tuple[int, int]]:
    if not isinstance(value, (tuple, list)) or not value:
        return []
    if all(isinstance(v, int) for v in value) and len(value) == 2:
        return [(value[0], value[1])]
    return [size for part in value for size in _sizes(part)]


def random_batch(
    size: tuple[int, int], images: int, boxes: int, classes: int, seed: int = 0
) -> Batch:
    """A batch as a dataloader yields it: noise, with boxes of all sizes.

    Args:
        size: (H, W) of the images, in pixels.
        images: Number of images.
        boxes: Boxes on each.
        classes: Labels are below this.
        seed: Seed of the noise.
    """
    from mmdet.structures import DetDataSample

    draw = torch.Generator().manual_seed(seed)
    whole = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    inputs, samples = [], []
    for index in range(images):
        inputs.append(torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8))
        # Sides between 1/16 and 1/2 of the image's.
        sides = torch.rand(boxes, 2, generator=draw) * (7 / 16) + 1 / 16
        corner = torch.rand(boxes, 2, generator=draw) * (1 - sides)
        labels = torch.randint(classes, (boxes,), generator=draw)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_path='',
                img_shape=size,
                ori_shape=size,
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + sides], 1) * whole, labels=labels
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def batches_of(cfg: Config, args: argparse.Namespace, classes: int) -> list[Batch]:
    """Some batches: of the config's own training data, or random ones."""
    if args.batch_size:
        cfg.train_dataloader.batch_size = args.batch_size
    if args.data:
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        return list(islice(loader, args.batches))
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset and 'pipeline' not in dataset:
        dataset = dataset.dataset
    size = tuple(args.image_size or image_size(dataset.get('pipeline', ())))
    images = cfg.train_dataloader.batch_size
    return [
        random_batch((size[0], size[-1]), images, args.boxes, classes, seed)
        for seed in range(args.batches)
    ]


# -- models -------------------------------------------------------------------


class Bench:
    """The plain student and the distiller, from equal weights, side by side.

    Args:
        cfg: A distill config.
        device: Where to run.
        speeds: Of the teachers in K, see `speed.py`; none: what the config says.
        sources: Whether K runs with each number of active teachers.
    """

    def __init__(
        self,
        cfg: Config,
        device: str,
        speeds: Sequence[str] = (),
        sources: bool = False,
    ) -> None:
        cfg = deepcopy(cfg)
        cfg.model = _without_downloads(cfg.model)
        self.random = _use_random_teachers(cfg)
        torch.manual_seed(0)
        self.student: Any = build_model(student_config(cfg))
        self.student.init_weights()
        self.distiller: Any = build_model(cfg)
        self.distiller.init_weights()
        self.distiller.load_state_dict(self.student.state_dict())
        self.device = device
        for model in (self.student, self.distiller):
            model.to(device).train()
        self.optim_s = build_optim_wrapper(self.student, deepcopy(cfg.optim_wrapper))
        self.optim_k = build_optim_wrapper(self.distiller, deepcopy(cfg.optim_wrapper))
        self.sources = self._sources(sources)
        # What settled on the first batch, by speed ('' is the config's).
        self.engines: dict[str, dict[str, Engine]] = {}
        self.folder = TemporaryDirectory(prefix='teacher_cache')
        self.speeds = {f'K {speed}': speed for speed in speeds} or {'K': ''}
        # How many teachers take part, where that is not the sampler's affair.
        self.active: dict[str, int] = {}
        if sources:
            count = len(self.sources) - len(self.distiller.sampler.copies)
            self.active = {f'K {i + 1} of {count}': i + 1 for i in range(count)}
            self.speeds = dict.fromkeys(self.active, speeds[0] if speeds else '')

    def _sources(self, every: bool) -> list[str]:
        plan = self.distiller.plan
        read = set().union(*map(plan.teachers_of, plan.terms.values()))
        # Outside of a run it is iteration 0, for the sampler too.
        return sorted(read if every else read & self.distiller.sampler.pick(0))

    @property
    def classes(self) -> int:
        """Number of classes of the student (an RPN says 1)."""
        found = [getattr(m, 'num_classes', 0) for m in self.student.modules()]
        return max([n for n in found if isinstance(n, int)] + [1])

    def phases(self) -> dict[str, Phase]:
        """What is measured, by name. Each takes a batch of its own."""
        distill = {name: partial(self._distill, name) for name in self.speeds}
        return {
            'S': lambda batch: self.student.train_step(batch, self.optim_s),
            'T': self._teachers,
            **distill,
        }

    def _distill(self, name: str, batch: Batch) -> None:
        with self.at_speed(self.speeds[name]), self.taught_by(self.active.get(name)):
            self.distiller.train_step(batch, self.optim_k)

    @contextmanager
    def taught_by(self, count: int | None) -> Iterator[None]:
        """Let so many teachers take part; None leaves it to the sampler."""
        sampler = self.distiller.sampler
        if count is not None:
            names = [name for name in self.sources if name not in sampler.copies]
            self.distiller.sampler = SourceSampler(names[:count], copies=sampler.copies)
        try:
            yield
        finally:
            self.distiller.sampler = sampler

    @contextmanager
    def at_speed(self, speed: str) -> Iterator[None]:
        """Run the teachers at `speed`; the first step at it settles the engines."""
        engines = self.engines.setdefault(speed, {})
        teachers = self.distiller.teachers
        wanted = {name: teacher.speed for name, teacher in teachers.items()}
        for name, teacher in teachers.items():
            teacher.engine = engines.get(name)
            if speed == CACHED:
                teacher.cache = self.folder.name
            else:
                teacher.speed = speed or teacher.speed
        try:
            yield
        finally:
            for name, teacher in teachers.items():
                if teacher.engine is not None:
                    engines[name] = teacher.engine
                teacher.speed, teacher.cache = wanted[name], None

    def prepare(self, name: str, batch: Batch) -> Batch:
        """A copy of the batch; for the teachers, as they want it."""
        batch = deepcopy(batch)
        if name != 'T':
            return batch
        batch = self.student.data_preprocessor(batch, True)
        renormalizers = self.distiller.renormalizers
        inputs, samples = batch['inputs'], batch['data_samples']
        return {n: renormalizers[n](inputs, samples) for n in self.sources}

    def _teachers(self, batch: Batch) -> None:
        taps = self.distiller.plan.taps
        # In the precision of the training, as in K.
        with self.at_speed('off'), self.optim_k.optim_context(self.distiller):
            for name, inputs in batch.items():
                self.distiller.teachers.run(name, inputs, taps[name])

    def resident(self, name: str) -> int:
        """Bytes that stay between steps: weights, buffers, optimizer state."""
        teachers = [t.model for t in self.distiller.teachers.values()]
        if name == 'T':
            return sum(_bytes(m.state_dict()) for m in teachers)
        plain = name == 'S'
        model = self.student if plain else self.distiller
        optim = self.optim_s if plain else self.optim_k
        states = getattr(optim, 'optimizer', optim).state_dict()
        own = _bytes(list(model.parameters()) + list(model.buffers()))
        if plain:
            return own + _bytes(states)
        copies = [
            engine.model.state_dict()
            for engine in self.engines.get(self.speeds[name], {}).values()
            if engine.speedup.speed != 'off'
        ]
        return own + _bytes(states) + self.resident('T') + _bytes(copies)


def _without_downloads(cfg: Any) -> Any:
    """Weights do not change the time: start without pre-trained ones."""
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            kind = value.get('type') if isinstance(value, dict) else None
            cfg[key] = None if kind == 'Pretrained' else _without_downloads(value)
    elif isinstance(cfg, (list, tuple)):
        return type(cfg)(_without_downloads(value) for value in cfg)
    return cfg


def _use_random_teachers(cfg: Config) -> list[str]:
    """Teachers whose file is not there keep random weights; their names."""
    absent = []
    for name, teacher in (cfg.model.get('teachers') or {}).items():
        path = teacher.get('checkpoint')
        if path is not None and not Path(path).is_file():
            teacher.checkpoint = None
        if teacher.get('checkpoint', '') is None:
            absent.append(name)
    return absent


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return _bytes(list(value.values()))
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


# -- measuring ----------------------------------------------------------------


def measure(
    bench: Bench, batches: Sequence[Batch], iters: int, warmup: int
) -> dict[str, list[float]]:
    """Seconds of each phase in each round.

    Args:
        bench: What to run.
        batches: They take turns; a round has one for all phases.
        iters: Rounds that count.
        warmup: Rounds before them, that do not.
    """
    phases = bench.phases()
    seconds: dict[str, list[float]] = {name: [] for name in phases}
    supply = cycle(batches)
    for turn in tqdm(range(-warmup, iters), desc='rounds of S, T, K', disable=None):
        batch = next(supply)
        names = list(phases)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            own = bench.prepare(name, batch)
            _wait(bench.device)
            start = time.perf_counter()
            phases[name](own)
            _wait(bench.device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)


def peak_memory(phase: Phase, batch: Batch, device: str) -> int:
    """Most bytes that one step held at once, beyond what it found."""
    if device.startswith('cuda'):
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        phase(batch)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        phase(batch)
    events = [
        e for e in record.profiler.kineto_results.events() if e.name() == '[memory]'
    ]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def summary(
    bench: Bench, seconds: Mapping[str, list[float]], peaks: Mapping[str, int]
) -> dict[str, Any]:
    """Medians, quartiles, memory, and the ratio K / (S + T)."""
    phases = {}
    for name, samples in seconds.items():
        low, middle, high = _quartiles(samples)
        phases[name] = dict(
            what=NAMES[name[0]] + name[1:].replace(' ', ', teachers ', 1),
            median_s=middle,
            q1_s=low,
            q3_s=high,
            peak_bytes=peaks[name],
            resident_bytes=bench.resident(name),
            samples_s=samples,
        )
    ratios = {name: _ratio(seconds, name) for name in seconds if name[0] == 'K'}
    engines = {
        name: {
            t: 'read from a disk' if speed == CACHED else str(e.speedup)
            for t, e in bench.engines.get(speed, {}).items()
        }
        for name, speed in bench.speeds.items()
    }
    found = dict(ratios=ratios, speedups=engines, phases=phases)
    if len(bench.active) > 1:
        found['sources'] = _price(bench.active, seconds)
    return found


def _price(
    active: Mapping[str, int], seconds: Mapping[str, list[float]]
) -> dict[str, float]:
    """What one teacher more costs, and what a forward of one does by itself."""
    steps = [(count, median(seconds[name])) for name, count in active.items()]
    slope, _ = linear_regression(*zip(*steps))
    return dict(step_s_per_teacher=slope, forward_s=median(seconds['T']) / len(active))


def _ratio(seconds: Mapping[str, list[float]], name: str) -> dict[str, float]:
    """K / (S + T): of the medians, and how it varies from round to round."""
    rounds = zip(seconds['S'], seconds['T'], seconds[name], strict=True)
    low, middle, high = _quartiles([k / (s + t) for s, t, k in rounds])
    s, t, k = (median(seconds[n]) for n in ('S', 'T', name))
    return dict(of_medians=k / (s + t), median=middle, q1=low, q3=high)


def _quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    if len(samples) == 1:
        return (samples[0],) * 3
    low, middle, high = quantiles(samples, n=4, method='inclusive')
    return low, middle, high


def show(result: Mapping[str, Any]) -> None:
    """Print the table."""
    out = Table(title=result['title'], title_justify='left')
    for name in ('', 'what', 'median ms', 'quartiles', 'stays MB', 'step adds MB'):
        out.add_column(name, justify='left' if name in ('', 'what') else 'right')
    for name, phase in result['phases'].items():
        out.add_row(
            name,
            phase['what'],
            f'{phase["median_s"] * 1e3:.1f}',
            f'{phase["q1_s"] * 1e3:.1f} .. {phase["q3_s"] * 1e3:.1f}',
            f'{phase["resident_bytes"] / 2**20:.1f}',
            f'{phase["peak_bytes"] / 2**20:.1f}',
        )
    console().print(out)
    for name, ratio in result['ratios'].items():
        speedups = '; '.join(
            f'{teacher}: {what}' for teacher, what in result['speedups'][name].items()
        )
        console().print(
            f'{name} / (S + T) = {ratio["of_medians"]:.3f}   (by round: median'
            f' {ratio["median"]:.3f}, quartiles {ratio["q1"]:.3f} ..'
            f' {ratio["q3"]:.3f})   {speedups}'
        )
    if 'sources' in result:
        price = {key: 1e3 * value for key, value in result['sources'].items()}
        print(
            f'Each active teacher adds {price["step_s_per_teacher"]:.1f} ms to a step'
            f' (its forward as it is: {price["forward_s"]:.1f} ms)'
        )


# -- the tool -----------------------------------------------------------------


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The config, and how to measure."""
    parser = config_parser(__doc__)
    parser.add_argument('--iters', type=int, default=20, help='rounds that count')
    parser.add_argument(
        '--warmup',
        type=int,
        default=4,
        help='rounds before them (with a cache, one for every batch)',
    )
    parser.add_argument('--batch-size', type=int, help="default: the config's")
    parser.add_argument(
        '--image-size', type=int, nargs='+', help="H W; default: the config's"
    )
    parser.add_argument(
        '--speeds',
        nargs='+',
        choices=[*SPEEDS, CACHED],
        default=(),
        help='of the teachers in K',
    )
    parser.add_argument(
        '--sources', action='store_true', help='K with 1, 2, ... teachers taking part'
    )
    parser.add_argument('--boxes', type=int, default=12, help='boxes on a random image')
    parser.add_argument('--batches', type=int, default=4, help='that take turns')
    parser.add_argument(
        '--data', action='store_true', help="the config's training data, not random"
    )
    parser.add_argument('--device', help='default: cuda if there is one')
    parser.add_argument('--threads', type=int, help="CPU threads; default: torch's")
    parser.add_argument('--json', type=Path, help='write everything there too')
    args = parser.parse_args(argv)
    if args.sources and len(args.speeds) > 1:
        parser.error('--sources goes with one speed')
    for name in ('iters', 'batches'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1')
    return args


def check_device(device: str) -> None:
    """Raise ConfigError for a device that torch does not know or have."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            '--device: torch cannot compute there',
            expected='cpu, cuda, cuda:1, ...',
            actual=f'{device!r}: {str(error).splitlines()[0]}',
        ) from None


def _machine(device: str) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        models = [
            x for x in info.read_text().splitlines() if x.startswith('model name')
        ]
        name = models[0].partition(':')[2].strip() if models else name
    gpu = torch.cuda.get_device_name(device) if device.startswith('cuda') else None
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    return dict(
        cpu=name,
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=gpu,
        torch=torch.__version__,
        load_average=load,
    )


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Build, measure, print."""
    args = parse_args(argv)
    quiet_libraries()
    cfg = load_config(args.config, args.cfg_options)
    if not is_distill(cfg):
        raise ConfigError(
            'this is no distill config: there is nothing to compare',
            expected="model=dict(type='Distiller', ...)",
            actual=f'model=dict(type={cfg.model.get("type")!r}, ...)',
        )
    check_amp(cfg)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or get_device()
    check_device(device)
    if args.json:
        check_output_file(args.json, '--json', args.config)
    machine = _machine(device)
    bench = Bench(cfg, device, args.speeds, args.sources)
    batches = batches_of(cfg, args, bench.classes)
    seconds = measure(bench, batches, args.iters, args.warmup)
    peaks = {
        name: peak_memory(phase, bench.prepare(name, batches[0]), device)
        for name, phase in bench.phases().items()
    }
    shapes = sorted({tuple(image.shape[-2:]) for b in batches for image in b['inputs']})
    result = dict(
        title=f'{args.config}: {len(batches[0]["inputs"])} images of '
        + ', '.join(f'{h}x{w}' for h, w in shapes)
        + f' on {device}, {args.iters} rounds',
        config=args.config,
        cfg_options=args.cfg_options,
        data='config' if args.data else f'random, {args.boxes} boxes an image',
        batch_size=len(batches[0]['inputs']),
        image_sizes=shapes,
        warmup=args.warmup,
        iters=args.iters,
        machine=machine,
        teachers=dict(run=bench.sources, random_weights=bench.random),
        **summary(bench, seconds, peaks),
    )
    show(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    raise SystemExit(main())
