"""Soft labels: bounded, continued after an interruption, made by one teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mkd_det.errors import ConfigError, DataError, HeadKindError
from mkd_det.experiments.labelling.soft import (
    SoftLabeller,
    SoftSettings,
    label_soft,
)
from mkd_det.teachers.stored.store import OutputStore
from tooling import fails, plain_dumps, run_command


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('soft')
    tiny.write_coco(root / 'data', images=5)
    tiny.write_checkpoint(tiny.gfl(4, 8), root / 'model.pth')
    tiny.write_checkpoint(tiny.gfl(4, 8), root / 'other.pth', seed=2)
    return root


def run(root: Path, out: Path, weights: str = 'model.pth', **settings: Any) -> Any:
    cfg = tiny.runner_cfg(tiny.gfl(4, 8), root / 'data', root / 'run')
    given = SoftSettings(**{'top_k': 30, 'batch_size': 2, **settings})
    return label_soft(cfg, str(root / weights), str(root / 'data/images'), out, given)


def test_the_most_confident_rows_are_kept(root: Path, tmp_path: Path) -> None:
    few, all_ = tmp_path / 'few.soft', tmp_path / 'all.soft'
    found = run(root, few)
    run(root, all_, top_k=10**6)
    assert (found.images, found.added, found.failed) == (5, 5, {})
    path = str(root / 'data/images/001.png')
    kept, whole = OutputStore(few).read(path), OutputStore(all_).read(path)
    assert len(kept.rows) == 30 < len(whole.rows)
    scores = whole.scores.float().sigmoid().amax(1)
    wanted = scores.topk(30).values.min()
    assert scores[kept.rows.long()].min() >= wanted - 1e-3
    assert kept.scores.dtype == torch.float16
    assert few.stat().st_size < all_.stat().st_size


def test_an_interrupted_run_continues(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plain = tmp_path / 'a.soft', SoftLabeller.label
    seen: list[str] = []

    def stops(self: Any, paths: Any) -> Any:
        if seen:
            raise KeyboardInterrupt
        seen.extend(paths)
        return plain(self, paths)

    monkeypatch.setattr(SoftLabeller, 'label', stops)
    with pytest.raises(KeyboardInterrupt):
        run(root, out)
    monkeypatch.setattr(SoftLabeller, 'label', plain)
    assert len(OutputStore(out)) == 2
    found = run(root, out)
    assert (found.images, found.added) == (5, 3)
    assert run(root, out).added == 0


def test_another_teacher_or_another_number_of_rows_needs_another_file(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'a.soft'
    run(root, out)
    for other, name in (
        (dict(weights='other.pth'), 'weights'),
        (dict(top_k=9), 'top_k'),
    ):
        with pytest.raises(DataError) as error:
            run(root, out, **other)
        assert name in error.value.actual and '--out' in error.value.fix


def test_broken_images_are_listed(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'images'
    folder.mkdir()
    (folder / 'a.png').write_bytes((root / 'data/images/000.png').read_bytes())
    (folder / 'b.png').write_bytes(b'no image')
    cfg = tiny.runner_cfg(tiny.gfl(4, 8), root / 'data', root / 'run')
    out = tmp_path / 'a.soft'
    found = label_soft(cfg, str(root / 'model.pth'), str(folder), out)
    assert (found.images, list(found.failed)) == (1, [str(folder / 'b.png')])
    assert 'b.png' in next(iter(json.loads(Path(f'{out}.failed.json').read_text())))


def test_a_head_without_rows_is_refused(root: Path, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.faster_rcnn(), tmp_path / 'two.pth')
    cfg = tiny.runner_cfg(tiny.faster_rcnn(), root / 'data', root / 'run')
    with pytest.raises(HeadKindError) as error:
        label_soft(cfg, str(tmp_path / 'two.pth'), str(root), tmp_path / 'a.soft')
    assert error.value.fix == 'hard labels: the same command without --soft'


def test_the_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = tiny.runner_cfg(tiny.gfl(4, 8), root / 'data', root / 'run')
    with plain_dumps():
        cfg.dump(tmp_path / 'model.py')
    images, out = root / 'data/images', tmp_path / 'labels.soft'
    argv = [tmp_path / 'model.py', root / 'model.pth', images, '--out', out]
    assert not run_command('label', [*argv, '--soft', '--top-k', 20])
    assert '5 images (5 new)' in capsys.readouterr().out.replace('\n', ' ')
    assert OutputStore(out).about.top_k == 20
    fails(capsys, 'label', [*argv, '--soft', '--precision', 0.9], 'ConfigError', 'hard')
    fails(capsys, 'label', [*argv, '--top-k', 5], 'ConfigError', '--soft --top-k 5')
    with pytest.raises(ConfigError):
        SoftSettings(top_k=0)
