"""Writes a graph as ONNX, and compares it with torch before anything is kept."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from ..errors import ExportError
from ..registry import type_name
from ..version import __version__
from .activation import meant_activation, with_activated
from .class_list import class_list
from .graph import INPUT, InferenceGraph, Output, head_of
from .preprocessing import (
    Size,
    describe_preprocessing,
    input_size,
    pad_divisor,
    padded,
)
from .session import OnnxSession

# The newest that torch's tracing exporter writes; torch's own default.
OPSET = 20
# The oldest whose operators resize maps as torch does.
OLDEST_OPSET = 11
# Largest difference from torch, relative to an output's largest value (at least 1).
TOLERANCE = 1e-3
_AXES = {'batch': 0, 'height': 2, 'width': 3}
_PACKAGES = ('onnx', 'onnxruntime')


@dataclass(frozen=True)
class OnnxSettings:
    """How a student is exported.

    Args:
        size: (H, W) of the images, or one side for both; the test pipeline's by
            default.
        features: Whether to export backbone and neck alone.
        fixed: Whether batch (of one image) and size are fixed.
        opset: Version of ONNX's operators.
    """

    size: Sequence[int] | None = None
    features: bool = False
    fixed: bool = False
    opset: int = OPSET


@dataclass(frozen=True)
class OnnxStudent:
    """An ONNX file that was compared with torch.

    Args:
        content: The file.
        shape: (N, 3, H, W) of the images that it was traced with.
        dynamic: Axes of the input that may have other lengths.
        outputs: Its outputs, in their order.
        differences: Largest relative difference from torch by output, over all checks.
        checked: Shapes of the inputs that were compared.
        metadata: What stands in the file beside the graph.
    """

    content: bytes
    shape: tuple[int, ...]
    dynamic: tuple[str, ...]
    outputs: tuple[Output, ...]
    differences: dict[str, float]
    checked: tuple[tuple[int, ...], ...]
    metadata: dict[str, Any]


def make_onnx(
    model: Any,
    cfg: Config,
    settings: OnnxSettings,
    meta: Mapping[str, Any] | None = None,
) -> OnnxStudent:
    """Return a model as ONNX, checked against torch with onnxruntime.

    Batch and size are dynamic where the outputs then still equal torch's at other
    batches and sizes; else the batch alone; else nothing.

    Args:
        model: The student, on the CPU, with its weights. It is set to eval mode.
        cfg: Its plain config.
        settings: How it is exported.
        meta: `meta` of its checkpoint, for the names of the classes.

    Raises:
        ExportError: A package is missing, the model cannot be exported, or its outputs
            differ from torch's.
    """
    check_packages()
    graph = InferenceGraph(model, settings.features)
    divisor = pad_divisor(model)
    size = padded(settings.size or input_size(cfg), divisor)
    choices: list[tuple[str, ...]] = [()]
    if not settings.fixed:
        choices = [tuple(_AXES), ('batch',), ()]
    classes = class_list(model, cfg, meta or {})
    failures: list[ExportError] = []
    for dynamic in choices:
        try:
            return _make(graph, cfg, classes, size, divisor, dynamic, settings.opset)
        except ExportError as error:
            failures.append(error)
    raise failures[-1]


def check_packages() -> None:
    """Raise ExportError unless onnx and onnxruntime are installed."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            'ONNX needs packages that are not installed',
            expected=' and '.join(_PACKAGES),
            actual=f'{" and ".join(missing)} missing',
            fix=f'pip install {" ".join(missing)}',
        )


