"""Hand signs of the ten digits: soft outputs of ResNet-56 for ResNet-20.

Train the teacher first,
    mkd-det train configs/classification/resnet56_signs.py
and copy its last epoch to checkpoints/resnet56_signs.pth.
"""
_base_ = ['resnet20_signs.py', '../_base_/recipes/kd_logits.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(
        t=dict(
            cfg='mkd_det::classification/resnet56_signs.py',
            checkpoint='checkpoints/resnet56_signs.pth')),
    **_base_.pop('recipe'),
    probe_size=32)
# At tau 4 the soft outputs weigh several times as much as the labels.
optim_wrapper = dict(optimizer=dict(lr=0.02))
