"""Checkpoints: the plain student's keys, and the distillation beside them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import (
    BaseModel,
    ExponentialMovingAverage,
    ImgDataPreprocessor,
)
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

import tiny
from mkd_det.checkpoints.checkpoint import read_checkpoint
from mkd_det.distiller.model import Distiller
from mkd_det.distiller.state import put_random_states, random_states_in
from mkd_det.errors import ResumeError
from mkd_det.io.random_state import random_state

SMALL, BIG = tiny.gfl(4, 8), tiny.gfl(8, 16)
CONV = 'neck.fpn_convs.0.conv.weight'


@pytest.fixture(scope='module')
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(BIG, tmp_path_factory.mktemp('t') / 'teacher.pth')


def distiller(teacher: Path, seed: int = 0, **changes: Any) -> Distiller:
    return tiny.build(tiny.distiller(SMALL, BIG, teacher, **changes), seed)


def train(model: nn.Module, steps: int = 3) -> None:
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    model.train()
    for seed in range(steps):
        model.train_step(tiny.batch(seed=seed), wrapper)


def outputs(model: nn.Module) -> list[Tensor]:
    """Everything the head says of two images, in eval mode."""
    model.eval()
    inputs = model.data_preprocessor(tiny.batch(), False)['inputs']
    with torch.no_grad():
        return [level for part in model(inputs) for level in part]


def plain_with(weights: Mapping[str, Tensor]) -> nn.Module:
    """The stock student, loaded without mercy."""
    plain = tiny.build(SMALL, seed=7)
    plain.load_state_dict(weights, strict=True)
    return plain


def losses(model: Distiller) -> dict[str, Tensor]:
    data = model.train().data_preprocessor(tiny.batch(), True)
    with torch.no_grad():
        found = model(**data, mode='loss')
    return {
        k: torch.as_tensor(sum(v) if isinstance(v, list) else v)
        for k, v in found.items()
    }


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert set(one) == set(other)
    assert not [key for key in one if not torch.equal(one[key], other[key])]


def through_a_file(model: nn.Module, path: Path) -> dict[str, Any]:
    """Saved as mmengine saves, read as safely as a teacher is."""
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return read_checkpoint(str(path))


@pytest.mark.parametrize('branches', [{}, None], ids=['plain', 'explored'])
def test_the_state_dict_loads_strictly_into_the_plain_student(
    teacher: Path, branches: Any
) -> None:
    changes = {} if branches is None else {'branches': branches}
    model = distiller(teacher, **changes)
    train(model)
    state = model.state_dict()
    assert list(state) == list(tiny.build(SMALL).state_dict())
    ours, plain = outputs(model), outputs(plain_with(state))
    # Two convolutions and their sum differ by rounding alone.
    close = 0.0 if not branches and branches is not None else 1e-5
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=close, atol=close)
    if branches is None:
        explored = model.student.neck.fpn_convs[0].conv.explore.weight
        assert explored.abs().max() > 1e-3


def test_distillation_state_comes_back_exactly(teacher: Path, tmp_path: Path) -> None:
    model = distiller(teacher)
    train(model)
    file = through_a_file(model, tmp_path / 'step.pth')
    other = distiller(teacher, seed=5)
    other.load_state_dict(file['state_dict'], strict=True)
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    found = losses(model)
    assert_equal(losses(other), found)
    assert found['loss_explore_decorrelation'] > 0


@pytest.mark.parametrize('strict', [True, False])
def test_mmengines_loader_restores_it_too(
    teacher: Path, strict: bool, tmp_path: Path
) -> None:
    model = distiller(teacher)
    train(model)
    file = through_a_file(model, tmp_path / 'step.pth')
    other = distiller(teacher, seed=5)
    load_state_dict(other, file['state_dict'], strict=strict)
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_training_goes_on_from_a_file_as_it_would_have(
    teacher: Path, tmp_path: Path
) -> None:
    model = distiller(teacher)
    train(model)
    other = distiller(teacher, seed=5)
    other.load_state_dict(through_a_file(model, tmp_path / 'a.pth')['state_dict'])
    train(model)
    train(other)
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_a_plain_student_is_a_start(teacher: Path) -> None:
    plain = tiny.build(SMALL, seed=3)
    model = distiller(teacher)
    train(model)
    adapters = copy.deepcopy(model.adapters.state_dict())
    model.load_state_dict(plain.state_dict(), strict=True)
    # Nothing is explored yet, so the outputs are the plain student's, exactly.
    assert all(map(torch.equal, outputs(model), outputs(plain)))
    assert_equal(dict(model.adapters.state_dict()), dict(adapters))


def test_a_checkpoint_of_another_plan_gives_its_weights_alone(teacher: Path) -> None:
    model = distiller(teacher)
    train(model)
    wider = dict(
        guide=dict(type='GuidanceLayer', student='stages', teacher='t.stages', width=40)
    )
    other = distiller(teacher, seed=5, adapters=wider, branches={})
    fresh = copy.deepcopy(other.adapters.state_dict())
    other.load_state_dict(model.state_dict(), strict=True)
    assert_equal(dict(other.state_dict()), dict(model.state_dict()))
    assert_equal(dict(other.adapters.state_dict()), dict(fresh))


def test_a_file_of_another_student_is_refused(teacher: Path) -> None:
    model = distiller(teacher)
    with pytest.raises(RuntimeError, match='size mismatch'):
        model.load_state_dict(tiny.build(BIG).state_dict())
    state = model.state_dict()
    state.pop('bbox_head.gfl_cls.bias')
    with pytest.raises(RuntimeError, match=r'Missing key.*bbox_head\.gfl_cls\.bias'):
        model.load_state_dict(state)
    state['bbox_head.gfl_cls.bias'] = torch.zeros(3)
    state['surplus'] = torch.zeros(1)
    with pytest.raises(RuntimeError, match='Unexpected key'):
        model.load_state_dict(state)


def test_state_stays_beside_the_weights_in_a_wrapped_model(teacher: Path) -> None:
    """DDP, EMA: a prefix stands before all keys."""
    model = distiller(teacher)
    train(model)
    outer = nn.ModuleDict({'module': model})
    state = outer.state_dict()
    assert {k.removeprefix('module.') for k in state} == set(model.state_dict())
    other = nn.ModuleDict({'module': distiller(teacher, seed=5)})
    other.load_state_dict(state, strict=True)
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, outer.get_parameter(name)), name


def test_saving_changes_nothing(teacher: Path) -> None:
    model = distiller(teacher)
    train(model)
    before = [p.clone() for p in model.parameters()]
    first, second = model.state_dict(), model.state_dict()
    assert_equal(dict(first), dict(second))
    assert all(map(torch.equal, before, model.parameters()))
    assert model.student.neck.fpn_convs[0].conv.explore.weight.any()


class Preprocessor(ImgDataPreprocessor):
    """One with state of its own, which mmdet's have not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('seen', torch.zeros(1))


