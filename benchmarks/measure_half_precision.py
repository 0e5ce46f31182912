"""Where half precision changes a teacher, layer by layer, and what it saves on a CPU.

    python benchmarks/measure_half_precision.py \
        mmdet::yolox/yolox_nano_8xb8-300e_coco.py \
        checkpoints/yolox-nano-coco.pth data/coco256/val2017 --json half_precision.json

Seconds are those of the process on one thread, so that other work on the machine counts
little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.utils import register_all_modules
from torch import Tensor, nn

from mkd_det.heads.running import run_features
from mkd_det.structures import first_tensor
from mkd_det.taps import Tap
from mkd_det.teachers.engine import Engine, Speedup, accelerate
from mkd_det.teachers.engine_choice import relative_differences
from mkd_det.teachers.loading import Teacher
from mkd_det.teachers.norm_pairs import NormPairFinder

TAPS = {name: Tap.parse(name) for name in ('backbone', 'neck', 'bbox_head')}
EARLY = ('backbone.stem.', 'backbone.stage1.', 'backbone.stage2.')


def load_images(folder: str, count: int, side: int) -> Tensor:
    """Return the first images of a folder, on squares of gray."""
    squares = []
    for file in sorted(Path(folder).glob('*.jpg'))[:count]:
        image: Any = cv2.imread(str(file))
        scale = side / max(image.shape[:2])
        height, width = (round(n * scale) for n in image.shape[:2])
        square = np.full((side, side, 3), 114, np.uint8)
        square[:height, :width] = cv2.resize(image, (width, height))
        squares.append(torch.from_numpy(square).permute(2, 0, 1))
    return torch.stack(squares)


def half_but_for(model: nn.Module, keep: Callable[[str, nn.Conv2d], bool]) -> None:
    """Put a copy's convolutions into bfloat16, but for those that `keep` names."""

    def run(forward: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
        with torch.autocast('cpu', enabled=False):
            return forward(value.float())

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and keep(name, module):
            module.forward = partial(run, module.forward)  # type: ignore[method-assign]
        elif isinstance(module, nn.Conv2d):
            module.bfloat16()


def layers_alone(model: nn.Module, images: Tensor) -> list[dict[str, Any]]:
    """Run each convolution in bfloat16 on the input that it has in float32.

    `sum` is how large the terms are that a layer adds up, relative to their sum.
    """
    found: list[dict[str, Any]] = []

    def note(name: str, conv: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        (value,) = inputs
        options: Any = (conv.stride, conv.padding, conv.dilation, conv.groups)
        half: list[Any] = [
            t if t is None else t.bfloat16() for t in (conv.weight, conv.bias)
        ]
        run = nn.functional.conv2d
        rounded = run(value.bfloat16(), half[0], half[1], *options).float()
        bias = None if conv.bias is None else conv.bias.abs()
        terms = run(value.abs(), conv.weight.abs(), bias, *options)
        found.append(
            dict(
                layer=name,
                depthwise=conv.groups > 1,
                difference=float((rounded - output).norm() / output.norm()),
                sum=float(terms.norm() / output.norm()),
            )
        )

    handles = [
        module.register_forward_hook(partial(note, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        run_features(model, images)
    for handle in handles:
        handle.remove()
    return found


def make_engines(model: nn.Module, images: Tensor) -> dict[str, Engine]:
    """Return the forms in which the teacher is measured, by name."""
    finder = NormPairFinder()
    with finder.watch(model), torch.no_grad():
        run_features(model, images[:1])
    pairs = finder.pairs(model, TAPS.values())
    engines = {'float32, as it is': Engine(model, Speedup('off'))}
    exact = Speedup('exact', pairs)
    engines['float32, folded, channels-last'] = Engine(accelerate(model, exact), exact)
    for dtype in (torch.bfloat16, torch.float16):
        fast = Speedup('fast', pairs, dtype)
        name = str(dtype).removeprefix('torch.')
        engines[name] = Engine(accelerate(model, fast), fast)
    fast = Speedup('fast', pairs, torch.bfloat16)
    kept: dict[str, Callable[[str, nn.Conv2d], bool]] = {
        'depthwise': lambda name, conv: conv.groups > 1,
        'all but depthwise': lambda name, conv: conv.groups == 1,
        'stem': lambda name, conv: name.startswith(EARLY[:1]),
        'stem to stage 2': lambda name, conv: name.startswith(EARLY),
        'backbone': lambda name, conv: name.startswith('backbone.'),
    }
    for words, keep in kept.items():
        copy = accelerate(model, exact)
        half_but_for(copy, keep)
        engines[f'bfloat16, {words} in float32'] = Engine(copy, fast)
    return engines


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return differences and seconds of every form, and each layer alone."""
    torch.set_num_threads(1)
    teacher = Teacher.build('t', dict(cfg=args.config, checkpoint=args.checkpoint))
    teacher.load()
    model: Any = teacher.model
    images = load_images(args.folder, args.images, args.size)
    inputs = model.data_preprocessor(dict(inputs=list(images)), False)['inputs']
    engines = make_engines(model, inputs)
    outputs = {name: e.run(inputs, TAPS) for name, e in engines.items()}
    reference = next(iter(outputs.values()))
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, engine in engines.items():
            start = time.process_time()
            engine.run(inputs, TAPS)
            seconds[name].append(time.process_time() - start)
    plain = statistics.median(seconds['float32, as it is'])
    forms = {
        name: dict(
            differences=relative_differences(reference, outputs[name]),
            seconds=statistics.median(seconds[name]),
            gain=plain / statistics.median(seconds[name]),
        )
        for name in engines
    }
    layers = layers_alone(engines['float32, folded, channels-last'].model, inputs)
    largest = max(float(first_tensor(v).abs().max()) for v in reference['neck'])
    return dict(
        command=f'python benchmarks/measure_half_precision.py {args.config}'
        f' {Path(args.checkpoint).name} {Path(args.folder).name}'
        f' --images {args.images} --size {args.size} --rounds {args.rounds}',
        torch=torch.__version__,
        cpu=torch.backends.cpu.get_cpu_capability(),
        largest_of_neck=largest,
        forms=forms,
        alone={
            kind: {
                key: statistics.median(x[key] for x in layers if x['depthwise'] == deep)
                for key in ('difference', 'sum')
            }
            for kind, deep in (('depthwise', True), ('others', False))
        },
        layers=layers,
    )


def main() -> None:
    """Measure, print a table and write the json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('folder', help='images')
    parser.add_argument('--images', type=int, default=4)
    parser.add_argument('--size', type=int, default=416)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--json', default='half_precision.json')
    args = parser.parse_args()
    register_all_modules()
    found = measure(args)
    Path(args.json).write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    for name, form in found['forms'].items():
        words = ' '.join(f'{k} {v:.2g}' for k, v in form['differences'].items())
        print(f'{name:45s} {form["gain"]:.2f}x  {words}')
    print(found['alone'])


if __name__ == '__main__':
    main()
