"""Measures what a student costs when it is used: parameters, operations, latency.

All models and runtimes take turns in one run, in an order that rotates, so that a
machine that is busy for a while slows all of them. The figure that carries over to
another machine is the ratio of two latencies, not the latency.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn
from tqdm import tqdm

from ...deploy.graph import InferenceGraph
from ...deploy.onnx_file import OnnxSettings, make_onnx, random_images
from ...deploy.preprocessing import Size, input_size, pad_divisor, padded
from ...deploy.session import OnnxSession
from ...errors import ConfigError, ExportError
from ...heads.running import image_samples
from ...io.quiet import suppress_info_logs
from ...teachers.loading import Teacher
from ...training.runtime import build_model, check_is_distill
from ...training.student_config import student_config
from .inference_report import describe_models, summarize_latency
from .run import check_device, describe_machine

STUDENT = 'student'
TORCH, ONNX = 'torch', 'onnxruntime'
Phase = Callable[[], Any]


@dataclass(frozen=True)
class InferenceSettings:
    """How to measure.

    Args:
        iters: Rounds that count.
        warmup: Rounds before them.
        batch_sizes: Images in a batch.
        image_size: (H, W), or one side for both; the student's test pipeline's by
            default.
        device: Where torch runs, and onnxruntime if it can; a GPU if there is one, by
            default.
        threads: CPU threads; torch's own choice by default.

    Raises:
        ConfigError: A value is not possible.
    """

    iters: int = 20
    warmup: int = 4
    batch_sizes: Sequence[int] = (1, 8)
    image_size: Sequence[int] | None = None
    device: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ('--iters', self.iters),
            ('--batch-size', min(self.batch_sizes)),
            ('--image-size', min(self.image_size or [1])),
        ):
            if value < 1:
                raise ConfigError(f'{name} must be at least 1', actual=value)


class Whole(nn.Module):
    """A detector with its post-processing, where nothing else can be run alone.

    Args:
        model: The detector.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.eval()
        self.counts = False

    def forward(self, images: Tensor) -> Any:
        """Return predictions; while operations are counted, what the heads yield."""
        samples = image_samples(images)
        mode = 'tensor' if self.counts else 'predict'
        return self.model(images, samples, mode=mode)


@dataclass
class Shipped:
    """One model as it is used.

    Args:
        name: 'student', or the name of a teacher.
        module: From normalised images to the outputs of its head; a `Whole` for models
            that have no such graph.
        content: The model as ONNX; None where there is none.
        why_not: Why there is no ONNX.
        fixed: Whether the ONNX takes one image only.
    """

    name: str
    module: InferenceGraph | Whole
    content: bytes | None = None
    why_not: str = ''
    fixed: bool = False


def run_inference_benchmark(
    cfg: Config, settings: InferenceSettings, name: str
) -> dict[str, Any]:
    """Measure student and teachers of a distill config, with random weights.

    Args:
        cfg: The config.
        settings: How to measure.
        name: Name of the config, for the title.

    Returns:
        All figures, ready for json.

    Raises:
        MkdError: The config is no distill config, or a model cannot be built.
    """
    check_is_distill(cfg)
    plain = student_config(cfg)
    models: dict[str, tuple[Any, Config]] = {STUDENT: (build_model(plain), plain)}
    for teacher, given in (cfg.model.get('teachers') or {}).items():
        built = Teacher.build(teacher, given)
        source = built.source_cfg or Config(dict(model=given['cfg']))
        models[teacher] = (built.model, source)
    divisor = max(pad_divisor(model) for model, _ in models.values())
    size = padded(settings.image_size or input_size(plain), divisor)
    for model, _ in models.values():
        with suppress_info_logs():
            model.init_weights()
    result = measure_inference(models, size, settings)
    batches = ' and '.join(map(str, settings.batch_sizes))
    title = (
        f'{name}: batches of {batches} images of {size[0]}x{size[1]} on'
        f' {result["device"]}, {settings.iters} rounds'
    )
    return dict(title=title, config=name, weights='random', **result)


