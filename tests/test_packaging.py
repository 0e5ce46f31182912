"""The package brings its configs and tools, and pip leaves what is there alone."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Links to what a build needs, so that it leaves nothing in the checkout."""
    folder = tmp_path / 'sources'
    (folder / 'mkd_det').mkdir(parents=True)
    for name in ('configs', 'tools', 'model-index.yml', 'setup.py', 'pyproject.toml'):
        (folder / name).symlink_to(ROOT / name)
    for item in (ROOT / 'mkd_det').iterdir():
        if item.name not in ('.mim', '__pycache__'):
            (folder / 'mkd_det' / item.name).symlink_to(item)
    return folder


def setup_py(sources: Path, *command: str, python: str = sys.executable) -> None:
    # The folder of the links, not of the file that a link leads to.
    code = f'__file__ = {str(sources / "setup.py")!r}; exec(open(__file__).read())'
    site_packages = str(Path(setuptools.__file__).parents[1])
    subprocess.run(
        [python, '-c', f'import sys; sys.argv[0] = "setup.py"; {code}', *command],
        cwd=sources,
        env={**os.environ, 'PYTHONPATH': site_packages},
        check=True,
        capture_output=True,
    )


def test_wheel_brings_configs_and_tools(sources: Path, tmp_path: Path) -> None:
    setup_py(sources, '-q', 'bdist_wheel', '--dist-dir', str(tmp_path))
    (wheel,) = tmp_path.glob('*.whl')
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [*(ROOT / 'configs').rglob('*.py'), *(ROOT / 'tools').glob('*.*')]
    wanted = {f'mkd_det/.mim/{file.relative_to(ROOT)}' for file in shipped}
    assert wanted | {'mkd_det/.mim/model-index.yml'} <= names
    modules = {str(f.relative_to(ROOT)) for f in (ROOT / 'mkd_det').rglob('*.py')}
    modules = {name for name in modules if '.mim' not in name}
    assert modules <= names, 'a package without __init__.py?'
    assert not [name for name in names if name.startswith(('tests', 'configs'))]


@pytest.mark.parametrize('original', [True, False])
def test_requirements_fit_what_is_installed(
    original: bool, sources: Path, tmp_path: Path
) -> None:
    """OpenMMLab's originals hold the same modules as the forks that we name: pip
    must not write one over the other."""
    venv.create(tmp_path / 'venv', with_pip=False)
    (packages,) = (tmp_path / 'venv' / 'lib').glob('python*/site-packages')
    for name, version in (('mmcv', '2.1.0'), ('mmengine', '0.10.7'), ('mmdet', '3.3')):
        info = packages / f'{name}-{version}.dist-info'
        if original:
            info.mkdir()
            (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
    python = str(tmp_path / 'venv' / 'bin' / 'python')
    setup_py(sources, '-q', 'egg_info', '--egg-base', str(tmp_path), python=python)
    lines = (tmp_path / 'mkd_det.egg-info' / 'requires.txt').read_text().split('\n')
    needed = {Requirement(line).name for line in lines[: lines.index('')] if line}
    ours = {'onedl-mmcv', 'onedl-mmengine', 'onedl-mmdetection'}
    theirs = {'mmcv', 'mmengine', 'mmdet'}
    assert needed & (ours | theirs) == (theirs if original else ours)


@pytest.fixture
def setup_env() -> ModuleType:
    """`tools/setup_env.py` as a module."""
    spec = importlib.util.spec_from_file_location(
        'setup_env', ROOT / 'tools' / 'setup_env.py'
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_setup_says_what_to_install_when_there_is_no_compiler(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'setup_env.py', '--venv', tmp_path / 'new'],
        env={'PATH': '/nowhere'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert 'apt-get install -y g++' in done.stderr
    assert not (tmp_path / 'new').exists()


def test_second_setup_does_nothing(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'mkd_det.stamp').write_text(setup_env.fingerprint())
    monkeypatch.setattr(sys, 'argv', ['setup_env.py', '--venv', str(tmp_path)])
    assert setup_env.main() == 0
    assert [file.name for file in tmp_path.iterdir()] == ['mkd_det.stamp']


def test_setup_leaves_a_torch_that_was_there(
    setup_env: ModuleType, tmp_path: Path
) -> None:
    env = setup_env.Environment(tmp_path)
    there = ['torch==2.9.0', 'torchvision==0.24.0']
    setup_env.write_constraints(env, there)
    text = env.constraints.read_text()
    assert re.findall(r'^torch.*', text, re.MULTILINE) == there
    assert not re.search(r'^(triton|nvidia|cuda)', text, re.MULTILINE)
    assert 'onedl-mmdetection==' in text


def test_constraints_pin_every_requirement_exactly() -> None:
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith('#')]
    assert all(re.fullmatch(r'==[^*]+', str(pin.specifier)) for pin in pins)
    pinned = {pin.name.lower() for pin in pins}
    needed = {Requirement(line).name.lower() for line in requires('mkd_det') or ()}
    # In an environment with OpenMMLab's originals, these are asked for.
    assert needed - {'mmcv', 'mmengine', 'mmdet'} <= pinned
