"""Image files that cannot be read are named, and none of them hangs the check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mkd_det.data.formats import images
from mkd_det.errors import ImageError


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused(make: Any, tmp_path: Path) -> None:
    path = str(tmp_path / 'a.jpg')
    make(path)
    with pytest.raises(ImageError) as info:
        images.check_images([path], 1)
    assert path in info.value.message
    assert 'no regular file' in info.value.actual


def test_a_file_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise PermissionError(13, 'Permission denied')

    path = str(tmp_path / 'a.png')
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    monkeypatch.setattr(images.np, 'fromfile', forbidden)  # root may read everything
    with pytest.raises(ImageError) as info:
        images.check_images([path], 1)
    assert 'no permission' in info.value.actual
    assert info.value.fix == f'chmod +r {path}'
