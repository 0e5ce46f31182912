"""Knowledge distillation for MMDetection 3.x: big detectors teach small ones.

`custom_imports = dict(imports=['mkd_det'])` in a config makes `Distiller`, its
losses, adapters, branches and hooks known to mmengine.
"""

from . import adapters, branches, hooks, losses
from .distiller import Distiller
from .hooks import DistillHook
from .utils import join_mmengine
from .version import __version__, check_versions

check_versions()
join_mmengine()

__all__ = [
    'DistillHook',
    'Distiller',
    '__version__',
    'adapters',
    'branches',
    'hooks',
    'losses',
]
