"""The student of the BCCD pair with a backbone of 1xK filters."""
_base_ = ['gfl_r18-w16_bccd.py']
model = dict(_delete_=True, type='RowModel', model={{_base_.model}}, on='backbone')
