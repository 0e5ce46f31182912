"""Promises of the exploration branch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from torch import Tensor, nn

from mkd_det.branches.exploration import ExplorationBranch
from mkd_det.branches.parallel_linear import ParallelLinear
from mkd_det.errors import ConfigError, TapNotFoundError
from mkd_det.registry import BRANCHES, build_component


class Student(nn.Module):
    """A model with several kinds of convolutions, a linear and a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvModule(3, 8, 3, padding=1, norm_cfg=dict(type='BN'))
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(8, 8, 3, padding=1),
                nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False),
                nn.Conv2d(8, 8, 3, stride=2, padding=1, padding_mode='reflect'),
            ]
        )
        self.again = nn.ModuleList([self.convs[0]])
        self.act = nn.ReLU()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv in [*self.convs, *self.again]:
            x = self.act(conv(x))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def student() -> Student:
    return Student().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 12, 12)


def explore(branch: ExplorationBranch) -> None:
    """Set the weights of every parallel layer to random values."""
    for layer in branch._layers:
        nn.init.normal_(layer.explore.weight, std=0.1)


EVERYTHING = ['stem', 'convs', 'fc']


def test_it_is_built_from_a_config_and_knows_a_path_or_a_list() -> None:
    branch = build_component(
        BRANCHES, dict(type='ExplorationBranch', on='convs'), 'branch e'
    )
    assert isinstance(branch, ExplorationBranch) and branch.on == ('convs',)
    assert ExplorationBranch(['convs.0', 'fc']).on == ('convs.0', 'fc')
    for bad in (dict(on=[]), dict(on='convs', decorrelation=-1)):
        with pytest.raises(ConfigError):
            ExplorationBranch(**bad)


def test_attaching_changes_no_output(student: Student, images: Tensor) -> None:
    before = student(images)
    ExplorationBranch(EVERYTHING).attach(student)
    assert torch.equal(student(images), before)


def test_attaching_draws_no_random_numbers(student: Student) -> None:
    before = torch.get_rng_state()
    ExplorationBranch(EVERYTHING).attach(student)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_linear_layer_below_gets_a_parallel_one(student: Student) -> None:
    layers = [student.stem.conv, *student.convs, student.fc]
    branch = ExplorationBranch(EVERYTHING)
    branch.attach(student)
    parallel = [student.stem.conv, *student.convs, student.fc]
    assert all(isinstance(layer, ParallelLinear) for layer in parallel)
    # The very same objects: the optimizer and the layers' users keep theirs.
    assert all(p.inherit is layer for p, layer in zip(parallel, layers))
    assert branch.taps() == {
        part: tuple(
            f'{path}.{part}'
            for path in ('stem.conv', 'convs.0', 'convs.1', 'convs.2', 'fc')
        )
        for part in ('inherit', 'explore')
    }
    for p in parallel:
        assert type(p.explore) is type(p.inherit)
        assert p.explore.bias is None and not p.explore.weight.any()


def test_a_layer_itself_can_be_named(student: Student) -> None:
    branch = ExplorationBranch(['convs.1', 'convs', 'convs.1'])
    branch.attach(student)
    # Each once, in the order of first mention.
    assert branch.taps()['explore'] == tuple(f'convs.{i}.explore' for i in (1, 0, 2))


def test_a_shared_layer_is_replaced_everywhere(student: Student) -> None:
    branch = ExplorationBranch('again')
    branch.attach(student)
    assert isinstance(student.convs[0], ParallelLinear)
    assert student.convs[0] is student.again[0]
    assert len(branch.taps()['inherit']) == 1
    branch.detach()
    assert student.convs[0] is student.again[0]
    assert type(student.convs[0]) is nn.Conv2d


def test_detaching_puts_the_same_objects_back_and_attaching_the_same_branch(
    student: Student, images: Tensor
) -> None:
    layers, keys = list(student.modules()), list(student.state_dict())
    branch = ExplorationBranch(EVERYTHING)
    branch.attach(student)
    explore(branch)
    attached, explored = list(student.modules()), student(images)
    branch.detach()
    branch.detach()
    assert all(a is b for a, b in zip(student.modules(), layers, strict=True))
    assert list(student.state_dict()) == keys
    assert not torch.allclose(student(images), explored)
    branch.attach(student)
    branch.attach(student)
    assert all(a is b for a, b in zip(student.modules(), attached, strict=True))
    assert torch.equal(student(images), explored)


