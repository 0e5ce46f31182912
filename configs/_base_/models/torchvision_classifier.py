"""torchvision's ResNet-18, for ImageNet."""
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClassifierPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375]),
    backbone=dict(type='TorchvisionBackbone', name='resnet18'),
    num_classes=1000)
