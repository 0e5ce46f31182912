"""The notebook of the documentation runs, on a CPU, to a shipped student."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / 'docs' / 'notebooks' / 'own_data.ipynb'


@pytest.mark.commands
def test_own_data_to_a_shipped_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip('nbclient', reason='pip install nbclient ipykernel')
    pytest.importorskip('ipykernel', reason='pip install nbclient ipykernel')
    import nbformat

    programs = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    monkeypatch.setenv('PATH', programs)
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}{os.pathsep}{tmp_path}')
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get('outputs') for cell in notebook.cells)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}
    )
    client.execute()
    text = '\n'.join(
        output.get('text', '')
        for cell in notebook.cells
        for output in cell.get('outputs', [])
    )
    assert 'loss_soft_cls' in text and 'dynamic: batch, height, width' in text
    assert "'cls_scores_0': (1, 3, " in text
    for name in ('student_config.py', 'student.pth', 'student.onnx'):
        assert (tmp_path / 'shipped' / name).is_file()
    distilled = tmp_path / 'work_dirs/distilled'
    assert (distilled / 'distill/student_last.pth').is_file()
    assert (distilled / 'report/index.html').is_file()
    assert 'Not on the page' not in text
    # It has learned something: two things were found where there are two.
    assert len(re.findall(r'^(?:apple|leaf|brick), 0\.\d\d, \[', text, re.M)) == 2
