"""M-KD on BCCD without exploration: the three kinds of knowledge, and features
through the guidance layers. Data and teacher as for the whole."""

_base_ = ['../gfl_mkd_r18-w64_r18-w16_bccd.py']
model = dict(
    adapters=dict(guide_fpn=dict(student='fpn')),
    branches=dict(_delete_=True))
