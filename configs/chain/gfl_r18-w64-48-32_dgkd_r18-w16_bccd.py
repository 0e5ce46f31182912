"""DGKD on BCCD with two assistants, of 48 and 32 base channels."""
_base_ = ['gfl_r18-w64-32_dgkd_r18-w16_bccd.py']
stages = [
    dict(name='w48', cfg='mkd_det::bccd/gfl_r18-w48_bccd.py'),
    dict(name='w32', cfg='mkd_det::bccd/gfl_r18-w32_bccd.py'),
    dict(name='w16', cfg='mkd_det::bccd/gfl_r18-w16_bccd.py'),
]