def test_folding_gives_the_plain_student_with_equal_predictions(
    student: Student, images: Tensor
) -> None:
    plain = copy.deepcopy(student)
    branch = ExplorationBranch(EVERYTHING)
    branch.attach(student)
    explore(branch)
    state = student.state_dict()
    given = {key: value.clone() for key, value in state.items()}
    metadata = state._metadata
    branch.fold(state)
    # The same keys in the same order, and what travels beside them.
    assert list(state) == list(plain.state_dict())
    assert state._metadata is metadata
    plain.load_state_dict(state, strict=True)
    assert torch.allclose(plain(images), student(images), atol=1e-6)
    assert not torch.allclose(plain.fc.weight, student.fc.inherit.weight)
    # The student itself is as it was.
    for key, value in student.state_dict().items():
        assert torch.equal(value, given[key])


def test_unfolding_starts_from_a_plain_student(
    student: Student, images: Tensor
) -> None:
    state, wanted = student.state_dict(), student(images)
    other = Student().eval()
    branch = ExplorationBranch(EVERYTHING)
    branch.attach(other)
    explore(branch)
    branch.unfold(state)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(images), wanted)
    assert set(state) == set(other.state_dict())


def test_fold_and_unfold_undo_each_other_and_may_be_repeated(student: Student) -> None:
    plain = student.state_dict()
    branch = ExplorationBranch(EVERYTHING)
    branch.attach(student)
    state = dict(plain)
    branch.fold(state)
    assert list(state) == list(plain)
    branch.unfold(state)
    once = dict(state)
    branch.unfold(state)
    assert list(state) == list(once)
    branch.fold(state)
    assert list(state) == list(plain)
    assert all(torch.equal(state[key], plain[key]) for key in plain)


def test_the_keys_are_those_of_a_feature_pyramid() -> None:
    model = nn.ModuleDict(
        dict(
            neck=MODELS.build(
                dict(type='FPN', in_channels=[4, 8], out_channels=8, num_outs=3)
            )
        )
    )
    branch = ExplorationBranch('neck.fpn_convs')
    branch.attach(model)
    key = 'neck.fpn_convs.0.conv'
    assert branch.taps()['inherit'][0] == f'{key}.inherit'
    state = {
        f'{key}.inherit.weight': torch.ones(1),
        f'{key}.inherit.bias': torch.ones(1),
    }
    state[f'{key}.explore.weight'] = torch.full((1,), 2.0)
    branch.fold(state)
    assert state == {f'{key}.weight': torch.tensor([3.0]), f'{key}.bias': torch.ones(1)}
    branch.unfold(state)
    assert set(state) == {
        f'{key}.inherit.weight',
        f'{key}.inherit.bias',
        f'{key}.explore.weight',
    }


def test_the_conv_module_around_it_works_in_training(images: Tensor) -> None:
    module = nn.ModuleDict(
        dict(m=ConvModule(3, 8, 3, padding='same', norm_cfg=dict(type='BN')))
    )
    wanted = module['m'](images)
    branch = ExplorationBranch('m')
    branch.attach(module)
    module['m'].norm.reset_running_stats()
    assert torch.equal(module['m'](images), wanted)
    layer = module['m'].conv
    assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (3, 8, (3, 3))
    assert layer.bias is None


def test_weight_is_the_sum_of_both_weights(student: Student) -> None:
    branch = ExplorationBranch('fc')
    branch.attach(student)
    explore(branch)
    x = torch.randn(4, 8)
    layer: Any = student.fc
    assert layer.in_features == 8 and layer.out_features == 5
    assert torch.allclose(F.linear(x, layer.weight, layer.bias), layer(x), atol=1e-6)


def test_both_parts_learn_from_the_task(student: Student, images: Tensor) -> None:
    branch = ExplorationBranch(EVERYTHING)
    branch.attach(student)
    student(images).square().sum().backward()
    for layer in branch._layers:
        assert layer.explore.weight.grad is not None
        # Seen by the task, they are one layer: the same gradient.
        assert torch.allclose(layer.explore.weight.grad, layer.inherit.weight.grad)


def test_decorrelation_trains_the_explored_part_only() -> None:
    inherit = torch.randn(2, 4, 3, 3, requires_grad=True)
    explored = torch.randn(2, 4, 3, 3, requires_grad=True)
    losses = ExplorationBranch('x', decorrelation=1.0).losses(
        dict(inherit=(inherit,), explore=(explored,))
    )
    assert set(losses) == {'decorrelation'}
    losses['decorrelation'].backward()
    assert inherit.grad is None
    assert explored.grad is not None and explored.grad.abs().sum() > 0


