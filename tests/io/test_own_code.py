"""Code of the user that raises is told with class, file and line."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.evaluator import BaseMetric
from torch.utils.data import DataLoader, Dataset

from mkd_det.errors import ConfigError, OwnCodeError
from mkd_det.io.own_code import own_code_errors


class Images(Dataset):
    """Fails in the worker that loads it."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        raise KeyError('gt_odd')


class Odd(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        assert not data_samples

    def compute_metrics(self, results: list) -> dict:
        return {}


def failure(call: Callable[[], Any], folder: Path) -> OwnCodeError:
    with pytest.raises(OwnCodeError) as caught, own_code_errors(str(folder)):
        call()
    return caught.value


def test_a_metric_of_the_user_is_named_with_its_line(tmp_path: Path) -> None:
    error = failure(lambda: Odd().process({}, [1]), tmp_path)
    assert error.message.startswith('Odd has failed: AssertionError')
    assert __file__ in error.actual and 'assert not data_samples' in error.actual
    text = (tmp_path / 'traceback.txt').read_text()
    assert str(tmp_path / 'traceback.txt') in error.fix and 'Traceback' in text


def test_a_metric_of_mmdet_that_the_model_does_not_serve(tmp_path: Path) -> None:
    metric = CocoMetric(metric='segm')
    metric.results = [({'id': 0}, {})]
    error = failure(lambda: metric.results2json([{'img_id': 0}], 'x'), tmp_path)
    assert error.message == "CocoMetric has failed: KeyError 'bboxes'" or (
        error.message.startswith('CocoMetric has failed: KeyError')
    )


def test_data_that_a_worker_loads(tmp_path: Path) -> None:
    loader = DataLoader(Images(), num_workers=1)
    error = failure(lambda: next(iter(loader)), tmp_path)
    assert error.message == "__getitem__ has failed: KeyError: 'gt_odd'"
    assert "raise KeyError('gt_odd')" in error.actual


def test_errors_of_libraries_and_disks_pass(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, 'no space')

    with pytest.raises(OSError, match='no space'), own_code_errors(str(tmp_path)):
        full()
    with pytest.raises(ConfigError), own_code_errors(str(tmp_path)):
        raise ConfigError('typed')
    with pytest.raises(RuntimeError) as caught:
        call = torch.nn.Linear(1, 2)
        # No frame of this file lies between the library and the context.
        _through_library(call, tmp_path)
    assert not isinstance(caught.value, OwnCodeError)


def _through_library(call: Any, folder: Path) -> None:
    manager = own_code_errors(str(folder))
    manager.__enter__()
    try:
        call(torch.ones(3))
    except RuntimeError as error:
        error.__traceback__ = error.__traceback__.tb_next
        if not manager.__exit__(type(error), error, error.__traceback__):
            raise
