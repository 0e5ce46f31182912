"""Knowledge distillation for MMDetection 3.x: big detectors teach small ones.

`custom_imports = dict(imports=['mkd_det'])` in a config makes `Distiller`, its
losses, adapters, branches and hooks known to mmengine.
"""

from . import adapters, branches, losses
from .distiller import Distiller
# HOOKS-PENDING from .hooks import DistillHook
from .version import __version__, check_versions

check_versions()

__all__ = [
    'DistillHook',
    'Distiller',
    '__version__',
    'adapters',
    'branches',
    'hooks',
    'losses',
]
