"""A ResNet-20 for images of 32x32 (He et al. 2015, section 4.2)."""
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClassifierPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375]),
    backbone=dict(type='CifarResNet', depth=20),
    num_classes=10)
