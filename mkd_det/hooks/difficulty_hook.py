"""Shows how difficult the samples are that DLKD sees."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..errors import ConfigError
from ..training.runtime import get_distiller
from .distill_hook import DistillHook


@HOOKS.register_module()
class DifficultyHook(DistillHook):
    """Histogram of the difficulties of every `DLKD` term, epoch by epoch.

    Mean, median and the 90th percentile go to the log, the histogram as a picture to
    the runner's visualizer, as `difficulty_<term>`: where all samples are easy (a
    teacher pruned too little) or all difficult (too much), their temperatures say
    nothing. Counts the samples of this process alone.

    Args:
        bins: Number of bars between 0 and the square root of 2.
    """

    def __init__(self, bins: int = 28) -> None:
        if bins < 2:
            raise ConfigError('DifficultyHook: bins must be 2 or more', actual=bins)
        self.bins = bins
        self.counts: dict[str, Tensor] = {}

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin to count."""
        self.counts = {}

    def after_terms(self, runner: Runner, losses: dict[str, Tensor]) -> None:
        """Count this step's samples."""
        for name, module in get_distiller(runner, 'DifficultyHook').losses.items():
            values = getattr(module, 'difficulties', None)
            if values is not None and any(key.startswith(name) for key in losses):
                # On the CPU: on GPUs it is not deterministic.
                values = values.float().cpu()
                count = torch.histc(values, self.bins, 0.0, math.sqrt(2))
                self.counts[name] = self.counts.get(name, 0) + count

    def after_train_epoch(self, runner: Runner) -> None:
        """Log and draw."""
        for name, tensor in self.counts.items():
            counts = tensor.cpu().numpy()
            if not counts.sum():
                continue
            said = ', '.join(f'{k} {v:.3f}' for k, v in summary(counts).items())
            runner.logger.info(f'Difficulty of {name}: {said}')
            picture = draw(counts, f'{name}, epoch {runner.epoch + 1}')
            runner.visualizer.add_image(
                f'difficulty_{name}', picture, step=runner.epoch + 1
            )


def summary(counts: np.ndarray) -> dict[str, float]:
    """Mean, median and 90th percentile of a histogram from 0 to sqrt(2)."""
    width = math.sqrt(2) / len(counts)
    middles = (np.arange(len(counts)) + 0.5) * width
    share = counts.cumsum() / counts.sum()
    return {
        'mean': float((middles * counts).sum() / counts.sum()),
        'median': float(middles[np.searchsorted(share, 0.5)]),
        '90 %': float(middles[np.searchsorted(share, 0.9)]),
    }


def draw(counts: np.ndarray, title: str) -> np.ndarray:
    """The histogram as an RGB picture (H, W, 3)."""
    figure = Figure(figsize=(6, 3.5), dpi=100, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = math.sqrt(2) / len(counts)
    axes.bar(np.arange(len(counts)) * width, counts, width, align='edge')
    axes.set_xlabel('distance between the teacher and its pruned self')
    axes.set_ylabel('samples')
    axes.set_title(title)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
