"""The wrapper that trains: what it promises of teacher, student and step."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

import tiny
from mkd_det.distiller.model import Distiller
from mkd_det.errors import CheckpointFileError, ConfigError, TeacherError
from mkd_det.heads.running import run_features
from mkd_det.losses import PairLoss
from mkd_det.registry import ADAPTERS, BRANCHES, LOSSES
from mkd_det.structures import Knowledge, first_tensor
from mkd_det.teachers.loading import Teacher


def swin(base: dict[str, Any]) -> dict[str, Any]:
    """`base` with a transformer that drops most of its paths in training."""
    backbone = dict(
        type='SwinTransformer',
        embed_dims=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1),
        window_size=2,
        drop_path_rate=0.8,
    )
    return {**base, 'backbone': backbone}


def optimizer(model: nn.Module, lr: float = 0.01) -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9))


def train(model: Distiller, steps: int, **batch: Any) -> list[dict[str, Tensor]]:
    """Real training steps; what each of them logs."""
    wrapper = optimizer(model)
    model.train()
    batches = (tiny.batch(seed=i, **batch) for i in range(steps))
    return [dict(model.train_step(b, wrapper)) for b in batches]


def losses_of(model: Distiller) -> dict[str, Any]:
    """One training forward, without backward."""
    data = model.data_preprocessor(tiny.batch(), True)
    return model(**data, mode='loss')


def backward(model: Distiller) -> None:
    """Gradients of one step, which an optimizer would drop."""
    total, _ = model.parse_losses(losses_of(model))
    total.backward()


def without_gradient(model: nn.Module) -> list[str]:
    named = model.named_parameters()
    return [name for name, p in named if p.requires_grad and p.grad is None]


def hooks_in(*models: nn.Module) -> int:
    """Number of forward hooks on all modules of the models."""
    modules = (module for model in models for module in model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def frozen(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit, key for key."""
    assert list(one) == list(other)
    differ = [key for key in one if not torch.equal(one[key], other[key])]
    assert not differ


@pytest.fixture
def cfg(student_cfg: dict, teacher_cfg: dict, teacher_file: Path) -> dict[str, Any]:
    return tiny.distiller(student_cfg, teacher_cfg, teacher_file)


@pytest.fixture
def model(cfg: dict[str, Any]) -> Distiller:
    return tiny.build(cfg)


class Watch:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.moments: list[str] = []
        self.student: dict[str, Knowledge] = {}
        self.teachers: dict[str, dict[str, Knowledge]] = {}

    def on_knowledge(self, student: dict, teachers: dict) -> None:
        self.moments.append('knowledge')
        self.student, self.teachers = student, teachers

    def on_terms(self, losses: dict[str, Any]) -> None:
        self.moments.append('terms')
        losses['stat_seven'] = torch.tensor(7.0)


# -- promise 1: the teacher stands outside --------------------------------------


def test_the_teacher_is_in_no_parameters_modules_or_state(
    model: Distiller, student_cfg: dict
) -> None:
    teacher = model.teachers['t'].model
    assert not {*map(id, teacher.modules())} & {*map(id, model.modules())}
    theirs = {*map(id, [*teacher.parameters(), *teacher.buffers()])}
    assert not theirs & {*map(id, [*model.parameters(), *model.buffers()])}
    assert list(model.state_dict()) == list(tiny.build(student_cfg).state_dict())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_teacher_is_in_no_optimizer(model: Distiller) -> None:
    train(model, 1)
    wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1.0))
    )
    trained = {id(p) for group in wrapper.param_groups for p in group['params']}
    teacher = model.teachers['t'].model
    assert not trained & {*map(id, teacher.parameters())}
    assert trained == {*map(id, model.parameters())}
    assert all(p.grad is None for p in teacher.parameters())


def test_an_ema_copy_shares_the_teacher_and_holds_none_of_it(model: Distiller) -> None:
    train(model, 1)
    average = ExponentialMovingAverage(model)
    teacher = model.teachers['t'].model
    assert average.module.teachers['t'].model is teacher
    assert not {*map(id, teacher.parameters())} & {*map(id, average.parameters())}
    assert not {*map(id, model.parameters())} & {*map(id, average.parameters())}
    ours = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in average.module.named_parameters()] == ours
    # Copying is not averaging: the copy's own modules take part in its forward.
    first = next(average.module.student.parameters())
    before = first.clone()
    train(model, 1)
    assert torch.equal(first, before)