def _make(
    graph: InferenceGraph,
    cfg: Config,
    classes: Sequence[str],
    size: Size,
    divisor: int,
    dynamic: tuple[str, ...],
    opset: int,
) -> OnnxStudent:
    """Trace a graph with some dynamic axes, and compare it with torch."""
    images = noise_images(graph.model, (2 if dynamic else 1, 3, *size))
    with as_export_error(graph, f'fails in torch on images {tuple(images.shape)},'):
        outputs = graph.outputs(images)
    content = _trace(graph, images, outputs, dynamic, opset)
    outputs = with_activated(content, outputs)
    shapes = [tuple(images.shape)]
    if 'batch' in dynamic:
        shapes.append((1, 3, *size))
    if 'height' in dynamic:
        shapes.append((1, 3, size[0] + divisor, size[1] + 2 * divisor))
    metadata = describe(graph, cfg, images, outputs, dynamic, classes)
    content = _with_metadata(content, metadata)
    with as_export_error(graph, 'does not run at all sizes that are tried,'):
        session = OnnxSession(content)
        differences = dict.fromkeys([o.name for o in outputs], 0.0)
        for shape in shapes:
            found = session.compare(graph, noise_images(graph.model, shape))
            for name, value in found.items():
                differences[name] = max(differences[name], value)
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= TOLERANCE:
        raise ExportError(
            f'{type(graph.model).__name__}: onnxruntime does not yield what torch does',
            expected=f'a relative difference of at most {TOLERANCE:g}',
            actual=f'{differences[worst]:.2g} in {worst}',
            fix=graph.fix,
        )
    return OnnxStudent(
        content,
        tuple(images.shape),
        dynamic,
        tuple(outputs),
        differences,
        tuple(shapes),
        metadata,
    )


def _trace(
    graph: InferenceGraph,
    images: Tensor,
    outputs: Sequence[Output],
    dynamic: tuple[str, ...],
    opset: int,
) -> bytes:
    axes = {INPUT: {_AXES[name]: name for name in dynamic}}
    for output in outputs:
        own = {0: 'batch'}
        if 'height' in dynamic and len(output.shape) == 4:
            own |= {2: f'{output.name}_height', 3: f'{output.name}_width'}
        axes[output.name] = own
    with TemporaryDirectory(prefix='mkd_det_onnx') as folder:
        path = Path(folder, 'model.onnx')
        with as_export_error(graph, 'cannot be traced,'), _quiet():
            # torch.export, which the newer exporter uses, fails at mmdet's DETRs, and
            # takes twenty times as long for the rest.
            torch.onnx.export(
                graph,
                (images,),
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[output.name for output in outputs],
                dynamic_axes=axes if dynamic else None,
            )
        return path.read_bytes()


def describe(
    graph: InferenceGraph,
    cfg: Config,
    images: Tensor,
    outputs: Sequence[Output],
    dynamic: Sequence[str],
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a user of the file must know, ready for json.

    Args:
        graph: What is exported.
        cfg: Config of the model.
        images: The images that it is traced with.
        outputs: Its outputs.
        dynamic: Axes of the input that may have other lengths.
        classes: Names of the classes by label; none where they are not known.
    """
    head = head_of(graph.model)
    activation = 'none' if graph.features else meant_activation(head, outputs)
    return dict(
        model=type_name(cfg.model.type),
        head=None if head is None else type(head).__name__,
        input=dict(
            name=INPUT,
            shape=list(images.shape),
            dynamic=list(dynamic),
            **describe_preprocessing(graph.model, cfg),
        ),
        outputs=[asdict(output) for output in outputs],
        activation=activation,
        mkd_det=__version__,
        **({'classes': list(classes)} if classes else {}),
    )


def _with_metadata(content: bytes, metadata: dict[str, Any]) -> bytes:
    import onnx

    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto)
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value)
        proto.metadata_props.add(key=key, value=text)
    return proto.SerializeToString()


def random_images(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Return normalised images of noise.

    Args:
        shape: (N, 3, H, W).
        seed: Seed of the noise.
    """
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw)


def noise_images(model: Any, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Return images of noise, normalised as a model's own images are.

    Other numbers would say little about rounding: weights are fitted to these.

    Args:
        model: A detector or classifier.
        shape: (N, 3, H, W).
        seed: Seed of the noise.
    """
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.rand(*shape, generator=draw) * 255
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if not getattr(preprocessor, '_enable_normalize', False):
        return pixels
    return (pixels - preprocessor.mean) / preprocessor.std


@contextmanager
def as_export_error(graph: InferenceGraph, what: str) -> Iterator[None]:
    """Turn what torch or onnxruntime raise into an ExportError.

    Args:
        graph: What is exported.
        what: What failed, for the message.

    Raises:
        ExportError: Something was raised inside.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or ['']
        raise ExportError(
            f'{type(graph.model).__name__} {what} and is not written as ONNX',
            expected='a one-stage detector, a DETR or a classifier',
            actual=f'{type(error).__name__}: {lines[0][:300]}',
            fix=graph.fix,
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer: what it warns of is checked at other sizes."""
    log = logging.getLogger('torch.onnx')
    before = log.level
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(before)
