"""Loss aggregation on BCCD, on the labels too: the student is an ATSS, whose
`loss_cls` is binary cross entropy and focal loss together. Data and teacher as for
the whole."""

_base_ = ['aggregated_soft.py']
losses = [dict(type='BinaryCE'), dict(type='Focal', use_sigmoid=True)]
model = dict(
    student=dict(
        type='ATSS',
        bbox_head=dict(
            _delete_=True,
            type='ATSSHead',
            num_classes=3,
            in_channels=32,
            feat_channels=32,
            stacked_convs=1,
            anchor_generator={{_base_.model.student.bbox_head.anchor_generator}},
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder',
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(
                type='LossAggregation',
                use_sigmoid=True,
                losses=losses,
                weights=[0.1, 1.0]),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            loss_centerness=dict(
                type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0))))