@pytest.mark.parametrize('kind', ['resnet', 'swin'])
def test_the_teacher_is_bit_identical_after_three_steps(
    kind: str, student_cfg: dict, teacher_cfg: dict, tmp_path: Path
) -> None:
    teacher_cfg = swin(tiny.gfl(8, 24)) if kind == 'swin' else teacher_cfg
    file = tiny.write_checkpoint(teacher_cfg, tmp_path / 't.pth')
    model = tiny.build(tiny.distiller(student_cfg, teacher_cfg, file))
    teacher = model.teachers['t'].model
    before = frozen(teacher)
    written = torch.load(file)['state_dict']
    assert_same(before, written)
    student = frozen(model)
    train(model, 3)
    assert_same(frozen(teacher), before)
    assert any(not torch.equal(student[k], v) for k, v in model.state_dict().items())


def test_batch_norm_and_drop_path_of_the_teacher_are_off(
    student_cfg: dict, tmp_path: Path
) -> None:
    teacher_cfg = swin(tiny.gfl(8, 24))
    file = tiny.write_checkpoint(teacher_cfg, tmp_path / 't.pth')
    model = tiny.build(tiny.distiller(student_cfg, teacher_cfg, file))
    model.observers.append(watch := Watch())
    model.train()
    seen = []
    for _ in range(2):
        losses_of(model)
        seen.append([level.clone() for level in watch.teachers['t']['stages'].levels])
    plain = tiny.build(teacher_cfg)
    plain.load_state_dict(torch.load(file)['state_dict'])
    inputs = model.data_preprocessor(tiny.batch(), True)['inputs']
    with torch.no_grad():
        expected = plain.eval().backbone(inputs)
        training = plain.train().backbone(inputs)
    for first, second, right in zip(*seen, expected, strict=True):
        assert torch.equal(first, second) and torch.equal(first, right)
    # Which does drop paths when it trains.
    assert not torch.equal(training[-1], expected[-1])


def test_train_never_reaches_the_teacher(model: Distiller) -> None:
    nn.Sequential(model).train()
    assert not any(m.training for m in model.teachers['t'].model.modules())
    model.teachers['t'].model.backbone.train()
    model.teachers['t'].model.train()
    with pytest.raises(TeacherError, match='training mode'):
        losses_of(model)


def test_init_weights_leaves_the_teacher_as_its_file(
    model: Distiller, teacher_file: Path
) -> None:
    model.init_weights()
    model.init_weights()
    assert_same(
        frozen(model.teachers['t'].model), torch.load(teacher_file)['state_dict']
    )


@pytest.mark.parametrize(
    'move',
    [
        lambda m: m.double(),
        lambda m: m.to(torch.float64),
        lambda m: nn.Sequential(m).to(dtype=torch.float64),
        lambda m: nn.Sequential(nn.Sequential(m)).double(),
    ],
)
def test_the_teacher_follows_the_student(model: Distiller, move: Any) -> None:
    move(model)
    teacher = model.teachers['t'].model
    assert {p.dtype for p in teacher.parameters()} == {torch.float64}
    assert teacher.backbone.bn1.running_mean.dtype == torch.float64
    assert all(torch.isfinite(v) for v in train(model, 1)[0].values())


def test_the_teacher_follows_to_another_device(model: Distiller) -> None:
    nn.Sequential(model).to('meta')
    assert {p.device.type for p in model.teachers['t'].model.parameters()} == {'meta'}


# -- promise 3: weight zero is plain training ------------------------------------


def run_training(model: dict, data: Path, work_dir: Path, name: str) -> Runner:
    """Two epochs, two steps each, with augmentation, weight decay and clipping."""
    cfg = tiny.runner_cfg(model, data, work_dir / name, epochs=2, val=False)
    flip = dict(type='RandomFlip', prob=0.5)
    cfg.train_dataloader.dataset.pipeline.insert(-1, flip)
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),
        clip_grad=dict(max_norm=1.0),
        paramwise_cfg=dict(
            norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.5))
        ),
    )
    cfg.experiment_name = name
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def history(runner: Runner) -> dict[str, list[float]]:
    scalars = runner.message_hub.log_scalars
    names = ('loss', 'loss_cls', 'loss_bbox', 'grad_norm')
    return {n: scalars[f'train/{n}'].data[0].tolist() for n in names}


@pytest.fixture(scope='module')
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    root = tmp_path_factory.mktemp('plain')
    data = tiny.write_coco(root / 'coco', images=4)
    # Its dropped paths draw random numbers in every step.
    runner = run_training(swin(tiny.gfl(8, 16)), data, root, 'plain')
    return data, frozen(runner.model), history(runner)


@pytest.mark.parametrize('parts', ['all weights zero', 'no terms at all'])
def test_with_all_weights_zero_training_is_plain_training(
    parts: str, plain_run: tuple, tmp_path: Path, teacher_cfg: dict, teacher_file: Path
) -> None:
    data, weights, logged = plain_run
    cfg = tiny.distiller(swin(tiny.gfl(8, 16)), teacher_cfg, teacher_file)
    for term in cfg['terms'].values():
        term['weight'] = 0
    if parts == 'no terms at all':
        cfg = dict(type='Distiller', student=cfg['student'])
    runner = run_training(cfg, data, tmp_path, parts)
    assert history(runner) == logged
    assert_same(frozen(runner.model), weights)
    assert len(logged['loss']) == 4


