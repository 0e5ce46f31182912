"""Files that a config names are found in both places, and what was taken is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from mkd_det.config_files import paths as config_paths
from mkd_det.config_files.paths import find_file, find_named_files
from mkd_det.config_files.reading import configs_beside, load_config, read_config
from mkd_det.errors import ConfigError

PAIR = """
_base_ = ['small.py']
model = dict(
    _delete_=True, type='Distiller', student={{_base_.model}},
    teachers=dict(t=dict(cfg='big.py', checkpoint='weights/big.pth')))
load_from = 'start.pth'
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a folder `mine` for configs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_paths, '_said', set())
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'pair.py').write_text(PAIR)
    return tmp_path


def put(*paths: str, text: str = "model = dict(type='GFL')\n") -> None:
    for path in paths:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)


def test_what_lies_beside_the_config_is_found(capsys: pytest.CaptureFixture) -> None:
    put('mine/small.py', 'mine/big.py', 'mine/weights/big.pth', 'mine/start.pth')
    cfg = load_config('mine/pair.py')
    assert cfg.model.teachers.t.cfg == 'mine/big.py'
    assert cfg.model.teachers.t.checkpoint == 'mine/weights/big.pth'
    assert cfg.load_from == 'mine/start.pth'
    lines = capsys.readouterr().out.splitlines()
    assert (
        'model.teachers.t.cfg: big.py is not in the current folder; taken: mine/big.py'
    ) in lines
    load_config('mine/pair.py')
    assert capsys.readouterr().out == '', 'once is enough'


def test_what_lies_in_the_current_folder_is_found(
    capsys: pytest.CaptureFixture,
) -> None:
    put('small.py', 'big.py', 'weights/big.pth', 'start.pth')
    cfg = load_config('mine/pair.py')
    assert cfg.model.student.type == 'GFL'
    assert cfg.model.teachers.t.cfg == 'big.py' and cfg.load_from == 'start.pth'
    assert capsys.readouterr().out == (
        '_base_ of mine/pair.py: small.py is not beside it; taken from the current'
        ' folder\n'
    )


def test_of_two_files_the_usual_one_is_taken_and_said(
    capsys: pytest.CaptureFixture,
) -> None:
    put('mine/small.py', 'mine/big.py')
    put('small.py', 'big.py', text="model = dict(type='FCOS')\n")
    cfg = load_config('mine/pair.py')
    assert cfg.model.student.type == 'GFL', 'a base beside the config, as in mmengine'
    assert cfg.model.teachers.t.cfg == 'big.py', 'all others in the current folder'
    said = capsys.readouterr().out
    assert 'small.py is taken from beside it; another is in the current folder' in said
    assert 'big.py is taken from the current folder, not mine/big.py' in said


def test_a_base_that_is_nowhere_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config('mine/pair.py')
    assert 'current folder' in caught.value.fix


@pytest.mark.parametrize('name', ['', 'mkd_det::a.py', 'https://a/b.pth', '/a/b.pth'])
def test_addresses_and_absolute_paths_stay(name: str) -> None:
    assert find_file(name, 'mine', 'cfg') == name


def test_only_files_are_looked_at_wherever_they_stand() -> None:
    put('mine/a.pth')
    init = dict(type='Pretrained', checkpoint='a.pth')
    value = dict(
        stages=[dict(cfg=dict(type='GFL'), checkpoint='a.pth')],
        backbone=dict(init_cfg=[init]),
        checkpoint=None,
        name='a.pth',
    )
    find_named_files(value, 'mine')
    assert value['stages'][0]['checkpoint'] == 'mine/a.pth'
    assert init['checkpoint'] == 'mine/a.pth'
    assert (value['checkpoint'], value['name']) == (None, 'a.pth')


def test_configs_beside_a_checkpoint_are_plain_ones(tmp_path: Path) -> None:
    """A distill config that lies there is no config of a teacher."""
    (tmp_path / 'big.py').write_text("model = dict(type='GFL')")
    (tmp_path / 'pair.py').write_text("model = dict(type='Distiller')")
    beside = configs_beside(str(tmp_path / 'epoch_1.pth'))
    assert beside == [str(tmp_path / 'big.py')]