class Plain(BaseModel):
    def __init__(self) -> None:
        super().__init__(Preprocessor())
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = '') -> Any:
        return self.layer(inputs)


def test_a_preprocessor_with_state_is_saved_once_and_loaded() -> None:
    plain = Plain()
    plain.data_preprocessor.seen.fill_(7)
    model = Distiller(student=dict(type=Plain))
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict(), strict=True)
    assert model.data_preprocessor is model.student.data_preprocessor
    assert model.data_preprocessor.seen == 7


# -- EMA, and every file that a training writes ----------------------------------

AVERAGES = {
    'parameters': dict(momentum=0.3),
    'late start': dict(momentum=0.3, begin_epoch=2),
    'buffers too': dict(type='ExpMomentumEMA', momentum=0.3, update_buffers=True),
}


@pytest.fixture(scope='module', params=AVERAGES)
def ema_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Runner:
    """A training with EMA that keeps the last and the best checkpoints."""
    root = tmp_path_factory.mktemp('ema')
    data = tiny.write_coco(root / 'coco', images=4)
    small = {**SMALL, 'test_cfg': {**SMALL['test_cfg'], 'score_thr': 0.0}}
    teacher = tiny.write_checkpoint(BIG, root / 'teacher.pth')
    model = tiny.distiller(small, BIG, teacher)
    cfg = tiny.runner_cfg(model, data, root / 'run', epochs=2)
    cfg.optim_wrapper.optimizer.lr = 0.05
    cfg.default_hooks.checkpoint.save_best = 'coco/bbox_mAP_50'
    kwargs = dict(AVERAGES[request.param])
    kind = {'ema_type': kwargs.pop('type')} if 'type' in kwargs else {}
    cfg.custom_hooks = [dict(type='EMAHook', **kind, **kwargs)]
    cfg.experiment_name = f'ema {request.param}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_every_file_loads_strictly_into_the_plain_student(ema_run: Runner) -> None:
    files = sorted(Path(ema_run.work_dir).glob('*.pth'))
    assert {f.name.split('_')[0] for f in files} == {'best', 'epoch'}
    for file in files:
        content = read_checkpoint(str(file))
        averaged = outputs(plain_with(content['state_dict']))
        # mmengine keeps the weights that are not averaged beside them.
        live = {
            k.removeprefix('module.'): v
            for k, v in content['ema_state_dict'].items()
            if k != 'steps'
        }
        if file.name == 'epoch_2.pth':
            assert not any(map(torch.equal, outputs(plain_with(live)), averaged))


