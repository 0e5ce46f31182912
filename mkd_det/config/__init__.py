"""The distill config: typed, frozen, parsed once.

`DistillConfig.parse` makes it from the arguments of `Distiller`. All checks that need
no model happen here; the planner checks what needs the models.
"""

from .distill import BESIDE, DistillConfig
from .parts import (
    PROBE_SIDES,
    AdapterConfig,
    BalanceConfig,
    BranchConfig,
    Match,
    ProbeConfig,
    SamplingConfig,
    TapText,
    TermConfig,
    UnlabeledConfig,
)
from .teachers import (
    INHERIT_EXAMPLE,
    InheritConfig,
    Speed,
    TeacherConfig,
    TeacherWeightsConfig,
)

__all__ = [
    'AdapterConfig',
    'BESIDE',
    'BalanceConfig',
    'BranchConfig',
    'DistillConfig',
    'INHERIT_EXAMPLE',
    'InheritConfig',
    'Match',
    'PROBE_SIDES',
    'ProbeConfig',
    'SamplingConfig',
    'Speed',
    'TapText',
    'TeacherConfig',
    'TeacherWeightsConfig',
    'TermConfig',
    'UnlabeledConfig',
]
