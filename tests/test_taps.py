"""Taps: what is read is what the module yields, and every way to read nothing or
something else is a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.hub import get_config
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import tiny
from mkd_det.errors import (
    ConfigError,
    TapError,
    TapNoGradError,
    TapNotFoundError,
    TapOutputError,
    TapOverwrittenError,
    TapSilentError,
)
from mkd_det.heads.running import run_features
from mkd_det.taps import Tap, capture, frozen_state, strides_of


def hooks_in(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()
    )


class Net(nn.Module):
    """Three layers, and every bad habit on demand."""

    def __init__(self, habit: str = '') -> None:
        super().__init__()
        self.habit = habit
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=habit == 'in place')
        self.rest = nn.ModuleList([nn.Conv2d(4, 2, 1), nn.Conv2d(4, 5, 1, stride=2)])
        self.unused = nn.Conv2d(4, 4, 1)
        self.ran: list[str] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.one(x)
        if self.habit == 'reentrant':
            x = checkpoint(self.middle, x, use_reentrant=True)
        elif self.habit == 'checkpointed':
            x = checkpoint(self.middle, x, use_reentrant=False)
        else:
            x = self.middle(x)
        self.ran.append('rest')
        return tuple(layer(x) for layer in self.rest)

    def middle(self, x: Tensor) -> Tensor:
        self.ran.append('middle')
        call = self.two.forward if self.habit == 'forward' else self.two
        y = call(x)
        if self.habit == 'no_grad':
            with torch.no_grad():
                y = self.two(x)
        if self.habit == 'detached':
            y = y.detach()
        if self.habit == 'added':
            y += x
        return self.relu(y)


def read(model: nn.Module, tap: str | list[str], **how: Any) -> tuple:
    """Levels of one tap in one forward."""
    with capture(model, {'x': Tap.parse(tap)}, **how) as seen:
        model(torch.ones(1, 3, 8, 8))
    return seen['x']


# -- grammar ---------------------------------------------------------------------


def test_a_path_reads_what_comes_out_and_in_reads_what_goes_in() -> None:
    model = Net()
    out = model.two(model.one(torch.ones(1, 3, 8, 8)))
    (level,) = read(model, 'two')
    assert torch.equal(level, out)
    (level,) = read(model, 'two:in')
    assert torch.equal(level, model.one(torch.ones(1, 3, 8, 8)))


def test_in_reads_a_keyword_argument_too() -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(input=x)

    x = torch.ones(1, 2)
    model = ByName()
    with capture(model, {'x': Tap.parse('inner:in')}) as seen:
        model(x)
    assert seen['x'][0] is x


def test_call_reads_all_tensors_that_a_module_is_called_with() -> None:
    class Adds(nn.Module):
        def forward(
            self, maps: tuple[Tensor, ...], other: Tensor, mask: Tensor | None = None
        ) -> Tensor:
            return maps[0] + other

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adds = Adds()

        def forward(self, x: Tensor) -> Tensor:
            return self.adds((x, 2 * x), other=3 * x)

    tap, x = Tap.parse('adds:call'), torch.ones(1, 2)
    model = Outer()
    with capture(model, {'x': tap}) as seen:
        model(x)
    (level,) = seen['x']
    assert [float(tensor[0, 0]) for tensor in level] == [1, 2, 3]
    assert str(tap) == 'adds:call'
    named = Tap(
        ('adds',), inputs=True, whole=True, layout=lambda given: [given['other']]
    )
    with capture(model, {'x': named}) as seen:
        model(x)
    assert torch.equal(seen['x'][0], 3 * x)


def test_a_star_is_every_child_in_order() -> None:
    channels = [level.shape[1] for level in read(Net(), 'rest.*')]
    assert channels == [2, 5]
    paths = [path for path, _ in Tap.parse('rest.*').resolve(Net())]
    assert paths == ['rest.0', 'rest.1']


def test_a_star_skips_children_without_the_rest_of_the_path() -> None:
    model = tiny.build(tiny.gfl(4, 8))
    paths = [path for path, _ in Tap.parse('neck.*.*.conv').resolve(model)]
    assert paths[0] == 'neck.lateral_convs.0.conv' and len(paths) == 3 + 5


def test_a_list_is_one_tap_with_a_level_for_each_path() -> None:
    levels = read(Net(), ['rest.1', 'two', 'one'])
    assert [level.shape[1] for level in levels] == [5, 4, 4]
    assert levels[0].shape[-1] == 4


@pytest.mark.parametrize(
    'text', ['', ':in', 'two:out', 'two:in:in', 'two:calls', [], ['a', 'b:in'], 5]
)
def test_what_is_no_tap_is_told(text: Any) -> None:
    with pytest.raises(ConfigError):
        Tap.parse(text)


def test_a_tap_on_a_head_gives_a_tuple_for_each_level() -> None:
    model = tiny.build(tiny.gfl(4, 8))
    with capture(model, {'head': Tap.parse('bbox_head')}) as seen:
        run_features(model, torch.zeros(2, 3, 64, 64))
    assert [tuple(part.shape) for part in seen['head'][0]] == [
        (2, 3, 8, 8),
        (2, 68, 8, 8),
    ]
    assert [level[0].shape[-1] for level in seen['head']] == [8, 4, 2, 1, 1]


def test_a_shared_layer_called_five_times_gives_five_levels_in_order() -> None:
    model = tiny.build(tiny.gfl(4, 8))
    taps = {'shared': Tap.parse('bbox_head.gfl_cls'), 'head': Tap.parse('bbox_head')}
    with capture(model, taps) as seen:
        run_features(model, torch.randn(2, 3, 64, 64))
    assert seen.calls == {'shared': 5, 'head': 1}
    for level, head in zip(seen['shared'], seen['head'], strict=True):
        assert torch.equal(level, head[0])


def test_strides_are_those_of_the_model() -> None:
    model = tiny.build(tiny.gfl(4, 8))
    taps = {'neck': Tap.parse('neck'), 'stages': Tap.parse('backbone')}
    with capture(model, taps) as seen:
        run_features(model, torch.zeros(1, 3, 128, 256))
    assert strides_of(seen['neck'], (128, 256)) == (8, 16, 32, 64, 128)
    assert strides_of(seen['stages'], (128, 256)) == (4, 8, 16, 32)
    assert strides_of((torch.zeros(1, 7),), (128, 256)) == (None,)


# -- promise 8: a typed error, never a silent zero ------------------------------


def test_a_tap_that_names_nothing_lists_the_nearest_and_the_children() -> None:
    model = tiny.build(tiny.gfl(4, 8))
    with pytest.raises(TapNotFoundError) as caught:
        Tap.parse('backbone.layr3').resolve(model)
    error = caught.value
    assert error.actual == 'backbone.layr3'
    assert error.available[0] == 'backbone.layer3'
    assert 'backbone.conv1' in error.available
    with pytest.raises(TapNotFoundError) as caught:
        Tap.parse('bakbone').resolve(model)
    assert caught.value.available[0] == 'backbone'
    with pytest.raises(TapNotFoundError):
        Tap.parse('neck.fpn_convs.*.bn').resolve(model)


def test_a_container_that_never_fires_is_told_with_what_to_write() -> None:
    with pytest.raises(TapSilentError, match='ModuleList is a container') as caught:
        read(Net(), 'rest')
    assert caught.value.fix == "'rest.*'"
    assert caught.value.available == ('rest.0', 'rest.1')


@pytest.mark.parametrize('habit, path', [('forward', 'two'), ('', 'unused')])
def test_a_module_that_is_not_called_or_by_forward_is_told(
    habit: str, path: str
) -> None:
    with pytest.raises(TapSilentError, match=f'{path} never fired'):
        read(Net(habit), path)


def test_one_silent_path_of_a_list_is_enough() -> None:
    with pytest.raises(TapSilentError, match='unused never fired'):
        read(Net(), ['one', 'unused'])


@pytest.mark.parametrize(
    'habit, path', [('in place', 'two'), ('added', 'two'), ('in place', 'relu:in')]
)
def test_a_tap_before_an_in_place_operation_is_told(habit: str, path: str) -> None:
    with pytest.raises(TapOverwrittenError, match='changed in place'):
        read(Net(habit), path)
    # Behind the operation all is well, and without it, too.
    assert len(read(Net(habit), 'relu')) == 1
    assert len(read(Net(), path)) == 1


def test_the_real_case_of_it_a_batch_norm_inside_a_residual_block() -> None:
    model = tiny.build(tiny.gfl(4, 8))
    for path, bad in [('backbone.layer2.0.bn2', True), ('backbone.layer2.0', False)]:
        try:
            with capture(model, {'x': Tap.parse(path)}, need_grad=True):
                run_features(model, torch.randn(1, 3, 64, 64))
        except TapOverwrittenError as error:
            assert bad
            assert error.available == ('backbone.layer2.0',)
        else:
            assert not bad


def test_a_reentrantly_checkpointed_module_is_told() -> None:
    with pytest.raises(TapNoGradError, match='re-entrantly checkpointed'):
        read(Net('reentrant'), 'two', need_grad=True)
    # Around it, and inside the other kind of checkpoint, gradients flow.
    assert read(Net('reentrant'), 'one', need_grad=True)[0].requires_grad
    assert read(Net('checkpointed'), 'two', need_grad=True)[0].requires_grad


def test_the_real_case_of_it_a_backbone_with_cp() -> None:
    cfg = tiny.gfl(4, 8)
    cfg['backbone']['with_cp'] = True
    model = tiny.build(cfg)
    images = torch.randn(1, 3, 64, 64)
    inner = {'x': Tap.parse('backbone.layer2.1.conv2')}
    if _checkpoints_reentrantly():
        with pytest.raises(TapNoGradError), capture(model, inner, need_grad=True):
            run_features(model, images)
    with capture(model, {'x': Tap.parse('backbone')}, need_grad=True) as seen:
        run_features(model, images)
    seen['x'][1].sum().backward()
    assert model.backbone.conv1.weight.grad.any()


def _checkpoints_reentrantly() -> bool:
    """Whether `checkpoint` is re-entrant when nobody says, as in mmdet."""
    inside: list[bool] = []
    x = torch.ones(1, requires_grad=True)
    checkpoint(lambda t: (inside.append(torch.is_grad_enabled()), t * 2)[1], x)
    return not inside[0]


def test_a_capture_survives_the_second_forward_of_a_checkpoint() -> None:
    """Hooks are off by the time that backward runs the layer again."""
    model = Net('checkpointed')
    with capture(model, {'x': Tap.parse('two')}, need_grad=True) as seen:
        out = model(torch.ones(1, 3, 8, 8))
    (out[0].sum() + seen['x'][0].sum()).backward()
    assert model.two.weight.grad.any()
    assert seen.calls == {'x': 1} and len(seen['x']) == 1


@pytest.mark.parametrize('habit', ['no_grad', 'detached'])
def test_a_module_without_gradient_is_told(habit: str) -> None:
    with pytest.raises(TapNoGradError):
        read(Net(habit), 'relu' if habit == 'detached' else 'two', need_grad=True)


def test_frozen_layers_are_told() -> None:
    cfg = tiny.gfl(4, 8)
    cfg['backbone']['frozen_stages'] = 1
    model = tiny.build(cfg).train()
    images = torch.randn(1, 3, 64, 64)
    with (
        pytest.raises(TapNoGradError, match='without gradient') as caught,
        capture(model, {'x': Tap.parse('backbone.layer1')}, need_grad=True),
    ):
        run_features(model, images)
    assert 'frozen_stages=-1' in caught.value.fix
    # Where some levels are trained the tap is of use.
    with capture(model, {'x': Tap.parse('backbone')}, need_grad=True) as seen:
        run_features(model, images)
    assert [level.requires_grad for level in seen['x']] == [False, True, True, True]


@pytest.mark.parametrize(
    'value', [None, 'text', {'a': 1}, (), [torch.zeros(1), None], ([], [])]
)
def test_an_output_without_levels_is_told(value: Any) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()
            self.inner.forward = lambda x: value  # type: ignore[method-assign]

        def forward(self, x: Tensor) -> Tensor:
            self.inner(x)
            return x

    with pytest.raises(TapOutputError, match='inner yields'):
        read(Odd(), 'inner')


# -- nothing stays ---------------------------------------------------------------


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_hooks_come_off_whatever_happens(error: type[BaseException]) -> None:
    model = Net()
    with pytest.raises(error), capture(model, {'x': Tap.parse('two')}):
        model(torch.ones(1, 3, 8, 8))
        raise error
    assert hooks_in(model) == 0


@pytest.mark.parametrize('tap', ['rest', 'nothing', 'two'])
def test_hooks_come_off_after_errors_of_taps(tap: str) -> None:
    model = Net('forward')
    with pytest.raises(TapError):
        taps = {'good': Tap.parse('one'), 'bad': Tap.parse(tap)}
        with capture(model, taps):
            model(torch.ones(1, 3, 8, 8))
    assert hooks_in(model) == 0


def test_hooks_of_others_stay() -> None:
    model = Net()
    fired = []
    model.two.register_forward_hook(lambda *_: fired.append(1))
    read(model, 'two')
    read(model, 'two')
    assert hooks_in(model) == 1 and fired == [1, 1]


def test_taps_work_after_modules_were_replaced() -> None:
    """SyncBN conversion and its reversion, and the wrapping of a module."""
    model = tiny.build(tiny.gfl(4, 8)).eval()
    images = torch.randn(1, 3, 64, 64)
    taps = {'bn': Tap.parse('backbone.layer1.0.bn1:in'), 'fpn': Tap.parse('neck')}

    def levels(of: nn.Module) -> Iterator[Tensor]:
        with capture(of, taps) as seen, torch.no_grad():
            run_features(of, images)
        yield from (*seen['bn'], *seen['fpn'])

    before = list(levels(model))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    converted.neck = Wrapped(converted.neck)
    assert type(converted.backbone.layer1[0].bn1) is nn.SyncBatchNorm
    assert all(map(torch.equal, levels(converted), before))


class Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        return self.module(*args)


# -- no more than needed ---------------------------------------------------------


def test_no_layer_behind_the_last_tap_runs() -> None:
    model = Net()
    taps = {'x': Tap.parse('two'), 'y': Tap.parse('one')}
    with capture(model, taps) as whole:
        model(torch.ones(1, 3, 8, 8))
    assert model.ran == ['middle', 'rest']
    model.ran.clear()
    fired = []
    model.relu.register_forward_hook(lambda *_: fired.append('relu'))
    with capture(model, taps, stop_after=whole.calls) as seen:
        model(torch.ones(1, 3, 8, 8))
        pytest.fail('the forward was to be cut short')
    assert model.ran == ['middle'] and not fired
    assert torch.equal(seen['x'][0], whole['x'][0])
    assert torch.equal(seen['y'][0], whole['y'][0])
    assert hooks_in(model) == 1


def test_a_module_whose_input_is_the_last_tap_does_not_run_itself() -> None:
    model, fired = Net(), []
    for name in ('one', 'two'):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: fired.append(name))
    with capture(model, {'x': Tap.parse('two:in')}, stop_after={'x': 1}) as seen:
        model(torch.ones(1, 3, 8, 8))
    assert fired == ['one'] and len(seen['x']) == 1


def test_a_shared_layer_is_waited_for_until_its_last_call() -> None:
    model = tiny.build(tiny.gfl(4, 8))
    calls = {'cls': 0, 'reg': 0}
    for name in calls:

        def count(*_: Any, name: str = name) -> None:
            calls[name] += 1

        model.get_submodule(f'bbox_head.gfl_{name}').register_forward_hook(count)
    taps = {'cls': Tap.parse('bbox_head.gfl_cls')}
    images = torch.zeros(1, 3, 64, 64)
    with capture(model, taps) as whole:
        run_features(model, images)
    assert calls == {'cls': 5, 'reg': 5}
    with capture(model, taps, stop_after=whole.calls) as seen:
        run_features(model, images)
    assert len(seen['cls']) == 5
    assert calls == {'cls': 10, 'reg': 9}


def test_an_ordinary_error_is_not_taken_for_the_end() -> None:
    model = Net()
    with (
        pytest.raises(ValueError, match='mine'),
        capture(model, {'x': Tap.parse('two')}, stop_after={'x': 2}),
    ):
        model(torch.ones(1, 3, 8, 8))
        raise ValueError('mine')


def test_frozen_state_leaves_no_trace() -> None:
    model = tiny.build(tiny.gfl(4, 8)).train()
    model.backbone.eval()
    modes = [m.training for m in model.modules()]
    buffers = [b.clone() for b in model.buffers()]
    random = torch.get_rng_state()
    with pytest.raises(RuntimeError, match='inside'), frozen_state(model):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
        model.backbone.train()
        model.backbone(torch.randn(2, 3, 64, 64))
        raise RuntimeError('inside')
    assert [m.training for m in model.modules()] == modes
    assert all(map(torch.equal, model.buffers(), buffers))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_a_layout_makes_levels_of_an_output_of_another_form() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {'a': x, 'b': 2 * x}

    model, x = nn.Sequential(Named()), torch.ones(1, 2)
    with pytest.raises(TapOutputError), capture(model, {'x': Tap.parse('0')}):
        model(x)
    tap = Tap(('0',), layout=lambda value: [tuple(value.values())])
    with capture(model, {'x': tap}) as seen:
        model(x)
    assert len(seen['x']) == 1 and torch.equal(seen['x'][0][1], 2 * x)
    assert tap == Tap.parse('0') and str(tap) == '0'


def test_features_of_set_predictions_and_mask_heads_can_be_read() -> None:
    """Their heads do not run on features; backbone and neck run all the same."""
    cfg = get_config('mmdet::detr/detr_r50_8xb2-150e_coco.py').model
    cfg.backbone.init_cfg = None
    cfg.backbone.depth = 18
    cfg.neck.in_channels = [512]
    cfg.encoder.num_layers = cfg.decoder.num_layers = 1
    model = tiny.build(cfg).eval()
    taps = dict(neck=Tap.parse('neck'), deep=Tap.parse('backbone.layer4'))
    with torch.no_grad(), capture(model, taps) as seen:
        run_features(model, torch.zeros(1, 3, 64, 64))
    assert seen['neck'][0].shape == (1, 256, 2, 2)
    assert seen['deep'][0].shape[1] == 512