def test_a_weight_above_zero_changes_training(
    plain_run: tuple, tmp_path: Path, teacher_cfg: dict, teacher_file: Path
) -> None:
    data, weights, logged = plain_run
    cfg = tiny.distiller(swin(tiny.gfl(8, 16)), teacher_cfg, teacher_file)
    cfg['branches'] = {}
    runner = run_training(cfg, data, tmp_path, 'above zero')
    # The first step starts from the same weights and images ...
    assert history(runner)['loss_cls'][0] == logged['loss_cls'][0]
    # ... and goes elsewhere.
    assert history(runner)['loss_cls'][1:] != logged['loss_cls'][1:]
    assert not torch.equal(
        runner.model.student.neck.fpn_convs[0].conv.weight,
        weights['neck.fpn_convs.0.conv.weight'],
    )


# -- promise 4: prediction is the plain student's --------------------------------


def detecting(cfg: dict[str, Any]) -> dict[str, Any]:
    """`cfg` with everything a random model can find left in its results."""
    return {**cfg, 'test_cfg': {**cfg['test_cfg'], 'score_thr': 0.0}}


def assert_same_detections(ours: list, plain: list, exact: bool = True) -> None:
    assert len(ours) == len(plain) > 0
    for one, other in zip(ours, plain, strict=True):
        assert set(one.keys()) == set(other.keys())
        assert set(one.metainfo_keys()) == set(other.metainfo_keys())
        one, other = one.pred_instances, other.pred_instances
        assert len(one) == len(other) > 0
        close = 0.0 if exact else 1e-5
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(one[key], other[key], rtol=close, atol=close)


def test_predict_is_exactly_the_plain_students(
    student_cfg: dict, teacher_cfg: dict
) -> None:
    student_cfg = detecting(student_cfg)
    cfg = tiny.distiller(student_cfg, teacher_cfg, branches={})
    model = tiny.build(cfg)
    train(model, 2)
    plain = tiny.build(student_cfg)
    plain.load_state_dict(model.state_dict(), strict=True)
    called = []
    teacher = model.teachers['t'].model
    handle = teacher.backbone.register_forward_hook(lambda *_: called.append(1))
    model.eval()
    plain.eval()
    hooks = hooks_in(model, teacher)
    with torch.no_grad():
        for method in ('val_step', 'test_step'):
            ours = getattr(model, method)(tiny.batch())
            assert_same_detections(ours, getattr(plain, method)(tiny.batch()))
        inputs = plain.data_preprocessor(tiny.batch(), False)['inputs']
        for one, other in zip(model(inputs), plain(inputs), strict=True):
            assert all(map(torch.equal, one, other))
    assert not called
    assert hooks_in(model, teacher) == hooks
    handle.remove()


def test_neither_loss_nor_predict_changes_the_data_samples(model: Distiller) -> None:
    data = model.data_preprocessor(tiny.batch(), True)
    before = copy.deepcopy(data['data_samples'])
    model(**data, mode='loss')
    with torch.no_grad():
        model.eval()(**data, mode='predict')
    for sample, old in zip(data['data_samples'], before, strict=True):
        # mmdet itself puts its predictions there, and nothing else.
        assert set(sample.keys()) - set(old.keys()) == {'pred_instances'}
        assert sample.metainfo == old.metainfo
        assert torch.equal(sample.gt_instances.bboxes, old.gt_instances.bboxes)
        assert torch.equal(sample.gt_instances.labels, old.gt_instances.labels)


def test_building_and_predicting_need_no_teacher_file(
    student_cfg: dict, teacher_cfg: dict, coco_root: Path, tmp_path: Path
) -> None:
    cfg = tiny.distiller(detecting(student_cfg), teacher_cfg, tmp_path / 'gone.pth')
    run_cfg = tiny.runner_cfg(cfg, coco_root, tmp_path / 'run')
    runner = Runner.from_cfg(run_cfg)
    assert 'coco/bbox_mAP' in runner.test()
    model = runner.model
    with pytest.raises(CheckpointFileError, match=r'gone\.pth'):
        losses_of(model)
    assert hooks_in(model, model.teachers['t'].model) == 0


# -- promise 11: nothing is left behind ------------------------------------------


@contextmanager
def breaking(module: nn.Module, error: type[BaseException]) -> Iterator[None]:
    """Whoever calls `module` gets `error`."""

    def fail(*_: Any) -> None:
        raise error('on purpose')

    handle = module.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


