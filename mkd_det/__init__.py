"""Knowledge distillation for MMDetection 3.x: big detectors teach small ones.

`custom_imports = dict(imports=['mkd_det'])` in a config registers `Distiller`, the
losses, adapters, branches, hooks and image classifiers. What users build on (a loss
of their own, for example) can be imported from here.
"""

from .startup import is_postponed
from .version import __version__, check_versions

if not is_postponed():  # the command line parses its arguments first
    check_versions()  # before anything of ours imports what it checks

    from .io.quiet import quiet_import

    with quiet_import():
        from . import adapters, branches, classification, heads, hooks, losses, probes
        from .contrib import row_conv
        from .data import patient, unlabeled, unlabeled_digits
        from .weighting import gradient_share as balance
    from .adapters import Adapter
    from .branches import Branch
    from .distiller.model import Distiller
    from .heads import HeadReader
    from .hooks.distill_hook import DistillHook
    from .losses import PairLoss
    from .probes import Probe
    from .registry import ADAPTERS, BRANCHES, HEADS, LOSSES
    from .utils import register_scope

    register_scope()

__all__ = [
    'ADAPTERS',
    'BRANCHES',
    'HEADS',
    'LOSSES',
    'Adapter',
    'Branch',
    'DistillHook',
    'Distiller',
    'HeadReader',
    'PairLoss',
    'Probe',
    '__version__',
    'adapters',
    'balance',
    'branches',
    'classification',
    'heads',
    'hooks',
    'losses',
    'patient',
    'probes',
    'row_conv',
    'unlabeled',
    'unlabeled_digits',
]