def test_decorrelation_is_the_mean_over_layers_times_its_weight() -> None:
    a, b = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[1.0, -1.0, 0.0]])
    # Squared cosines 1/4 and 1.
    losses = ExplorationBranch('x', decorrelation=2.0).losses(
        dict(inherit=(a, a), explore=(b, a))
    )
    assert losses['decorrelation'].item() == pytest.approx(2 * (0.25 + 1) / 2, rel=1e-4)
    levels = dict(inherit=(a,), explore=(b,))
    assert ExplorationBranch('x', decorrelation=0).losses(levels) == {}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_decorrelation_is_finite_where_nothing_is_explored_yet(
    dtype: torch.dtype,
) -> None:
    explored = torch.zeros(1, 4, 1, 1, dtype=dtype, requires_grad=True)
    inherit = torch.randn(1, 4, 1, 1, dtype=dtype)
    loss = ExplorationBranch('x').losses(dict(inherit=(inherit,), explore=(explored,)))
    assert loss['decorrelation'].dtype is torch.float32
    loss['decorrelation'].backward()
    assert loss['decorrelation'].item() == 0
    assert explored.grad is not None and explored.grad.isfinite().all()


def test_decorrelation_in_training_makes_the_parts_orthogonal(
    student: Student, images: Tensor
) -> None:
    branch = ExplorationBranch('stem', decorrelation=1.0)
    branch.attach(student)
    explore(branch)
    layer: Any = student.stem.conv
    optimizer = torch.optim.SGD([layer.explore.weight], 0.1)
    values = []
    for _ in range(40):
        parts = dict(inherit=(layer.inherit(images),), explore=(layer.explore(images),))
        loss = branch.losses(parts)['decorrelation']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] / 2


def test_an_unknown_path_names_the_nearest(student: Student) -> None:
    branch = ExplorationBranch(['fc', 'conv'])
    with pytest.raises(TapNotFoundError) as info:
        branch.attach(student)
    assert info.value.available[0] == 'convs'
    # Nothing half done.
    assert type(student.fc) is nn.Linear and not branch.attached
    with pytest.raises(ConfigError, match='attach'):
        branch.fold({})


def test_a_module_without_linear_layers_is_an_error(student: Student) -> None:
    with pytest.raises(ConfigError, match="no linear layer at or below 'act'"):
        ExplorationBranch('act').attach(student)


def test_a_layer_that_is_not_linear_in_its_weight_is_left_alone() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight / self.weight.std(), self.bias)

    model = nn.Sequential(nn.Sequential(Standardised(3, 3, 1)), nn.Conv2d(3, 3, 1))
    with pytest.raises(ConfigError, match='no linear layer'):
        ExplorationBranch('0').attach(model)


def test_two_branches_on_one_layer_are_an_error(student: Student) -> None:
    ExplorationBranch('convs').attach(student)
    with pytest.raises(ConfigError, match='already'):
        ExplorationBranch(['fc', 'convs.1']).attach(student)
    assert type(student.fc) is nn.Linear


def test_it_moves_to_another_student(student: Student) -> None:
    branch, other = ExplorationBranch('fc'), Student()
    branch.attach(student)
    branch.attach(other)
    assert type(student.fc) is nn.Linear and isinstance(other.fc, ParallelLinear)


def test_a_copied_layer_keeps_its_parts_together(
    student: Student, images: Tensor
) -> None:
    branch = ExplorationBranch(EVERYTHING)
    branch.attach(student)
    other, twin = copy.deepcopy((student, branch))
    explore(twin)
    assert torch.equal(student(images), other(images)) is False
    twin.detach()
    assert type(other.fc) is nn.Linear and isinstance(student.fc, ParallelLinear)
    assert branch.attached


def test_the_parallel_layer_has_the_type_and_device_of_the_layer() -> None:
    layer = nn.Conv2d(4, 8, (3, 1), stride=(2, 1), groups=2, dtype=torch.float64)
    parallel = ParallelLinear(layer.eval())
    twin = parallel.explore
    assert twin.weight.dtype is torch.float64
    assert twin.weight.shape == layer.weight.shape
    assert parallel(torch.randn(1, 4, 9, 9, dtype=torch.float64)).shape == (1, 8, 4, 9)
    assert not parallel.training
