"""FGD: features of the FPN, objects and background apart, and their context.

Yang et al., CVPR 2022, arXiv 2111.11837. A config takes it as `**_base_.pop('recipe')`.
"""

custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)

needs = dict(student=['neck'], teacher=['neck'])

recipe = dict(
    taps=dict(fpn='neck'),
    terms=dict(
        loss_fgd=dict(
            type='FGD', student='fpn', teacher='t.fpn', share=2.8, weight=0.1
        )
    ),
)
