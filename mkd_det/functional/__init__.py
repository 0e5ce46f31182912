"""Pure tensor functions: one formula each, no modules, no state.

These functions do not detach, weight or average over levels; `losses/` does that.
Swap the arguments `student` and `teacher` only where the formula is symmetric.
"""

from .boxes import (
    box_cells,
    box_distribution_kl,
    boxes_of_class,
    giou_distance,
    localisation_regions,
    relative_l1,
)
from .features import (
    as_map,
    attention_map,
    channel_kl,
    channel_standardise,
    decorrelation,
    fsp_matrix,
    l2_normalize,
    pool_to,
    pool_to_smaller,
    spatial_distance,
    weighted_average,
    weighted_mean,
)
from .logits import (
    binary_kl,
    class_factors,
    decoupled_kl,
    difficulty,
    effective_number_weights,
    joint_logit,
    logit_rows,
    merged_logits,
    normalized_ranks,
    pearson_distance,
    quality_bce,
    sigmoid_focal,
    softmax_focal,
    softmax_kl,
)

__all__ = [
    'as_map',
    'attention_map',
    'binary_kl',
    'box_cells',
    'box_distribution_kl',
    'boxes_of_class',
    'channel_kl',
    'channel_standardise',
    'class_factors',
    'decorrelation',
    'decoupled_kl',
    'difficulty',
    'effective_number_weights',
    'fsp_matrix',
    'giou_distance',
    'joint_logit',
    'localisation_regions',
    'relative_l1',
    'pearson_distance',
    'pool_to',
    'pool_to_smaller',
    'quality_bce',
    'normalized_ranks',
    'logit_rows',
    'merged_logits',
    'sigmoid_focal',
    'softmax_focal',
    'softmax_kl',
    'spatial_distance',
    'l2_normalize',
    'weighted_mean',
    'weighted_average',
]