PLACES = {
    'the teacher': lambda m: m.teachers['t'].model.neck,
    'the student': lambda m: m.student.neck,
    'the head': lambda m: m.student.bbox_head,
    'an adapter': lambda m: m.adapters['guide'],
    'a term': lambda m: m.losses['loss_attention'],
}


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('place', PLACES)
def test_an_exception_in_mid_step_leaves_nothing_behind(
    place: str, error: type[BaseException], model: Distiller
) -> None:
    refs: list[weakref.ref] = []

    class Keeper(Watch):
        def on_knowledge(self, student: dict, teachers: dict) -> None:
            for tap in student.values():
                refs.append(weakref.ref(first_tensor(tap.levels[0])))

    model.observers.append(Keeper())
    expected = {k: torch.as_tensor(v).clone() for k, v in _scalars(model).items()}
    refs.clear()
    with breaking(PLACES[place](model), error), pytest.raises(error):
        losses_of(model)
    assert hooks_in(model, model.teachers['t'].model) == 0
    gc.collect()
    assert not [ref for ref in refs if ref() is not None]
    # The next step is what it would have been.
    assert_same({k: torch.as_tensor(v) for k, v in _scalars(model).items()}, expected)


def _scalars(model: Distiller) -> dict[str, Tensor]:
    """Losses by name, of a model whose buffers do not change by it."""
    buffers = [b.clone() for b in model.buffers()]
    losses = losses_of(model)
    for buffer, old in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(old)
    return {
        k: torch.stack(v).sum().detach() if isinstance(v, list) else v.detach()
        for k, v in losses.items()
    }


def test_an_observer_that_fails_leaves_nothing_behind(model: Distiller) -> None:
    class Failing(Watch):
        def on_terms(self, losses: dict) -> None:
            raise ValueError('on purpose')

    model.observers.append(Failing())
    with pytest.raises(ValueError, match='on purpose'):
        losses_of(model)
    assert hooks_in(model, model.teachers['t'].model) == 0


def test_no_hook_stays_after_a_step_and_no_knowledge_is_kept(model: Distiller) -> None:
    refs: list[weakref.ref] = []

    class Keeper(Watch):
        def on_knowledge(self, student: dict, teachers: dict) -> None:
            for taps in (student, *teachers.values()):
                refs.append(weakref.ref(taps['stages'].levels[0]))

    model.observers.append(Keeper())
    losses = losses_of(model)
    assert hooks_in(model, model.teachers['t'].model) == 0
    assert len(refs) == 2 and refs[0]() is not None  # the graph of the losses holds it
    del losses
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_memory_is_flat_over_50_steps(teacher_cfg: dict) -> None:
    model = tiny.build(tiny.distiller(tiny.gfl(4, 8), tiny.gfl(8, 16)))
    model.train()
    wrapper = optimizer(model, lr=1e-3)

    def steps(count: int) -> tuple[int, int, int]:
        for _ in range(count):
            model.train_step(tiny.batch(size=(32, 32)), wrapper)
        gc.collect()
        objects = gc.get_objects()
        tensors = [o for o in objects if isinstance(o, Tensor)]
        return len(tensors), sum(t.numel() for t in tensors), len(objects)

    early, late = steps(5), steps(50)
    assert late[:2] == early[:2]
    assert late[2] - early[2] < 50  # less than one object a step


def test_a_deep_copy_in_the_midst_of_training_stands_alone(model: Distiller) -> None:
    model.observers.append(Watch())
    train(model, 1)
    twin = copy.deepcopy(model)
    assert twin.teachers is model.teachers
    assert not twin.observers and model.observers
    before = frozen(model)
    assert_same(frozen(twin), before)
    train(twin, 1)
    assert_same(frozen(model), before)
    # The copy's branch is in the copy's student.
    explore = twin.student.neck.fpn_convs[0].conv.explore.weight
    assert explore.abs().sum() > 0
    assert not torch.equal(explore, model.student.neck.fpn_convs[0].conv.explore.weight)


# -- a training step -------------------------------------------------------------


def test_a_step_adds_the_terms_to_the_students_own_losses(model: Distiller) -> None:
    logged = train(model, 1)[0]
    added = {
        'loss_guide_reconstruction',
        'loss_explore_decorrelation',
        'loss_soft_cls',
        'loss_soft_box',
        'loss_relation',
        'loss_attention',
    }
    own = {'loss_cls', 'loss_bbox', 'loss_dfl'}
    assert set(logged) == {'loss'} | own | added
    total = sum(v for k, v in logged.items() if k != 'loss')
    torch.testing.assert_close(logged['loss'], total)
    # Attention and relation may start near zero, but not at it.
    for name in added - {'loss_explore_decorrelation'}:
        assert logged[name] > 0


