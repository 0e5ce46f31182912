"""Work dirs of trainings: kept, moved aside, taken back, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiment_runs import finish_run, make_run
from mkd_det.errors import ExperimentError
from mkd_det.experiments.runs import LineDisplay, run_training


def test_another_training_is_moved_aside_and_taken_back(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> dict:
        raise ExperimentError('it trains')

    monkeypatch.setattr('mkd_det.experiments.runs.execution._train', fails)
    run = finish_run(make_run(tmp_path / 'run', options={'lam': 1}))
    for name in ('run.old1', 'run.old2'):
        other = replace(run, options={'lam': name})
        with pytest.raises(ExperimentError, match='it trains'):
            run_training(other, {}, LineDisplay(1))
        assert 'has changed (lam)' in capsys.readouterr().out
        assert (tmp_path / name).is_dir()
    assert (tmp_path / 'run.old1' / 'epoch_2.pth').is_file()
    assert run_training(run, {}, LineDisplay(1)).metrics['box_map'] == 0.25
    assert 'is the same training; taken back' in capsys.readouterr().out
    assert not (tmp_path / 'run.old1').exists()


def test_changed_dependencies_are_named_before_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> dict:
        raise ExperimentError('it trains')

    monkeypatch.setattr('mkd_det.experiments.runs.execution._train', fails)
    run = finish_run(make_run(tmp_path / 'run'))
    other = replace(run, settings={'lr': '1'}, depends_on={'guide t': 'x'})
    with pytest.raises(ExperimentError, match='it trains'):
        run_training(other, {}, LineDisplay(1))
    assert 'has changed (guide t, lr)' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['run/thesis.txt', 'run'])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('years of work')
    with pytest.raises(ExperimentError, match='not a training') as caught:
        run_training(make_run(tmp_path / 'run'), {}, LineDisplay(1))
    assert '--work-dir' in caught.value.fix
    assert file.read_text() == 'years of work'
