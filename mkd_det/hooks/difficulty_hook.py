"""Logs the difficulties of the samples of DLKD."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from scipy.stats import spearmanr
from torch import Tensor

from ..distiller.losses import StepLosses
from ..errors import ConfigError
from ..training.runtime import get_distiller
from .distill_hook import DistillHook

# Share of samples on which a pruned teacher must agree with the teacher.
_LEAST_AGREEMENT = 0.5
# What a loss such as DLKD says of the samples of its last call.
_KNOWN = ('difficulties', 'entropies', 'agreeing')


@HOOKS.register_module()
class DifficultyHook(DistillHook):
    """Draws a histogram of the difficulties of every `DLKD` term in each epoch.

    Mean, median and the 90th percentile go to the log; the histogram goes to the
    runner's visualizer as the image `difficulty_<term>`. If all samples are easy (the
    teacher is pruned too little) or all are difficult (pruned too much), temperatures
    by difficulty have no effect.

    It also logs on how many samples teacher and pruned teacher have the same best
    class, and the rank correlation of difficulty and the teacher's entropy. It warns
    where they agree on less than half: a teacher that is pruned so far cannot tell
    difficult samples. Only samples of this process are counted.

    Args:
        bins: Number of bins between 0 and the square root of 2.
    """

    def __init__(self, bins: int = 28) -> None:
        if bins < 2:
            raise ConfigError(
                'DifficultyHook: bins must be at least 2', actual=bins, fix='bins=28'
            )
        self.bins = bins
        self.counts: dict[str, Tensor] = {}
        self.samples: dict[str, list[Tensor]] = {}

    def before_train_epoch(self, runner: Runner) -> None:
        """Reset the counts."""
        self.counts, self.samples = {}, {}

    def after_terms(self, runner: Runner, losses: StepLosses) -> None:
        """Count the samples of this step."""
        for name, module in get_distiller(runner, 'DifficultyHook').losses.items():
            known: list[Any] = [getattr(module, key, None) for key in _KNOWN]
            taught = any(key.startswith(name) for key in losses)
            if taught and all(isinstance(value, Tensor) for value in known):
                # On the CPU: torch.histc is not deterministic on GPUs.
                seen = torch.stack([value.float().cpu() for value in known])
                count = torch.histc(seen[0], self.bins, 0.0, math.sqrt(2))
                self.counts[name] = self.counts.get(name, 0) + count
                self.samples.setdefault(name, []).append(seen)

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the statistics and draw the histograms."""
        for name, tensor in self.counts.items():
            counts = tensor.cpu().numpy()
            if not counts.sum():
                continue
            shown = ', '.join(f'{k} {v:.3f}' for k, v in summary(counts).items())
            relation, agreement = relations(torch.cat(self.samples[name], 1).numpy())
            runner.logger.info(
                f'Difficulty of {name}: {shown}; rank correlation with the entropy of'
                f' the teacher {relation:.2f}; same best class {agreement:.0%}'
            )
            if agreement < _LEAST_AGREEMENT:
                runner.logger.warning(
                    f'{name}: the pruned teacher has the same best class as the teacher'
                    f' on {agreement:.0%} of the samples. Pruned so far, its distance'
                    ' does not tell difficult samples; prune less: prune=0.5'
                )
            image = draw_histogram(counts, f'{name}, epoch {runner.epoch + 1}')
            runner.visualizer.add_image(
                f'difficulty_{name}', image, step=runner.epoch + 1
            )


def summary(counts: np.ndarray) -> dict[str, float]:
    """Return mean, median and 90th percentile of a histogram from 0 to sqrt(2)."""
    width = math.sqrt(2) / len(counts)
    centres = (np.arange(len(counts)) + 0.5) * width
    cumulative = counts.cumsum() / counts.sum()
    return {
        'mean': float((centres * counts).sum() / counts.sum()),
        'median': float(centres[np.searchsorted(cumulative, 0.5)]),
        '90 %': float(centres[np.searchsorted(cumulative, 0.9)]),
    }


def relations(samples: np.ndarray) -> tuple[float, float]:
    """Return the rank correlation with the entropy, and the share that agrees.

    Args:
        samples: Difficulty, entropy, and whether the best class is the same, (3, M).
    """
    difficulties, entropies, agreeing = samples
    constant = not (np.ptp(difficulties) and np.ptp(entropies))
    relation = 0.0 if constant else spearmanr(difficulties, entropies).statistic
    return float(relation), float(agreeing.mean())


def draw_histogram(counts: np.ndarray, title: str) -> np.ndarray:
    """Return the histogram as an RGB image (H, W, 3), uint8."""
    figure = Figure(figsize=(6, 3.5), dpi=100, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = math.sqrt(2) / len(counts)
    axes.bar(np.arange(len(counts)) * width, counts, width, align='edge')
    axes.set_xlabel('distance between the teacher and its pruned copy')
    axes.set_ylabel('samples')
    axes.set_title(title)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
