"""Knowledge distillation for MMDetection 3.x: big detectors teach small ones.

`custom_imports = dict(imports=['mkd_det'])` in a config makes `Distiller`, its
losses, adapters, branches and hooks known to mmengine, and the image classifiers.
"""

from .startup import is_postponed
from .version import __version__, check_versions

if not is_postponed():  # the command line parses its arguments first
    check_versions()  # before anything of ours imports what it checks

    from .io.quiet import quiet_import

    with quiet_import():
        from . import adapters, branches, classification, hooks, losses, probes
        from .contrib import row_conv
        from .weighting import gradient_share as balance
    from .distiller.model import Distiller
    from .hooks.distill_hook import DistillHook
    from .utils import register_scope

    register_scope()

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