def test_the_students_own_losses_are_those_of_the_student_alone(
    model: Distiller, student_cfg: dict
) -> None:
    plain = tiny.build(student_cfg)
    plain.load_state_dict(model.state_dict())
    alone = plain(**plain.data_preprocessor(tiny.batch(), True), mode='loss')
    ours = losses_of(model)
    for name, levels in alone.items():
        assert all(map(torch.equal, levels, ours[name])), name


def test_the_weight_multiplies_the_term(cfg: dict[str, Any]) -> None:
    once = losses_of(tiny.build(cfg))['loss_attention']
    cfg['terms']['loss_attention']['weight'] = 3.0
    thrice = losses_of(tiny.build(cfg))['loss_attention']
    torch.testing.assert_close(thrice, 3 * once)


def test_an_adapter_runs_once_a_step_however_many_terms_read_it(cfg: dict) -> None:
    cfg['terms']['loss_more'] = dict(
        type='FeatureKD', student='guide.student', teacher='guide.teacher'
    )
    model = tiny.build(cfg)
    calls = []
    model.adapters['guide'].register_forward_hook(lambda *_: calls.append(1))
    losses_of(model)
    assert calls == [1]


def test_a_teacher_runs_only_as_far_as_the_taps_need(cfg: dict[str, Any]) -> None:
    del cfg['terms']['loss_soft']
    model = tiny.build(cfg)
    teacher, called = model.teachers['t'].model, []
    for name in ('backbone', 'neck', 'bbox_head'):
        module = getattr(teacher, name)
        module.register_forward_hook(lambda m, *_: called.append(type(m).__name__))
    losses_of(model)
    assert called == ['ResNet']