def measure_inference(
    models: Mapping[str, tuple[Any, Config]], size: Size, settings: InferenceSettings
) -> dict[str, Any]:
    """Measure several models in one interleaved run.

    Args:
        models: Model and its plain config by name; one is called 'student'. Models are
            moved to the device and set to eval mode.
        size: (H, W) of the images.
        settings: How to measure; its `image_size` is not used.

    Returns:
        All figures, ready for json.
    """
    device = settings.device or get_device()
    check_device(device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    shipped = [make_shipped(name, *pair, size) for name, pair in models.items()]
    costs = {model.name: count_operations(model.module, size) for model in shipped}
    for model in shipped:
        model.module.to(device)
    phases, providers = make_phases(shipped, size, settings, device)
    machine = describe_machine(device)
    seconds = measure_phases(phases, settings.iters, settings.warmup, device)
    return dict(
        device=device,
        image_size=list(size),
        iters=settings.iters,
        warmup=settings.warmup,
        machine=machine,
        providers=providers,
        models=describe_models(shipped, costs),
        **summarize_latency(seconds, STUDENT),
    )


def make_shipped(name: str, model: Any, cfg: Config, size: Size) -> Shipped:
    """Return a model as it is used, and as ONNX if it can be exported.

    Args:
        name: Its name.
        model: The model, on the CPU.
        cfg: Its plain config.
        size: (H, W) of the images.
    """
    try:
        module: InferenceGraph | Whole = InferenceGraph(model)
    except ExportError as error:
        return Shipped(name, Whole(model), why_not=error.message)
    try:
        made = make_onnx(model, cfg, OnnxSettings(size))
    except ExportError as error:
        return Shipped(name, module, why_not=error.message)
    return Shipped(name, module, made.content, fixed='batch' not in made.dynamic)


@torch.no_grad()
def count_operations(module: InferenceGraph | Whole, size: Size) -> dict[str, int]:
    """Return parameters, and multiply-adds for one image, as mmengine counts them.

    Args:
        module: The model.
        size: (H, W) of the image.
    """
    if isinstance(module, Whole):
        module.counts = True
    try:
        with warnings.catch_warnings(), _no_logs():
            warnings.simplefilter('ignore')
            found = get_model_complexity_info(
                module,
                inputs=(random_images((1, 3, *size)),),
                show_table=False,
                show_arch=False,
            )
    finally:
        if isinstance(module, Whole):
            module.counts = False
    parameters = sum(p.numel() for p in module.parameters())
    return dict(parameters=parameters, flops=int(found['flops']))


@contextmanager
def _no_logs() -> Iterator[None]:
    """Silence the counter: it names each operation that it does not count."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def make_phases(
    shipped: Sequence[Shipped], size: Size, settings: InferenceSettings, device: str
) -> tuple[dict[tuple[str, str, int], Phase], list[str]]:
    """Return what is measured, by (model, runtime, batch), and onnxruntime's providers.

    Args:
        shipped: The models, on the device.
        size: (H, W) of the images.
        settings: How to measure.
        device: Where torch runs.
    """
    phases: dict[tuple[str, str, int], Phase] = {}
    providers = set()
    for model in shipped:
        session = OnnxSession(model.content, device) if model.content else None
        for batch in settings.batch_sizes:
            images = random_images((batch, 3, *size))
            on_device = images.to(device)
            phases[model.name, TORCH, batch] = _bind(model.module, on_device)
            if session is not None and (batch == 1 or not model.fixed):
                providers.add(session.provider)
                phases[model.name, ONNX, batch] = _bind(session.run, images)
    return phases, sorted(providers)


def _bind(run: Callable[[Tensor], Any], images: Tensor) -> Phase:
    return lambda: run(images)


@torch.no_grad()
def measure_phases(
    phases: Mapping[tuple[str, str, int], Phase], iters: int, warmup: int, device: str
) -> dict[tuple[str, str, int], list[float]]:
    """Return the seconds of each phase in each round.

    Args:
        phases: What is run.
        iters: Rounds that count.
        warmup: Rounds before them.
        device: Where torch runs.
    """
    names = list(phases)
    seconds: dict[tuple[str, str, int], list[float]] = {name: [] for name in names}
    for turn in tqdm(range(-warmup, iters), desc='rounds', disable=None):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begun = time.perf_counter()
            phases[name]()
            if device.startswith('cuda'):
                torch.cuda.synchronize(device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begun)
    return seconds