def test_a_files_weights_are_the_average_and_not_the_last(ema_run: Runner) -> None:
    hook = next(h for h in ema_run.hooks if type(h).__name__ == 'EMAHook')
    file = read_checkpoint(str(Path(ema_run.work_dir) / 'epoch_2.pth'))
    averaged, live = hook.ema_model.module.state_dict(), ema_run.model.state_dict()
    assert_equal(dict(file['state_dict']), dict(averaged))
    # With a momentum of 0.3 an average stays near what it averages.
    for key in (CONV, 'bbox_head.gfl_reg.weight', 'backbone.conv1.weight'):
        distance = (averaged[key] - live[key]).norm() / live[key].norm()
        assert 0 < distance < 0.2, key


def test_the_distiller_predicts_from_any_file_as_the_plain_student(
    teacher: Path,
    ema_run: Runner,
) -> None:
    file = read_checkpoint(str(Path(ema_run.work_dir) / 'epoch_2.pth'))
    model = distiller(teacher, seed=5)
    load_state_dict(model, file['state_dict'], strict=True)
    expected = outputs(plain_with(file['state_dict']))
    for one, other in zip(outputs(model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_an_average_is_the_average_of_folded_weights(teacher: Path) -> None:
    """By hand: the mean of what the student was, steps apart."""
    model = distiller(teacher)
    average = ExponentialMovingAverage(model, momentum=0.25)
    expected: Tensor | None = None
    for _ in range(4):
        train(model, 1)
        now = model.state_dict()[CONV].clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
        average.update_parameters(model)
    torch.testing.assert_close(average.module.state_dict()[CONV], expected)


def test_a_stock_detector_opens_a_checkpoint_from_the_middle_of_training(
    ema_run: Runner,
) -> None:
    from mmdet.apis import inference_detector, init_detector

    small = {**SMALL, 'test_cfg': {**SMALL['test_cfg'], 'score_thr': 0.0}}
    cfg = tiny.runner_cfg(small, Path('nowhere'), Path('nowhere'))
    keys = ('ori_shape', 'img_shape', 'scale_factor')
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromNDArray'),
        dict(type='Resize', scale=(64, 64)),
        dict(type='PackDetInputs', meta_keys=keys),
    ]
    file = str(Path(ema_run.work_dir) / 'epoch_1.pth')
    stock = init_detector(cfg, file, palette='random', device='cpu')
    assert type(stock).__module__.startswith('mmdet.')
    assert_equal(dict(stock.state_dict()), read_checkpoint(file)['state_dict'])
    image = tiny.batch()['inputs'][0].permute(1, 2, 0).numpy()
    assert len(inference_detector(stock, image).pred_instances) > 0


@pytest.mark.parametrize(
    'change',
    [
        dict(random=3),
        dict(random={}),
        dict(sampler_seed='a'),
        dict(modules=3),
        dict(buffers=4),
        dict(transforms=[1]),
    ],
    ids=str,
)
def test_odd_states_of_a_process_are_a_typed_error(change: dict[str, Any]) -> None:
    state = dict(random=random_state(), sampler_seed=None, buffers={}, modules={})
    checkpoint: dict[str, Any] = {}
    put_random_states(checkpoint, [state])
    assert random_states_in(checkpoint) == [state]
    put_random_states(checkpoint, [{**state, **change}])
    with pytest.raises(ResumeError) as caught:
        random_states_in(checkpoint)
    assert caught.value.fix
