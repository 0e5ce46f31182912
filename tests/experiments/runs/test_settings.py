"""Settings that determine the result of a training."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from mkd_det.experiments.runs.settings import settings_in


def test_inherited_settings_count_and_logging_does_not(tmp_path: Path) -> None:
    base, config = tmp_path / 'base.py', tmp_path / 'own.py'
    config.write_text("_base_ = 'base.py'\nmodel = dict(type='RetinaNet')\n")

    def read(text: str) -> dict[str, str]:
        base.write_text(text)
        return settings_in(Config.fromfile(config), tmp_path)

    one = read("optim = dict(lr=0.1)\nlog_level = 'INFO'\n")
    assert one == {'optim.lr': '0.1', 'model.type': '"RetinaNet"'}
    assert read("optim = dict(lr=0.1)\nlog_level = 'ERROR'\n") == one
    assert read('optim = dict(lr=0.2)\n') == {**one, 'optim.lr': '0.2'}


def test_the_folder_does_not_matter(tmp_path: Path) -> None:
    found = [
        settings_in(Config(dict(work_dir=f'{folder}/a')), folder)
        for folder in (tmp_path / 'x', tmp_path / 'y')
    ]
    assert found[0] == found[1] == {'work_dir': '"WORK_DIR/a"'}


def test_initial_weights_are_known_by_their_content(tmp_path: Path) -> None:
    start = tmp_path / 'start.pth'
    cfg = Config(dict(load_from=str(start), model=dict(init_cfg=dict(checkpoint='x'))))
    found = []
    for content in (b'one', b'two', b'one'):
        start.write_bytes(content)
        found.append(settings_in(cfg, tmp_path / 'work'))
    assert found[0] == found[2] != found[1]
    assert found[0]['model.init_cfg.checkpoint'] == '"x"'  # not there: its name
