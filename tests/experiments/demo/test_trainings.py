"""The demo's trainings."""

from __future__ import annotations

from pathlib import Path

from mkd_det.config_files.reading import read_config
from mkd_det.experiments.demo.trainings import FULL, QUICK, make_trainings


def test_all_three_take_as_many_steps(tmp_path: Path) -> None:
    full = make_trainings(tmp_path, FULL, seed=0)
    assert [run.name for run in full] == ['teacher', 'student', 'mkd']
    assert [run.budget for run in full] == [16, 16, 800]
    assert {run.iterations for run in full} == {16 * 400 // 8}
    taught = read_config(full[2].config)
    assert taught.train_cfg.max_iters == full[2].iterations
    quick = make_trainings(tmp_path, QUICK, seed=0)
    assert [(run.budget, run.iterations) for run in quick] == [(2, 6), (2, 6), (6, 6)]


def test_the_student_depends_on_data_and_teacher(tmp_path: Path) -> None:
    one, two = (make_trainings(tmp_path, QUICK, seed) for seed in (0, 1))
    assert one[2].options['model.teachers.t.checkpoint'] == str(one[0].checkpoint)
    assert two[2].options['train_dataloader.dataset.datasets.1.seed'] == '1'
    assert one[2].depends_on['teacher'] == one[0].fingerprint
    assert one[1].depends_on['digits'] != two[1].depends_on['digits']
