"""The version of mkd_det, and the check of installed packages."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from .errors import EnvironmentVersionError

__version__ = '0.2.0'

# Import name, distributions that provide it, lowest version, what to install.
_NEEDED = (
    ('torch', ('torch',), '2.6', 'torch>=2.6'),
    ('mmengine', ('onedl-mmengine', 'mmengine'), '0.10.7', 'onedl-mmengine>=0.10.12'),
    ('mmcv', ('onedl-mmcv', 'mmcv'), '2.1.0', 'onedl-mmcv>=2.3.6'),
    ('mmdet', ('onedl-mmdetection', 'mmdet'), '3.3.0', 'onedl-mmdetection>=3.5.1'),
)


def check_versions() -> None:
    """Raise EnvironmentVersionError if a package is too old or mmcv is broken."""
    for name, distributions, lowest, install in _NEEDED:
        found = next((v for d in distributions if (v := _version(d))), None)
        if found is not None and Version(found) < Version(lowest):
            raise EnvironmentVersionError(
                f'{name} is too old',
                expected=f'{lowest} or newer',
                actual=found,
                fix=f"pip install '{install}'",
            )
    try:
        import_module('mmcv._ext')
    except ImportError as error:
        raise EnvironmentVersionError(
            'mmcv was built without its operators, or for another torch',
            expected='`import mmcv._ext` to work',
            actual=str(error).splitlines()[0],
            fix='pip install --no-build-isolation --no-cache-dir --force-reinstall'
            ' --no-deps onedl-mmcv   (after torch, setuptools<81, wheel, ninja)',
        ) from None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
