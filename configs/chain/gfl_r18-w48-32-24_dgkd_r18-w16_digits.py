"""A chain of detectors on the demo's digits: `make demo` makes them first.

    DIGITS_ROOT=work_dirs/demo/digits mkd-det chain \\
        configs/chain/gfl_r18-w48-32-24_dgkd_r18-w16_digits.py
"""
_base_ = ['../_base_/recipes/mkd_dense.py']
root = dict(name='w48', cfg='mkd_det::demo/gfl_r18-w48_digits.py')
stages = [
    dict(
        name='w32',
        cfg='mkd_det::demo/gfl_r18-w48_digits.py',
        options={
            'model.backbone.base_channels': 32,
            'model.neck.in_channels': [32, 64, 128, 256]
        }),
    dict(
        name='w24',
        cfg='mkd_det::demo/gfl_r18-w48_digits.py',
        options={
            'model.backbone.base_channels': 24,
            'model.neck.in_channels': [24, 48, 96, 192]
        }),
    dict(name='w16', cfg='mkd_det::demo/gfl_r18-w16_digits.py'),
]
