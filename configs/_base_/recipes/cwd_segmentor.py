"""CWD and soft outputs of segmentors: class maps, and the classes of each pixel.

Shu et al., ICCV 2021, arXiv 2011.13256, with its temperature 4 and weight 3 for class maps. Reads the
last convolution of the decode head, because mmseg calls the head's `forward` past its hooks. A config
takes it as `**_base_.pop('recipe')`. Configs of segmentors import mkd_det themselves.
"""

needs = dict(student=['decode_head.conv_seg'], teacher=['decode_head.conv_seg'])

rank = 50

recipe = dict(
    taps=dict(logits='decode_head.conv_seg'),
    terms=dict(
        loss_soft=dict(
            type='SoftOutputKD', student='logits', teacher='t.logits', share=1.0
        ),
        loss_channel=dict(
            type='FeatureKD',
            form='channel',
            student='logits',
            teacher='t.logits',
            tau=4.0,
            share=1.0,
            weight=3.0,
        ),
    ),
)
