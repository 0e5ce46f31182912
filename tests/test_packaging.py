"""Installing the package: requirements, the environment of `make`, `mim train`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import venv
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import setuptools
from mmengine.config import Config
from packaging.requirements import Requirement

import mkd_det.packaged

ROOT = Path(__file__).resolve().parents[1]
SETUP_ENV = ROOT / 'scripts' / 'setup_env.py'


def setup_py(folder: Path, *command: str, python: str = sys.executable) -> None:
    """Run setup.py of a folder, with this environment's setuptools."""
    site_packages = str(Path(setuptools.__file__).parents[1])
    subprocess.run(
        [python, 'setup.py', '-q', *command],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': site_packages},
        check=True,
        capture_output=True,
    )


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The files that setup.py reads, without the package."""
    folder = tmp_path / 'sources'
    (folder / 'mkd_det').mkdir(parents=True)
    for name in ('setup.py', 'pyproject.toml', 'mkd_det/version.py'):
        (folder / name).write_text((ROOT / name).read_text())
    return folder


@pytest.mark.parametrize('original', [True, False])
def test_requirements_fit_what_is_installed(
    original: bool, sources: Path, tmp_path: Path
) -> None:
    """OpenMMLab's originals hold the same modules as the forks that we name: pip must
    not write one over the other."""
    venv.create(tmp_path / 'venv', with_pip=False)
    (packages,) = (tmp_path / 'venv' / 'lib').glob('python*/site-packages')
    versions = dict(mmcv='2.1.0', mmengine='0.10.7', mmdet='3.3', mmpretrain='1.2.0')
    for name, version in versions.items():
        info = packages / f'{name}-{version}.dist-info'
        if original:
            info.mkdir()
            (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
    python = str(tmp_path / 'venv' / 'bin' / 'python')
    setup_py(sources, 'egg_info', '--egg-base', str(tmp_path), python=python)
    lines = (tmp_path / 'mkd_det.egg-info' / 'requires.txt').read_text().split('\n')
    needed = {Requirement(line).name for line in lines[: lines.index('')] if line}
    ours = {'onedl-mmcv', 'onedl-mmengine', 'onedl-mmdetection'}
    theirs = {'mmcv', 'mmengine', 'mmdet'}
    assert needed & (ours | theirs) == (theirs if original else ours)
    extra = lines[lines.index('[openmmlab]') :]
    assert ('mmpretrain>=1.2' in extra) == original
    assert ('onedl-mmpretrain>=1.3.6' in extra) != original
    assert 'onedl-mmsegmentation>=1.4.2' in extra


def test_constraints_pin_every_requirement_exactly() -> None:
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith('#')]
    assert all(re.fullmatch(r'==[^*]+', str(pin.specifier)) for pin in pins)
    names = [pin.name.lower() for pin in pins]
    assert len(names) == len(set(names))
    needed = {Requirement(line).name.lower() for line in requires('mkd_det') or ()}
    # In an environment with OpenMMLab's originals, these are asked for.
    originals = {'mmcv', 'mmengine', 'mmdet', 'mmpretrain', 'mmsegmentation'}
    assert needed - originals <= set(names)


# -- the environment of `make` -------------------------------------------------


@pytest.fixture
def setup_env() -> ModuleType:
    """`scripts/setup_env.py` as a module."""
    spec = importlib.util.spec_from_file_location('setup_env', SETUP_ENV)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_setup_says_what_to_install_when_there_is_no_compiler(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SETUP_ENV, '--venv', tmp_path / 'new'],
        env={'PATH': '/nowhere'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert 'apt-get install -y g++' in done.stderr
    assert not (tmp_path / 'new').exists()


def test_a_second_setup_does_nothing(
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


# -- names of packaged configs: mmengine's, and mim's --------------------------


# What `mim train mkd_det NAME` would run, for a list of names. pandas is for
# `mim search` alone.
MIM_TRAIN = """
import importlib, json, sys, types
sys.modules['pandas'] = types.SimpleNamespace(DataFrame=None, Series=None)
mim = importlib.import_module('mim.commands.train')
checkout, *names = json.loads(sys.argv[1])
root = mim.get_installed_path('mkd_det')
mim.get_installed_path = lambda package: checkout
commands = []
mim.click.echo = lambda text: None
mim.subprocess.check_output = lambda command: b''
mim.subprocess.check_call = lambda command, **_: commands.append(command) or 0
for name in names:
    mim.train('mkd_det', name, gpus=0, other_args=('--work-dir', 'run'))
print(json.dumps([root, commands]))
"""


def test_mim_finds_every_config_once_in_an_editable_install(
    sources: Path, tmp_path: Path
) -> None:
    """mim searches the whole checkout, through links, for a file of that name."""
    mim = Path(sys.prefix) / 'mim'
    if not mim.is_dir():
        pytest.skip('no mim here; `make env` installs it')
    for name in ('configs', 'tools', 'model-index.yml'):
        (sources / name).symlink_to(ROOT / name)
    (sources / 'mkd_det/__init__.py').touch()
    # What an editable install leaves in the checkout.
    setup_py(sources, 'editable_wheel', '--dist-dir', str(tmp_path / 'dist'))
    assert (sources / 'mkd_det/.mim/model-index.yml').is_file()
    configs = sorted((ROOT / 'configs').glob('[!_]*/**/*.py'))
    given = json.dumps([str(sources), *(config.name for config in configs)])
    done = subprocess.run(
        [sys.executable, '-c', MIM_TRAIN, given],
        env={**os.environ, 'PYTHONPATH': str(mim)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    root, commands = json.loads(done.stdout)
    assert root == str(ROOT)
    tool = str(sources / 'tools/train.py')
    rest = ['--launcher', 'none', '--work-dir', 'run']
    assert [c[1:] for c in commands] == [[tool, str(c), *rest] for c in configs]


def test_packaged_names_are_configs_of_the_checkout() -> None:
    from mmengine.hub import get_config

    name = 'bccd/gfl_r18-w16_bccd.py'
    file = mkd_det.packaged.configs_folder() / name
    assert file == ROOT / 'configs' / name
    assert get_config(f'mkd_det::{name}').model == Config.fromfile(file).model
    # As a base, and beside those of mmdet.
    bases = [f'mkd_det::{name}', 'mmdet::_base_/default_runtime.py']
    for base in bases:
        path, scope = Config._get_cfg_path(base, 'config.py')
        assert Path(path).is_file() and scope == base.partition('::')[0]


def test_a_packaged_name_that_is_missing_is_told() -> None:
    from mkd_det.config_files.reading import read_config
    from mkd_det.errors import ConfigError

    with pytest.raises(ConfigError):
        read_config('mkd_det::bccd/none.py')


def test_an_installed_package_has_its_configs_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mkd_det.packaged, 'PACKAGE', tmp_path / 'mkd_det')
    installed: Any = tmp_path / 'mkd_det/.mim/configs'
    installed.mkdir(parents=True)
    assert mkd_det.packaged.configs_folder() == installed
