"""How mmengine finds us: `mkd_det::` config names and the scope they bring.

mmengine fixes this module's name and that of `register_all_modules`.
"""

from __future__ import annotations

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

SCOPE = 'mkd_det'


def register_scope() -> None:
    """Make 'mkd_det::...' a config name and 'mkd_det' a scope. Idempotent.

    What a config takes from a `mkd_det::` base is built in our scope. Each registry
    of that scope is a child of mmdet's and finds there what mmdet has, and what we
    put into mmengine's own registries: `Distiller`, classifiers and their data.
    """
    if SCOPE in MODULE2PACKAGE:
        return
    MODULE2PACKAGE[SCOPE] = SCOPE
    for parent in list(vars(mmdet.registry).values()):
        if isinstance(parent, Registry) and parent.scope == 'mmdet':
            # The parent's locations: looking something up in a parent does not
            # make mmengine import what the parent would register.
            Registry(
                parent.name, parent=parent, scope=SCOPE, locations=parent._locations
            )


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register mmdet's modules; ours were with the import of this package.

    mmengine calls it for `get_model`.

    Args:
        init_default_scope: Make 'mmdet' the default scope, as configs expect.
    """
    from mmdet.utils import register_all_modules as register_mmdet

    register_mmdet(init_default_scope)
