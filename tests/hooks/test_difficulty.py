"""Output of DifficultyHook."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner

import tiny_images
from mkd_det.errors import ConfigError
from mkd_det.hooks import difficulty_hook
from mkd_det.hooks.difficulty_hook import DifficultyHook, relations, summary


def test_the_summary_of_a_histogram() -> None:
    counts = np.zeros(28)
    counts[[0, 14]] = [3, 1]
    width = math.sqrt(2) / 28
    said = summary(counts)
    assert said['mean'] == pytest.approx((3 * 0.5 + 14.5) * width / 4)
    assert said['median'] == pytest.approx(0.5 * width)
    assert said['90 %'] == pytest.approx(14.5 * width)


def test_what_difficulties_are_related_to() -> None:
    samples = np.array([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0], [1.0, 0.0, 0.0]])
    assert relations(samples) == pytest.approx((1.0, 1 / 3))
    samples[0] = 0.5
    assert relations(samples)[0] == 0


@pytest.mark.parametrize('least, warned', [(0.5, False), (1.1, True)])
def test_an_epoch_logs_a_line_and_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, warned: bool
) -> None:
    monkeypatch.setattr(difficulty_hook, '_LEAST_AGREEMENT', least)
    term = dict(
        type='DLKD', student='logits', teacher='t.logits', pruned='pruned.logits'
    )
    cfg = tiny_images.classifier(14)
    file = tmp_path / 't.pth'
    torch.save({'state_dict': tiny_images.build(cfg).state_dict()}, file)
    teacher = dict(cfg=cfg, checkpoint=str(file), speed='off')
    model = dict(
        type='Distiller',
        student=tiny_images.classifier(),
        teachers=dict(t=teacher, pruned=dict(prune_of='t', prune=0.001)),
        taps=dict(logits='head'),
        terms=dict(loss_dlkd=term),
        probe_size=16,
    )
    data = tiny_images.write_folder(tmp_path / 'data')
    backends = [dict(type='LocalVisBackend')]
    run = tiny_images.runner_cfg(
        model,
        data,
        tmp_path / 'work',
        experiment_name='difficulty',
        custom_hooks=[dict(type='DifficultyHook')],
        visualizer=dict(type='Visualizer', vis_backends=backends),
    )
    run.log_level = 'INFO'
    runner = Runner.from_cfg(run)
    runner.train()
    (picture,) = (tmp_path / 'work').rglob('difficulty_loss_dlkd_*.png')
    image = cv2.imread(str(picture))
    assert image.shape == (350, 600, 3) and image.std() > 5
    (log,) = (tmp_path / 'work').rglob('*.log')
    text = log.read_text()
    assert 'Difficulty of loss_dlkd: mean 0.' in text and 'same best class' in text
    assert ('prune less: prune=0.5' in text) is warned
    (hook,) = (h for h in runner.hooks if isinstance(h, DifficultyHook))
    # Every image of the epoch was counted once.
    assert hook.counts['loss_dlkd'].sum() == len(runner.train_dataloader.dataset)


def test_a_histogram_needs_two_bins() -> None:
    with pytest.raises(ConfigError, match='bins'):
        DifficultyHook(bins=1)
