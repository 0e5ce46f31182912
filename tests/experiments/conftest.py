"""Fixtures for the tests of experiments."""

from __future__ import annotations

import pytest
from yapf.yapflib import yapf_api


@pytest.fixture(autouse=True)
def _plain_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write configs unformatted: yapf takes longer than everything else here."""
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **_: (text, True))
