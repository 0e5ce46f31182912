"""The chains that measure_chain.py compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from measuring import BOX_MAP, TOP1, Metric

CHAINS = 'mkd_det::chain'
SQUARE = f'{CHAINS}/resnet56-44-32_dgkd_resnet20_cifar10.py'
PARALLEL = f'{CHAINS}/resnet56-32_rows_resnet20_cifar10.py'
ONE = f'{CHAINS}/gfl_r18-w64-32_dgkd_r18-w16_bccd.py'
TWO = f'{CHAINS}/gfl_r18-w64-48-32_dgkd_r18-w16_bccd.py'


@dataclass(frozen=True)
class Variant:
    """A variant of a chain, or a student alone.

    Args:
        chain: The chain file; the config of a student that is trained alone.
        changes: Changes of the chain.
        last: Changes of its last stage.
        only: Assistants that are kept; None for all.
        given: Members that another row has trained: their names, and that row.
        options: Of a student that is trained alone.
    """

    chain: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    only: Sequence[str] | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """Chains that are compared.

    Args:
        title: Title of the page.
        rows: Variants by name.
        metric: The metric that counts.
        weights: File of each member that is given, in the folder of the weights.
        data: 'cifar10', 'bccd', or a data set of small images, which is measured on its
            test split without choosing anything.
    """

    title: str
    rows: Mapping[str, Variant]
    metric: Metric = TOP1
    weights: Mapping[str, str] = field(default_factory=dict)
    data: str = 'cifar10'


PREVIOUS = {'guides': 'previous'}
DENSE_1, DENSE_2 = 'one assistant, dense', 'two assistants, dense'


def small_images(
    title: str, data: str, chain: str, members: Sequence[str], **backbone: Any
) -> Experiment:
    """Return a whole chain with one assistant on small images, and its comparison.

    Args:
        title: Title of the page.
        data: The data set.
        chain: The chain file.
        members: Names of root and assistant, which the first row trains for all.
        **backbone: Of the student, alone.
    """
    file = f'{CHAINS}/{chain}.py'
    root, assistant = members
    given = {root: 'DGKD', assistant: 'DGKD'}
    alone = {f'model.backbone.{key}': value for key, value in backbone.items()}
    rows = {
        'alone': Variant(f'mkd_det::classification/resnet56_{data}.py', options=alone),
        'DGKD': Variant(file),
        'TAKD': Variant(file, PREVIOUS, given=given),
        'from the teacher': Variant(file, only=(), given={root: 'DGKD'}),
        'DGKD, one dropped': Variant(
            file, last=dict(sampling=dict(drop_exact=1)), given=given
        ),
    }
    return Experiment(title, rows, data=data)


EXPERIMENTS = {
    'cifar10': Experiment(
        'Chains on CIFAR-10',
        {
            'from the teacher': Variant(SQUARE, only=()),
            'TAKD': Variant(SQUARE, PREVIOUS),
            'DGKD': Variant(SQUARE),
            'DGKD, each kept with 0.75': Variant(
                SQUARE, last=dict(sampling=dict(keep_prob=0.75))
            ),
            'DGKD, one dropped': Variant(
                SQUARE, last=dict(sampling=dict(drop_exact=1))
            ),
        },
        weights={
            't56': 'resnet56-cifar10jpeg.pth',
            'a44': 'resnet44-cifar10jpeg.pth',
            'a32': 'resnet32-cifar10jpeg.pth',
        },
    ),
    'rows': Experiment(
        'Filters along rows',
        {
            'alone': Variant('mkd_det::classification/resnet20-rows_cifar10.py'),
            'from the teacher': Variant(PARALLEL, only=()),
            'from parallel assistants': Variant(PARALLEL),
        },
        weights={'t56': 'resnet56-cifar10jpeg.pth'},
    ),
    'bccd': Experiment(
        'Chains on BCCD',
        {
            'no assistant': Variant(ONE, only=()),
            DENSE_1: Variant(ONE),
            'one assistant, previous': Variant(ONE, PREVIOUS, given={'w32': DENSE_1}),
            DENSE_2: Variant(TWO),
            'two assistants, previous': Variant(TWO, PREVIOUS, given={'w48': DENSE_2}),
        },
        # A chain names its metric as the log does, without `coco/`.
        Metric('bbox_mAP', BOX_MAP.title),
        {'w64': 'gfl_r18-w64_bccd.pth'},
        'bccd',
    ),
    'whole': Experiment(
        'A chain from its root',
        {
            'DGKD': Variant(SQUARE),
            'TAKD': Variant(SQUARE, PREVIOUS, given={'t56': 'DGKD', 'a44': 'DGKD'}),
            'from the teacher': Variant(SQUARE, only=(), given={'t56': 'DGKD'}),
        },
    ),
    'wrn': small_images(
        'WideResNets on hand signs',
        'signs',
        'wrn40-2-16-2_dgkd_wrn16-1_signs',
        ('w40', 'w16x2'),
        type='CifarWideResNet',
        depth=16,
        widen=1,
    ),
    'vgg': small_images(
        'VGGs on clothes',
        'clothing',
        'vgg16-13_dgkd_vgg8_clothing',
        ('v16', 'v13'),
        type='CifarVGG',
        depth=8,
        base_channels=16,
    ),
    'gap': small_images(
        'A large gap on hand signs',
        'signs',
        'resnet56-20_dgkd_resnet8_signs',
        ('t56', 'a20'),
        depth=8,
    ),
}
