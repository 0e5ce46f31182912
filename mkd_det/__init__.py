"""Knowledge distillation for MMDetection 3.x: big detectors teach small ones.

`custom_imports = dict(imports=['mkd_det'])` in a config makes `Distiller`, its
losses, adapters, branches and hooks known to mmengine, and the image classifiers.
"""

from .version import __version__, check_versions

check_versions()  # before anything of ours imports what it checks

from .quiet import quiet_import  # noqa: E402

with quiet_import():
    from . import (
        adapters,
        balance,
        branches,
        classification,
        hooks,
        losses,
        probes,
        row_conv,
    )
from .distiller import Distiller  # noqa: E402
from .hooks import DistillHook  # noqa: E402
from .utils import join_mmengine  # noqa: E402

join_mmengine()

__all__ = [
    'DistillHook',
    'Distiller',
    '__version__',
    'adapters',
    'balance',
    'branches',
    'classification',
    'hooks',
    'losses',
    'probes',
    'row_conv',
]