def test_the_loss_and_the_targets_of_the_teacher_are_never_computed(
    model: Distiller, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = model.teachers['t'].model.bbox_head
    for name in ('loss', 'get_targets', 'predict_by_feat'):
        monkeypatch.setattr(head, name, lambda *_, n=name, **__: pytest.fail(n))
    losses_of(model)


def test_a_term_that_has_stopped_is_not_computed_nor_its_teacher_run(
    cfg: dict[str, Any],
) -> None:
    for term in cfg['terms'].values():
        term['schedule'] = dict(stop_epoch=0)
    model = tiny.build(cfg)
    model.teachers['t'].model.register_forward_hook(lambda *_: pytest.fail('ran'))
    logged = losses_of(model)
    assert not {'loss_soft_cls', 'loss_relation', 'loss_attention'} & set(logged)
    assert logged['loss_idle'] == 0
    logged['loss_idle'].backward()
    # What waits has a gradient of zero, so that DDP does not wait for it.
    for parameter in model.adapters.parameters():
        assert parameter.grad is not None and not parameter.grad.any()


def test_every_trained_parameter_gets_a_gradient_from_all_terms(
    model: Distiller,
) -> None:
    backward(model)
    assert not without_gradient(model)


def test_an_adapter_of_which_one_side_is_read_leaves_no_parameter_without_gradient(
    cfg: dict[str, Any],
) -> None:
    cfg['terms'] = dict(
        loss_attention=dict(
            type='AttentionKD', student='stages', teacher='guide.teacher'
        )
    )
    model = tiny.build(cfg)
    backward(model)
    assert not without_gradient(model)


def test_gradients_reach_the_student_from_every_term(model: Distiller) -> None:
    for name in ('loss_soft_cls', 'loss_soft_box', 'loss_relation', 'loss_attention'):
        model.zero_grad()
        losses_of(model)[name].backward()
        reached = model.student.backbone.conv1.weight.grad
        assert reached is not None and reached.any(), name


def test_observers_see_knowledge_and_terms_and_may_add_statistics(
    model: Distiller,
) -> None:
    model.observers.append(watch := Watch())
    logged = train(model, 1)[0]
    assert watch.moments == ['knowledge', 'terms']
    assert logged['stat_seven'] == 7
    total = sum(v for k, v in logged.items() if k.startswith('loss_'))
    torch.testing.assert_close(logged['loss'], total)
    stages = watch.student['stages']
    assert (stages.owner, stages.tap) == ('student', 'stages')
    assert stages.channels == (8, 16, 32, 64)
    assert stages.strides == (4, 8, 16, 32)
    assert watch.teachers['t']['stages'].channels == (16, 32, 64, 128)
    assert watch.teachers['t']['head'].owner == 't'
    assert all(level.requires_grad for level in stages.levels)
    assert not any(
        level.requires_grad for level in watch.teachers['t']['stages'].levels
    )


def test_hooks_of_mmdet_find_the_students_parts(model: Distiller) -> None:
    assert model.bbox_head is model.student.bbox_head
    assert model.with_neck
    with pytest.raises(AttributeError, match='nonsense'):
        model.nonsense  # noqa: B018


def test_bf16_autocast_gives_finite_losses_and_steps(model: Distiller) -> None:
    class Bf16(OptimWrapper):
        """As mmengine's AmpOptimWrapper, which insists on a GPU."""

        @contextmanager
        def optim_context(self, model: nn.Module) -> Iterator[None]:
            with torch.autocast('cpu', torch.bfloat16), super().optim_context(model):
                yield

    model.observers.append(watch := Watch())
    wrapper = Bf16(torch.optim.SGD(model.parameters(), lr=1e-3))
    exact = _scalars(model)
    for _ in range(3):
        # Not smaller: in bfloat16, torch's own gradient of a convolution of a 1x1
        # map is whatever stood in memory before.
        logged = model.train_step(tiny.batch(size=(160, 160)), wrapper)
        assert all(torch.isfinite(v) for v in logged.values())
    # It was bfloat16 that the terms were given, and float32 that they worked in.
    assert watch.student['stages'].levels[1].dtype == torch.bfloat16
    assert logged['loss_relation'].dtype == torch.float32
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert set(logged) - {'loss', 'stat_seven'} == set(exact) - {'stat_seven'}


def test_images_without_objects_and_single_images_give_finite_losses(
    model: Distiller,
) -> None:
    for shape in (dict(images=1, boxes=0), dict(images=1), dict(size=(64, 32))):
        for logged in train(model, 1, **shape):
            assert all(torch.isfinite(v) for v in logged.values())


def test_an_unknown_key_is_an_error_that_lists_the_known_ones(cfg: dict) -> None:
    cfg['term'] = cfg.pop('terms')
    with pytest.raises(ConfigError, match="unknown key 'term'") as caught:
        tiny.build(cfg)
    assert caught.value.available[0] == 'terms'


def test_types_may_be_classes_as_in_pure_python_configs(cfg: dict[str, Any]) -> None:
    expected = _scalars(tiny.build(copy.deepcopy(cfg)))
    kinds = (('adapters', ADAPTERS), ('branches', BRANCHES), ('terms', LOSSES))
    for key, registry in kinds:
        for part in cfg[key].values():
            part['type'] = registry.module_dict[part['type']]
    assert_same(_scalars(tiny.build(cfg)), expected)


# -- students and teachers of every kind -----------------------------------------

PAIRS = [
    ('gfl', 'gfl'),
    ('retinanet', 'retinanet'),
    ('fcos', 'fcos'),
    ('atss', 'atss'),
    ('gfl', 'atss'),
    ('atss', 'gfl'),
    ('fcos', 'gfl'),
]


@pytest.mark.parametrize('student, teacher', PAIRS, ids='<-'.join)
def test_every_head_learns_and_teaches(student: str, teacher: str) -> None:
    small = getattr(tiny, student)(8, 16)
    big = getattr(tiny, teacher)(16, 24)
    model = tiny.build(tiny.distiller(small, big))
    model.observers.append(watch := Watch())
    first, *_, last = train(model, 3)
    assert all(torch.isfinite(v) for v in (*first.values(), *last.values()))
    assert first['loss_soft_cls'] > 0 and first['loss_soft_box'] > 0
    assert len(watch.teachers['t']['head'].levels) == 5
    model.zero_grad()
    losses_of(model)['loss_soft_cls'].backward()
    head = [p.grad for p in model.student.bbox_head.parameters()]
    assert any(g is not None and g.any() for g in head)


def test_soft_outputs_alone_draw_the_student_to_its_teacher() -> None:
    """The term does what it is for: outputs come closer in a few steps."""
    cfg = tiny.distiller(tiny.gfl(4, 8), tiny.gfl(8, 16), adapters={}, branches={})
    cfg['terms'] = dict(loss_soft=cfg['terms']['loss_soft'])
    model = tiny.build(cfg)
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=0.01))
    values = [
        model.train_step(tiny.batch(), wrapper)['loss_soft_cls'].item()
        for _ in range(8)
    ]
    assert values[-1] < 0.5 * values[0]


class Classifier(BaseModel):
    """The smallest thing that is no detector."""

    def __init__(self, width: int, classes: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
        )
        self.fc = nn.Linear(2 * width, classes)

    def forward(
        self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor'
    ) -> Any:
        logits = self.fc(self.body(inputs).mean((2, 3)))
        if mode == 'loss':
            return dict(loss=nn.functional.cross_entropy(logits, data_samples))
        return logits.argmax(1) if mode == 'predict' else logits


def classifiers(**terms: dict) -> dict[str, Any]:
    return dict(
        type='Distiller',
        student=dict(type='Classifier', width=8),
        teachers=dict(t=dict(cfg=dict(type='Classifier', width=16), checkpoint=None)),
        taps=dict(maps=['body.0', 'body.3'], logits='fc'),
        adapters=dict(
            guide=dict(type='GuidanceLayer', student='maps', teacher='t.maps')
        ),
        branches=dict(explore=dict(type='ExplorationBranch', on='fc')),
        terms=terms,
        probe_size=32,
    )


