"""The wheel is complete: everything works from it, with no checkout in reach."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from mkd_det.experiments.runs import read_history
from mkd_det.experiments.runs.history import BOX_MAP
from tooling import distiller_cfg, plain_dumps, student_cfg, write_config

ROOT = Path(__file__).resolve().parents[1]
# Runs commands, given as lists in json, one after the other in one process.
DRIVER = """
import json, sys
from pathlib import Path
import mkd_det
site, *commands = json.loads(sys.argv[1])
assert Path(mkd_det.__file__).is_relative_to(site), mkd_det.__file__
from mkd_det.cli import main
for command in commands:
    if code := main(command):
        raise SystemExit(f'{command} ended with {code}')
"""

# Two stages, taught by a recipe of the package. Random teachers are no better than
# chance, which is told to nobody here.
CHAIN = """
_base_ = ['mkd_det::_base_/recipes/soft_dense.py']
options = {'default_hooks.teacher_check': None}
root = dict(name='t', cfg='teacher.py', checkpoint='teacher.pth')
stages = [
    dict(name='a', cfg='assistant.py', options=options),
    dict(name='s', cfg='student.py', options=options),
]
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from links to the sources: nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp('build')
    sources = folder / 'sources'
    (sources / 'mkd_det').mkdir(parents=True)
    for name in ('configs', 'tools', 'model-index.yml', 'LICENSE', 'README.md'):
        (sources / name).symlink_to(ROOT / name)
    for name in ('setup.py', 'pyproject.toml'):  # these find the folder they are in
        (sources / name).write_text((ROOT / name).read_text())
    for item in (ROOT / 'mkd_det').iterdir():
        if item.name not in ('.mim', '__pycache__'):
            (sources / 'mkd_det' / item.name).symlink_to(item)
    options = ['--no-deps', '--no-build-isolation', '--no-index', '--quiet']
    pip = [sys.executable, '-m', 'pip', 'wheel', *options]
    subprocess.run([*pip, '--wheel-dir', folder, sources], check=True)
    (file,) = folder.glob('mkd_det-*.whl')
    return file


def test_the_wheel_brings_package_configs_and_launchers(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (n for n in names if n.endswith('entry_points.txt'))
        assert 'mkd-det = mkd_det.cli:main' in archive.read(entry_points).decode()
    shipped = [*(ROOT / 'configs').rglob('*.py'), *(ROOT / 'tools').glob('*.*')]
    wanted = {f'mkd_det/.mim/{file.relative_to(ROOT)}' for file in shipped}
    assert wanted | {'mkd_det/.mim/model-index.yml', 'mkd_det/py.typed'} <= names
    modules = {str(f.relative_to(ROOT)) for f in (ROOT / 'mkd_det').rglob('*.py')}
    assert modules <= names, 'a package without __init__.py?'
    # Nothing else: no benchmarks, docs, scripts, tests.
    assert {name.partition('/')[0].partition('-')[0] for name in names} == {'mkd_det'}


def start(site: Path, cwd: Path, *commands: Sequence[str]) -> subprocess.Popen:
    """Run commands one after the other, with the unpacked wheel as the only mkd_det."""
    log = open(cwd / 'log.txt', 'w')  # noqa: SIM115
    return subprocess.Popen(
        [sys.executable, '-c', DRIVER, json.dumps([str(site), *map(list, commands)])],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(site), 'CUDA_VISIBLE_DEVICES': ''},
        stdout=log,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.commands
def test_commands_work_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    for extra in ('sklearn', 'skimage', 'matplotlib'):
        pytest.importorskip(extra, reason='needs the demo extra')
    site, here, demo = (tmp_path / name for name in ('site', 'here', 'demo'))
    here.mkdir()
    demo.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    data = tiny.write_coco(here / 'coco')
    given = tiny.gfl(16, 24)
    given['test_cfg']['score_thr'] = 0.0  # it is tested: it must detect something
    models = dict(
        teacher=given,
        assistant=tiny.gfl(12, 16),
        student=student_cfg(),
        taught=distiller_cfg('teacher.pth'),
    )
    with plain_dumps():
        for name, model in models.items():
            write_config(here / f'{name}.py', model, data, here / name)
    tiny.write_checkpoint(models['teacher'], here / 'teacher.pth')
    (here / 'chain.py').write_text(CHAIN)
    running = [
        start(
            site,
            here,
            ['train', 'student.py', '--work-dir', 'train'],
            ['compare', 'taught.py', '--base', 'student.py', '--seeds', '0'],
            ['chain', 'chain.py', '--work-dir', 'chain'],
        ),
        start(site, demo, *[['demo', '--quick', '--work-dir', 'work']] * 2),
    ]
    codes = [process.wait() for process in running]
    logs = [(folder / 'log.txt').read_text() for folder in (here, demo)]
    assert codes == [0, 0], '\n'.join(logs)[-5000:]

    assert (here / 'train/epoch_1.pth').is_file()
    report = json.loads((here / 'work_dirs/compare/report/report.json').read_text())
    assert len(report['rows']) == 2
    members = json.loads((here / 'chain/chain.json').read_text())
    assert [member['name'] for member in members] == ['t', 'a', 's']
    assert (here / 'chain/students/s.pth').is_file()
    check_demo_results(demo / 'work')
    check_demo_page(demo / 'work')
    # The second time there is nothing left to train.
    assert logs[1].count('already finished') == 3
    for name in ('mkd_det', 'configs', 'tools'):
        assert str(ROOT / name) not in ''.join(logs)


def check_demo_results(folder: Path) -> None:
    runs = json.loads((folder / 'results.json').read_text())['runs']
    assert [run['name'] for run in runs] == ['teacher', 'student', 'mkd']
    for run in runs:
        assert 0 <= run['box_map'] <= run['box_map_50'] <= 1
        assert math.isfinite(run['seconds']) and run['seed'] == 0
        assert 'python -m mkd_det train mkd_det::demo/' in run['command']
        history = read_history(folder / run['name'])
        assert sorted(history.losses) == [1, 2, 3, 4, 5, 6]
        assert all(math.isfinite(loss) for loss in history.losses.values())
        last = history.metrics[max(history.metrics)]
        assert last.get(BOX_MAP, 0.0) == run['box_map']
        assert history.losses[6] < history.losses[1]  # it learns something
    teacher, student, mkd = runs
    assert teacher['params'] > 5 * student['params']
    assert student['params'] == mkd['params']
    losses = [tuple(read_history(folder / r['name']).losses.values()) for r in runs]
    assert len(set(losses)) == 3


def check_demo_page(folder: Path) -> None:
    page = (folder / 'index.html').read_text()
    links = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert links == {'detections.png', 'curves.png', 'results.json'}
    for name in links:
        assert (folder / name).stat().st_size > 0
    for name in ('detections.png', 'curves.png'):
        pixels = np.asarray(Image.open(folder / name).convert('L'))
        assert min(pixels.shape) > 400
        assert pixels.std() > 10
    for title in ('teacher', 'student alone', '<strong>student with M-KD</strong>'):
        assert f'>{title}</td>' in page
