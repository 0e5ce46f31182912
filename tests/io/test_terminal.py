"""The terminal shows what a person needs; the log file has everything."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from mmengine.logging import MMLogger

from mkd_det.io.terminal import is_dump, short_terminal


def current_logger(folder: Path) -> MMLogger:
    """The current logger, with the terminal of this moment and a file."""
    name = uuid4().hex
    return MMLogger.get_instance(name, log_file=str(folder / f'{name}.log'))


DUMPS = [
    '\n' + 60 * '-' + '\nSystem environment:\n    Python: 3.11',
    "Config:\nmodel = dict(type='GFL')",
    'Hooks will be executed in the following order:\nbefore_run:',
    '\nbackbone.conv1.weight - torch.Size([48, 3, 7, 7]): \nKaimingInit: a=0',
    'Exp name: gfl_20250101',
    'Evaluating bbox...',
]
NEEDED = [
    'Plan (whole: mkd-det plan CONFIG)\n  student GFL',
    'Teacher t (GFL): coco/bbox_mAP 0.5220 on all 72 validation images (3 s)',
    'Epoch(train) [1][50/100]  lr: 1.0000e-03  loss: 26.3423',
    'Epoch(val) [1][1/1]    coco/bbox_mAP: 0.0000',
    'Config key `x` is deprecated',
]


@pytest.mark.parametrize('text', DUMPS)
def test_dumps_go_to_the_file_only(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    logger = current_logger(tmp_path)
    with short_terminal():
        logger.info(text)
    assert capsys.readouterr().out == ''
    assert text in Path(str(logger.log_file)).read_text()


@pytest.mark.parametrize('text', NEEDED)
def test_what_a_person_needs_is_shown(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert not is_dump(text)
    logger = current_logger(tmp_path)
    with short_terminal():
        logger.info(text)
    assert text in capsys.readouterr().out


def test_everything_is_shown_on_request_and_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    logger = current_logger(tmp_path)
    with short_terminal(everything=True):
        logger.info(DUMPS[1])
    assert DUMPS[1] in capsys.readouterr().out
    with short_terminal():
        pass
    logger.info(DUMPS[2])
    assert DUMPS[2] in capsys.readouterr().out


def test_tables_of_pycocotools_go_to_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from pycocotools.coco import COCO

    logger = current_logger(tmp_path)
    with short_terminal():
        COCO().createIndex()
        assert capsys.readouterr().out == ''
        assert 'index created!' in Path(str(logger.log_file)).read_text()
    COCO().createIndex()
    assert 'index created!' in capsys.readouterr().out, 'as before, after the run'