@pytest.fixture
def _classifier_is_known() -> Iterator[None]:
    MODELS.register_module(module=Classifier, force=True)
    yield
    MODELS.module_dict.pop('Classifier')


@pytest.mark.usefixtures('_classifier_is_known')
def test_any_base_model_is_distilled_through_module_taps() -> None:
    cfg = classifiers(
        loss_soft=dict(
            type='SoftOutputKD', student='logits', teacher='t.logits', tau=4
        ),
        loss_feature=dict(
            type='FeatureKD', student='guide.student', teacher='guide.teacher'
        ),
        loss_relation=dict(
            type='RelationKD', student='guide.student', teacher='guide.teacher'
        ),
    )
    model = MODELS.build(Config(dict(model=cfg)).model)
    teacher = frozen(model.teachers['t'].model)
    wrapper = optimizer(model)
    data = dict(inputs=torch.randn(4, 3, 32, 32), data_samples=torch.arange(4))
    logged = [model.train_step(data, wrapper) for _ in range(10)]
    assert all(torch.isfinite(v) for step in logged for v in step.values())
    for name in ('loss', 'loss_feature', 'loss_relation'):
        assert logged[-1][name] < logged[0][name]
    assert logged[0]['loss_soft'] > 0
    assert_same(frozen(model.teachers['t'].model), teacher)
    plain = Classifier(8)
    plain.load_state_dict(model.state_dict(), strict=True)
    model.eval()
    plain.eval()
    with torch.no_grad():
        ours, alone = model(data['inputs']), plain(data['inputs'])
    torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


def test_two_teachers_take_turns(student_cfg: dict, teacher_cfg: dict) -> None:
    cfg = tiny.distiller(student_cfg, teacher_cfg, adapters={}, branches={})
    cfg['teachers']['u'] = dict(cfg=tiny.atss(8, 16), checkpoint=None)
    cfg['terms'] = {
        f'loss_{name}': dict(type='AttentionKD', student='fpn', teacher=f'{name}.fpn')
        for name in ('t', 'u')
    }
    cfg['sampling'] = dict(drop_exact=1)
    model = tiny.build(cfg)
    model.observers.append(watch := Watch())
    from mmengine.logging import MessageHub

    hub = MessageHub.get_current_instance()
    picked = set()
    for iteration in range(8):
        hub.update_info('iter', iteration)
        losses = losses_of(model)
        (name,) = watch.teachers
        # What was not picked was not run, and has no term.
        assert {k for k in losses if k in cfg['terms']} == {f'loss_{name}'}
        assert {name} == model.sampler.pick(iteration)
        picked.add(name)
    assert picked == {'t', 'u'}


def test_the_students_own_losses_are_weighed_and_nothing_else(
    student_cfg: dict, teacher_cfg: dict
) -> None:
    cfg = tiny.distiller(student_cfg, teacher_cfg, adapters={}, branches={})
    cfg['terms'] = dict(
        loss_fpn=dict(type='AttentionKD', student='fpn', teacher='t.fpn')
    )
    whole = losses_of(tiny.build(cfg))
    half = losses_of(tiny.build({**cfg, 'task_weight': 0.5}))
    assert set(half) == set(whole) and half['loss_fpn'] == whole['loss_fpn']
    for name in set(whole) - {'loss_fpn'}:
        pairs = zip(_parts(half[name]), _parts(whole[name]), strict=True)
        assert all(torch.equal(a, 0.5 * b) for a, b in pairs), name
    with pytest.raises(ConfigError, match='task_weight'):
        tiny.build({**cfg, 'task_weight': -1})


def _parts(value: Any) -> list[Tensor]:
    return value if isinstance(value, list) else [value]


def test_knowledge_is_that_of_the_models_themselves(model: Distiller) -> None:
    """What terms get is what the modules yield, level for level."""
    model.observers.append(watch := Watch())
    losses_of(model)
    teacher = model.teachers['t'].model
    inputs = model.data_preprocessor(tiny.batch(), True)['inputs']
    outputs: dict[str, Any] = {}
    for name in ('backbone', 'bbox_head'):
        getattr(teacher, name).register_forward_hook(
            lambda _, __, out, name=name: outputs.update({name: out})
        )
    with torch.no_grad():
        run_features(teacher, inputs)
    stages = watch.teachers['t']['stages'].levels
    assert all(map(torch.equal, stages, outputs['backbone']))
    heads = watch.teachers['t']['head'].levels
    for index, level in enumerate(heads):
        for part, whole in zip(level, outputs['bbox_head'], strict=True):
            assert torch.equal(part, whole[index])


