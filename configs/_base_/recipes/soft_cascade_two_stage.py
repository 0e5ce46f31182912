"""Soft outputs of a cascade that teaches another one: RPN, and classes, boxes and masks
of each stage that both have, up to four.

Stage i of the teacher runs on the proposals of the student's stage i, so the teacher's
cascade runs once. Masks are compared where both models have them. The weights of the
stages are those of the student's own losses; they have not been measured. A config takes
it as `**_base_.pop('recipe')`. For a student of one stage: `soft_two_stage.py`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(
    student=[
        'rpn_head',
        'roi_head.bbox_roi_extractor.0',
        'roi_head.bbox_head.0',
    ],
    teacher=['rpn_head', 'neck'],
    heads={'rpn_head': ['dense', 'sigmoid'], 'roi_head.bbox_head': ['regions']},
)

rank = 45

recipe = dict(
    taps={
        'fpn': 'neck',
        'rpn': 'rpn_head',
        **{f'rois_{n}': f'roi_head.bbox_roi_extractor.{n}:in1' for n in range(4)},
        **{f'box_head_{n}': f'roi_head.bbox_head.{n}' for n in range(4)},
        **{f'mask_rois_{n}': f'roi_head.mask_roi_extractor.{n}:in1' for n in range(4)},
        **{f'masks_{n}': f'roi_head.mask_head.{n}' for n in range(4)},
        **{f'labels_{n}': f'roi_head.bbox_head.{n}.loss_cls:in1' for n in range(4)},
    },
    adapters={
        **{
            f'regions_{n}': dict(
                type='RegionHead', student=f'rois_{n}', teacher='t.fpn', stage=n
            )
            for n in range(4)
        },
        **{
            f'mask_regions_{n}': dict(
                type='ProposalMasks', student=f'mask_rois_{n}', teacher='t.fpn', stage=n
            )
            for n in range(4)
        },
    },
    terms={
        'loss_soft_rpn': dict(
            type='SoftOutputKD',
            student='rpn',
            teacher='t.rpn',
            share=0.3,
            weight=0.08,
        ),
        **{
            f'loss_soft_regions_{n}': dict(
                type='ProposalKD',
                student=f'box_head_{n}',
                teacher=f'regions_{n}.teacher',
                share=0.6 * 0.5**n,
                weight=0.5**n,
                # The first stage is what makes it a cascade.
                **(dict(only_with=[f'roi_head.bbox_head.{n}']) if n else {}),
            )
            for n in range(4)
        },
        **{
            f'loss_soft_masks_{n}': dict(
                type='ProposalMaskKD',
                student=f'masks_{n}',
                teacher=f'mask_regions_{n}.teacher',
                labels=f'labels_{n}',
                share=0.5**n,
                weight=0.5**n,
                only_with=[
                    f'roi_head.mask_head.{n}.conv_logits',
                    f'roi_head.mask_roi_extractor.{n}',
                ],
            )
            for n in range(4)
        },
    },
)
