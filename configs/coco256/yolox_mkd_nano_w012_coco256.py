"""M-KD on 256 images of COCO: YOLOX-nano teaches a YOLOX of half its widths.

The teacher is mmdet's own config. mmdet publishes no weights for it: those of
https://github.com/Kazuhito00/YOLOX-ONNX-TFLite-Sample (Apache-2.0, batch norms folded), converted
to a state dict of that config, go to checkpoints/yolox-nano-coco.pth.
"""

_base_ = ['yolox-w012_coco256.py', '../_base_/recipes/mkd_csp_dense.py']
model = dict(
    _delete_=True,
    type='Distiller',
    student={{_base_.model}},
    teachers=dict(t=dict(
        cfg='mmdet::yolox/yolox_nano_8xb8-300e_coco.py',
        checkpoint='checkpoints/yolox-nano-coco.pth')),
    **_base_.pop('recipe'))
default_hooks = dict(teacher_check=dict(type='TeacherCheckHook', num_images=None))