# -- names of losses, several teachers -------------------------------------------


def attending(name: str, **more: Any) -> dict[str, Any]:
    terms = {name: dict(type='AttentionKD', student='fpn', teacher='t.fpn'), **more}
    cfg = tiny.distiller(tiny.gfl(), tiny.gfl(), terms=terms, adapters={}, branches={})
    cfg['taps'] = dict(fpn='neck', head='bbox_head')
    return cfg


@pytest.mark.parametrize('name', ['loss_cls', 'loss_bbox', 'loss_dfl'])
def test_no_term_takes_the_place_of_the_students_own_loss(name: str) -> None:
    """The plan refuses it."""
    with pytest.raises(ConfigError, match=f'two losses are called {name!r}') as error:
        tiny.build(attending(name))
    assert error.value.fix == f'another name for the term: {name.replace("_", "_kd_")}'
    tiny.build(attending(name.replace('_', '_kd_')))


def test_a_name_that_the_student_makes_at_run_time_is_refused_in_the_first_step() -> (
    None
):
    model = tiny.build(attending('loss_made'))
    loss = model.student.loss
    model.student.loss = lambda *x: {**loss(*x), 'loss_' + 'made': torch.ones(())}
    with pytest.raises(ConfigError, match="two losses are called 'loss_made'"):
        losses_of(model)


def test_parts_of_a_term_do_not_take_the_place_of_another_loss() -> None:
    """A term of two parts is called after both; an RPN has losses of its own."""
    soft = dict(type='SoftOutputKD', student='head', teacher='t.head')
    with pytest.raises(ConfigError, match="two losses are called 'loss_soft_cls'"):
        tiny.build(attending('loss_soft_cls', loss_soft=soft))
    models = tiny.faster_rcnn(4, 8), tiny.faster_rcnn(8, 16)
    parts = dict(adapters={}, branches={}, taps=dict(head='rpn_head'))
    cfg = tiny.distiller(*models, **parts, terms=dict(loss_rpn=soft))
    with pytest.raises(ConfigError, match="two losses are called 'loss_rpn_cls'"):
        tiny.build(cfg)
    cfg = tiny.distiller(*models, **parts, terms=dict(loss_kd_rpn=soft))
    assert losses_of(tiny.build(cfg))['loss_kd_rpn_cls'] > 0


def test_a_term_may_need_two_teachers() -> None:
    """Its student side goes through an adapter of another one."""
    one = dict(cfg=tiny.gfl(), checkpoint=None, speed='off')
    guide = dict(type='GuidanceLayer', student='fpn', teacher='a.fpn')
    term = dict(type='AttentionKD', student='guide.student', teacher='t.fpn')
    cfg = dict(
        type='Distiller',
        student=tiny.gfl(),
        teachers=dict(t=one, a=one),
        taps=dict(fpn='neck'),
        adapters=dict(guide=guide),
        terms=dict(loss_both=term),
        probe_size=64,
    )
    model = tiny.build(cfg)
    assert model.plan.teachers_of(model.plan.terms['loss_both']) == {'t', 'a'}
    assert losses_of(model)['loss_both'] > 0
    # One of the two sits out in every step: then the term does, too.
    dropped = tiny.build({**cfg, 'sampling': dict(drop_exact=1)})
    losses = losses_of(dropped)
    assert 'loss_both' not in losses and 'loss_idle' in losses


def test_a_teacher_of_another_scope_leaves_the_scope_as_it_was(tmp_path: Path) -> None:
    cfg = dict(model={**tiny.gfl(), 'type': 'mmdet.GFL'}, default_scope='mmengine')
    Config(cfg).dump(tmp_path / 'teacher.py')
    init_default_scope('mmdet')
    # Whether its parts are found in that scope is another question.
    with suppress(ConfigError):
        Teacher.build('t', dict(cfg=str(tmp_path / 'teacher.py'), checkpoint=None))
    assert DefaultScope.get_current_instance().scope_name == 'mmdet'


def test_a_term_without_gradient_is_told_in_the_first_step() -> None:
    class DetachedKD(PairLoss):
        """Trains nothing."""

        def pair(self, student: Any, teacher: Any, mask: Any = None) -> Any:
            return student.detach().mean()

    LOSSES.register_module(module=DetachedKD, force=True)
    try:
        terms = dict(loss_x=dict(type='DetachedKD', student='fpn', teacher='t.fpn'))
        cfg = tiny.distiller(
            tiny.gfl(), tiny.gfl(), terms=terms, adapters={}, branches={}
        )
        model = tiny.build({**cfg, 'taps': dict(fpn='neck')})
        with pytest.raises(ConfigError, match='no gradient'):
            losses_of(model)
    finally:
        LOSSES.module_dict.pop('DetachedKD')
