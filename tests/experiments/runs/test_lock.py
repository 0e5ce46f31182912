"""One command at a time in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mkd_det.errors import ExperimentError
from mkd_det.experiments.runs import locked_folder


def test_two_commands_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / 'new'
    with (
        locked_folder(folder, 'demo'),
        pytest.raises(ExperimentError, match='another demo') as caught,
        locked_folder(folder, 'demo'),
    ):
        pass
    assert '--work-dir' in caught.value.fix
    with locked_folder(folder, 'demo'):  # free again
        pass
