"""What a comparison lacks is suggested from the user's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mkd_det.experiments.comparison.suggestions import plain_configs, suggest_teacher

RECIPE = 'recipe = dict(terms=dict())\n'
TAUGHT = "_base_ = ['small.py']\nmodel = dict(_delete_=True, type='Distiller')\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: two plain configs, a distill config, a recipe, weights."""
    monkeypatch.chdir(tmp_path)
    for name in ('small', 'big'):
        (tmp_path / f'{name}.py').write_text("_base_ = ['mmdet::gfl/x.py']\n")
    (tmp_path / 'mine.py').write_text(RECIPE)
    (tmp_path / 'pair.py').write_text(TAUGHT)
    work = tmp_path / 'work_dirs' / 'big'
    work.mkdir(parents=True)
    for epoch in (2, 10):
        (work / f'epoch_{epoch}.pth').touch()
    (work / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
    return tmp_path


def test_plain_configs_are_told_from_others() -> None:
    assert plain_configs(['pair.py'], without=['small.py']) == ['big.py']
    assert plain_configs(['mkd_det::bccd/x.py']) == ['big.py', 'small.py']


def test_the_other_plain_config_is_the_teacher() -> None:
    options, configs = suggest_teacher({}, {}, 'small.py')
    assert options == '--teacher-cfg big.py --teacher work_dirs/big/epoch_2.pth'
    assert configs == ['big.py']


def test_the_config_beside_the_checkpoint_is_the_teachers(folder: Path) -> None:
    work = folder / 'work_dirs' / 'big'
    (work / 'dumped.py').touch()
    given = {'t2': 'work_dirs/big/epoch_10.pth'}
    options, _ = suggest_teacher({}, given, 'small.py')
    assert options == (
        '--teacher-cfg t2=work_dirs/big/dumped.py'
        ' --teacher t2=work_dirs/big/epoch_10.pth'
    )


def test_no_path_of_somebody_else_is_suggested(folder: Path) -> None:
    (folder / 'third.py').write_text('model = dict()\n')  # which one is the teacher?
    options, configs = suggest_teacher({}, {}, 'small.py')
    assert options == '--teacher-cfg TEACHER_CONFIG.py --teacher TEACHER_CHECKPOINT.pth'
    assert configs == ['big.py', 'third.py']
