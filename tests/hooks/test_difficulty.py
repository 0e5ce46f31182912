"""Output of DifficultyHook."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.runner import Runner

import tiny_images
from mkd_det.errors import ConfigError
from mkd_det.hooks.difficulty_hook import DifficultyHook, summary


def test_the_summary_of_a_histogram() -> None:
    counts = np.zeros(28)
    counts[[0, 14]] = [3, 1]
    width = math.sqrt(2) / 28
    said = summary(counts)
    assert said['mean'] == pytest.approx((3 * 0.5 + 14.5) * width / 4)
    assert said['median'] == pytest.approx(0.5 * width)
    assert said['90 %'] == pytest.approx(14.5 * width)


def test_an_epoch_logs_a_line_and_an_image(tmp_path: Path) -> None:
    term = dict(
        type='DLKD', student='logits', teacher='t.logits', pruned='pruned.logits'
    )
    teacher = dict(cfg=tiny_images.classifier(14), checkpoint=None, speed='off')
    model = dict(
        type='Distiller',
        student=tiny_images.classifier(),
        teachers=dict(t=teacher, pruned=dict(prune_of='t', prune=0.5)),
        taps=dict(logits='head'),
        terms=dict(loss_dlkd=term),
        probe_size=16,
    )
    data = tiny_images.write_folder(tmp_path / 'data')
    backends = [dict(type='LocalVisBackend')]
    cfg = tiny_images.runner_cfg(
        model,
        data,
        tmp_path / 'work',
        experiment_name='difficulty',
        custom_hooks=[dict(type='DifficultyHook')],
        visualizer=dict(type='Visualizer', vis_backends=backends),
    )
    cfg.log_level = 'INFO'
    runner = Runner.from_cfg(cfg)
    runner.train()
    (picture,) = (tmp_path / 'work').rglob('difficulty_loss_dlkd_*.png')
    image = cv2.imread(str(picture))
    assert image.shape == (350, 600, 3) and image.std() > 5
    (log,) = (tmp_path / 'work').rglob('*.log')
    assert 'Difficulty of loss_dlkd: mean 0.' in log.read_text()
    (hook,) = (h for h in runner.hooks if isinstance(h, DifficultyHook))
    # Every image of the epoch was counted once.
    assert hook.counts['loss_dlkd'].sum() == len(runner.train_dataloader.dataset)


def test_a_histogram_needs_two_bins() -> None:
    with pytest.raises(ConfigError, match='bins'):
        DifficultyHook(bins=1)
