"""Promise: an accelerated teacher yields what the teacher yields, or is not used."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from mkd_det.errors import ConfigError
from mkd_det.structures import Levels
from mkd_det.taps import Tap
from mkd_det.teachers import engine_choice
from mkd_det.teachers.engine import SPEEDS, Engine, Speedup, accelerate
from mkd_det.teachers.engine_choice import choose_engine, relative_differences
from mkd_det.teachers.loading import Teacher
from mkd_det.teachers.norm_pairs import NormPairFinder

HALVES = (torch.bfloat16, torch.float16)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Two convolutions with norms, and everything that makes a pair doubtful."""

    def __init__(self) -> None:
        super().__init__()
        # The order of children is not that of the calls.
        self.norm2 = nn.BatchNorm2d(6)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.conv1 = nn.Conv2d(3, 6, 3, bias=False)
        self.shared = nn.Conv2d(6, 6, 1)
        self.norm3, self.norm4 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.changed, self.norm5 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.free = nn.BatchNorm2d(6)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        x = self.norm1(self.conv1(x)).relu_()
        x = self.norm2(self.conv2(x)).relu_()
        y = self.shared(x)
        x = self.norm3(y) + self.norm4(y)
        x = self.norm5(self.changed(x).relu_())
        return self.free(x)


def block(seed: int = 0) -> Block:
    """With statistics that matter."""
    generator = torch.Generator().manual_seed(seed)
    model = Block()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
            conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
    return model.eval().requires_grad_(False)


def pairs_of(model: nn.Module, **taps: str) -> set[tuple[str, str]]:
    finder = NormPairFinder()
    with finder.watch(model), torch.no_grad():
        model(IMAGES)
    return set(finder.pairs(model, map(Tap.parse, taps.values())))


def engine_of(model: nn.Module, wanted: str, **taps: str) -> Engine:
    known = {name: Tap.parse(text) for name, text in taps.items()}
    finder = NormPairFinder()
    with finder.watch(model), torch.no_grad():
        model(IMAGES)
    pairs = finder.pairs(model, known.values())
    return choose_engine(
        't', model, wanted, pairs, lambda engine: engine.run(IMAGES, known)
    )


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the choice of an engine logs."""
    logger = logging.getLogger('speed')
    logger.setLevel(logging.INFO)
    monkeypatch.setattr(engine_choice.MMLogger, 'get_current_instance', lambda: logger)
    caplog.set_level(logging.INFO)
    return caplog


def test_a_pair_is_what_the_tensors_say_it_is() -> None:
    assert pairs_of(block()) == {('conv1', 'norm1'), ('conv2', 'norm2')}


@pytest.mark.parametrize(
    ('tap', 'kept'),
    [
        ('conv1', {('conv2', 'norm2')}),
        ('norm1:in', {('conv2', 'norm2')}),
        ('conv1:in', {('conv1', 'norm1'), ('conv2', 'norm2')}),
        ('norm1', {('conv1', 'norm1'), ('conv2', 'norm2')}),
    ],
)
def test_a_tap_between_conv_and_norm_keeps_them_apart(
    tap: str, kept: set[tuple[str, str]]
) -> None:
    assert pairs_of(block(), one=tap) == kept


def test_a_norm_called_on_something_else_too_is_no_pair() -> None:
    class Twice(Block):
        def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
            return self.norm1(self.conv1(x)) + self.norm1(torch.ones(2, 6, 1, 1))

    assert pairs_of(Twice().eval()) == set()


def test_exact_equals_the_plain_teacher_within_rounding() -> None:
    model = block()
    before = copy.deepcopy(model.state_dict())
    engine = engine_of(model, 'exact', out='free')
    assert engine.speedup.speed == 'exact'
    assert len(engine.speedup.pairs) == 2
    assert isinstance(engine.model.get_submodule('norm1'), nn.Identity)
    taps = dict(last=Tap.parse('norm5'), out=Tap.parse('free'))
    plain = Engine(model, Speedup('off')).run(IMAGES, taps)
    found = engine.run(IMAGES, taps)
    assert max(relative_differences(plain, found).values()) < 1e-5
    assert all(level.is_contiguous() for level in found['out'])
    # The teacher itself is as it was.
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_fast_is_half_precision_inside_and_single_outside() -> None:
    model = block()
    engine = engine_of(model, 'fast', out='free')
    assert engine.speedup.dtype == torch.bfloat16
    assert engine.model.get_submodule('conv1').weight.dtype == torch.bfloat16
    taps = dict(out=Tap.parse('free'))
    found = engine.run(IMAGES, taps)
    assert found['out'][0].dtype == torch.float32
    difference = relative_differences(
        Engine(model, Speedup('off')).run(IMAGES, taps), found
    )
    assert 1e-5 < difference['out'] < 0.03


def test_float16_where_bfloat16_is_too_coarse(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in deep chains of depthwise and pointwise convolutions."""
    monkeypatch.setattr(engine_choice, 'half_types', lambda _: HALVES)
    monkeypatch.setitem(engine_choice.LIMITS, 'fast', 2e-3)
    model, taps = block(), dict(out=Tap.parse('free'))
    engine = engine_of(model, 'fast', out='free')
    assert engine.speedup.dtype == torch.float16
    assert 'bfloat16; not used: relative difference' in log.text
    assert "runs at speed 'fast': 2 batch norms folded" in log.text
    found = engine.run(IMAGES, taps)
    assert found['out'][0].dtype == torch.float32
    plain = Engine(model, Speedup('off')).run(IMAGES, taps)
    assert 1e-5 < relative_differences(plain, found)['out'] < 2e-3


def test_float16_is_not_used_where_a_layer_inside_is_near_its_range(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, taps = block(), dict(inside=Tap.parse('shared'), out=Tap.parse('free'))
    plain = Engine(model, Speedup('off'))
    factor = 2e4 / float(plain.run(IMAGES, taps)['inside'][0].abs().max())
    for value in (model.shared.weight, model.shared.bias):
        value.mul_(factor)
    for norm in (model.norm3, model.norm4):
        norm.running_mean.mul_(factor)
        norm.running_var.mul_(factor**2)
    monkeypatch.setattr(engine_choice, 'half_types', lambda _: HALVES[1:])
    assert engine_of(model, 'fast', out='free').speedup.speed == 'exact'
    assert 'values of up to 2e+04' in log.text
    assert 'nan' not in log.text
    # What is tapped says nothing of it.
    assert plain.run(IMAGES, taps)['out'][0].abs().max() < 2000


def test_a_resumed_training_keeps_its_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first batch of the resumed part would choose the other."""
    monkeypatch.setattr(engine_choice, 'half_types', lambda _: HALVES)
    for half in ('float16', 'bfloat16'):
        model = distiller(tmp_path, 'fast')
        model.teachers.keep_speeds({'t': ['fast', 'cpu', 'fast', half]})
        terms_of(model)
        assert model.teachers.speeds == {'t': ['fast', 'cpu', 'fast', half]}


def test_off_is_the_model_itself() -> None:
    model = block()
    assert engine_of(model, 'off', out='free').model is model


def test_what_says_something_else_is_not_used(log: Any) -> None:
    class Skip(Block):
        """The convolution is read by more than its norm: folding is wrong."""

        def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
            x = self.conv1(x)
            return self.free(self.norm1(x) + x)

    model = Skip().eval()
    model.norm1.running_mean.fill_(3.0)
    engine = engine_of(model, 'auto', out='free')
    assert engine.model is model
    assert 'yields something else' in log.text
    assert "runs at speed 'off' (chosen by 'auto'): as it is" in log.text


def test_numbers_that_are_none_are_a_difference_too(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: nn.Module, speedup: Speedup) -> nn.Module:
        result = accelerate(model, speedup)
        if speedup.dtype is not None:
            result.get_submodule('conv2').weight.fill_(float('nan'))
        return result

    monkeypatch.setattr(engine_choice, 'accelerate', broken)
    engine = engine_of(block(), 'fast', out='free')
    assert engine.speedup.speed == 'exact'
    assert 'nan' in log.text


def test_layers_that_know_one_precision_only_go_without(log: Any) -> None:
    class Picky(Block):
        def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
            x = self.conv1(x)
            if x.dtype != torch.float32:
                raise RuntimeError('expected float')
            return self.free(self.norm1(x))

    engine = engine_of(Picky().eval(), 'fast', out='free')
    assert engine.speedup.speed == 'exact'
    assert 'expected float' in log.text


@pytest.mark.parametrize(
    ('device', 'capability', 'deterministic', 'expected'),
    [
        ('cpu', (0, 0), False, 'exact'),
        ('mps', (0, 0), False, 'exact'),
        ('cuda', (6, 1), False, 'exact'),
        ('cuda', (7, 0), False, 'fast'),
        ('cuda', (9, 0), False, 'fast'),
        ('cuda', (9, 0), True, 'exact'),
    ],
)
def test_auto_is_a_rule(
    device: str,
    capability: tuple[int, int],
    deterministic: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _: capability)
    monkeypatch.setattr(
        torch, 'are_deterministic_algorithms_enabled', lambda: deterministic
    )
    assert engine_choice.speed_on(torch.device(device)) == expected


def test_equal_commands_give_equal_numbers(tmp_path: Path) -> None:
    """By default, and without asking for determinism."""
    first, second = (distiller(tmp_path, 'auto') for _ in range(2))
    assert terms_of(first) == terms_of(second)
    assert first.teachers.speeds == {'t': ['exact', 'cpu', 'auto']}


def test_doubles_are_never_made_half(log: Any) -> None:
    model = block().double()
    taps = dict(out=Tap.parse('free'))
    engine = choose_engine(
        't', model, 'fast', (), lambda e: e.run(IMAGES.double(), taps)
    )
    assert engine.speedup.speed == 'exact'
    assert 'no half precision' in log.text


def test_an_unknown_speed_is_refused() -> None:
    with pytest.raises(ConfigError, match='exact') as error:
        Teacher.build('t', dict(cfg=tiny.gfl(), checkpoint=None, speed='exakt'))
    assert set(error.value.available) == set(SPEEDS)


def distiller(tmp_path: Path, how: str) -> Any:
    teacher = tiny.gfl(base_channels=8, neck=16)
    file = tiny.write_checkpoint(teacher, tmp_path / 't.pth')
    cfg = tiny.distiller(tiny.gfl(), teacher)
    cfg['teachers']['t'].update(checkpoint=str(file), speed=how)
    return tiny.build(cfg)


def terms_of(model: Any) -> dict[str, float]:
    data = model.data_preprocessor(tiny.batch(), True)
    losses = model(**data, mode='loss')
    return {k: float(v) for k, v in losses.items() if isinstance(v, Tensor)}


@pytest.mark.parametrize(('how', 'tolerance'), [('exact', 1e-3), ('fast', 0.05)])
def test_a_detectors_terms_are_the_same_at_every_speed(
    how: str, tolerance: float, tmp_path: Path
) -> None:
    plain = terms_of(distiller(tmp_path, 'off'))
    model = distiller(tmp_path, how)
    before = copy.deepcopy(model.teachers['t'].model.state_dict())
    found = terms_of(model)
    engine = model.teachers.runners['t'].engine
    assert engine.speedup.speed == how
    assert engine.speedup.pairs
    assert not any(p.requires_grad for p in engine.model.parameters())
    assert found == pytest.approx(plain, rel=tolerance, abs=1e-4)
    after = model.teachers['t'].model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_moved_teacher_gets_a_new_engine(tmp_path: Path) -> None:
    model = distiller(tmp_path, 'exact')
    terms_of(model)
    model.double()
    assert model.teachers.runners['t'].engine is None
    images = torch.randn(1, 3, 64, 64).double()
    seen = model.teachers.run('t', images, model.plan.reads['t'])
    assert seen['stages'][0].dtype == torch.float64
    weight = next(model.teachers.runners['t'].engine.model.parameters())
    assert weight.dtype == torch.float64


def test_a_resumed_training_keeps_the_speed_of_its_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first batch of the whole training is near the limit, that of the resumed one
    # is over it.
    differences = iter([2e-3, 0.5, 0.5, 0.5, 5e-4])
    monkeypatch.setattr(engine_choice, 'half_types', lambda _: HALVES)
    monkeypatch.setattr(
        engine_choice, 'relative_differences', lambda *_: {'a': next(differences)}
    )
    first = distiller(tmp_path, 'fast')
    terms_of(first)
    expected = {'t': ['fast', 'cpu', 'fast', 'bfloat16']}
    assert first.teachers.speeds == expected
    assert first.state_dict()._metadata['']['distill']['speeds'] == expected
    again = distiller(tmp_path, 'fast')
    again.teachers.keep_speeds(expected)
    terms_of(again)
    assert again.teachers.speeds == expected
    # Of another kind of device: the batch decides anew.
    elsewhere = distiller(tmp_path, 'fast')
    elsewhere.teachers.keep_speeds({'t': ['fast', 'cuda', 'fast']})
    terms_of(elsewhere)
    assert elsewhere.teachers.speeds == {'t': ['exact', 'cpu', 'fast']}


def test_a_changed_speed_is_not_what_the_checkpoint_says(tmp_path: Path) -> None:
    for saved in (['fast', 'cpu', 'auto'], ['fast', 'cpu']):
        model = distiller(tmp_path, 'exact')
        model.teachers.keep_speeds({'t': saved})
        terms_of(model)
        assert model.teachers.speeds == {'t': ['exact', 'cpu', 'exact']}


def test_entries_of_one_speed_serve_no_other(tmp_path: Path) -> None:
    folder = tmp_path / 'cache'
    found = {}
    for how in ('off', 'exact', 'fast', 'auto'):
        model = distiller(tmp_path, how)
        model.teachers.runners['t'].cache = folder
        terms_of(model)
        found[how] = model.teachers.runners['t'].store
        assert len(list(folder.glob('*.sqlite'))) == min(len(found), 3)
    assert [store.hits for store in found.values()] == [0, 0, 0, 2]
    assert found['auto'].path == found['exact'].path
    # The training's autocast is a part of how the plain model runs.
    model = distiller(tmp_path, 'off')
    model.teachers.runners['t'].cache = folder
    with torch.autocast('cpu', torch.bfloat16):
        terms_of(model)
    assert model.teachers.runners['t'].store.path != found['off'].path


def test_the_plan_says_how_the_teacher_runs(tmp_path: Path) -> None:
    model = distiller(tmp_path, 'exact')
    count = len(model.plan.reads['t'].norm_pairs)
    assert count > 10
    table = model.plan.table(width=200)
    assert f"speed 'exact', {count} batch norms to fold" in table


def test_differences_are_relative_and_the_largest_of_the_levels() -> None:
    ones = torch.ones(4)
    plain: dict[str, Levels] = dict(a=(ones, (ones, ones * 2)))
    other: dict[str, Levels] = dict(a=(ones, (ones, ones * 2.5)))
    assert relative_differences(plain, other) == pytest.approx(dict(a=0.25))


def test_exact_is_float32_also_inside_of_the_trainings_autocast(tmp_path: Path) -> None:
    model = distiller(tmp_path, 'exact')
    plain = terms_of(distiller(tmp_path, 'off'))
    with torch.autocast('cpu', torch.bfloat16):
        terms_of(model)
    assert model.teachers.speeds == {'t': ['exact', 'cpu', 'exact']}
    assert terms_of(model) == pytest.approx(plain, rel=1e-3, abs=1e-4)


def test_a_rank_goes_without_what_another_rank_refuses(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other rank accepts 'exact' only.
    answers = iter([False, False, True])
    monkeypatch.setattr(engine_choice, 'half_types', lambda _: HALVES)
    monkeypatch.setattr(
        engine_choice, 'all_gather_object', lambda ours: [ours, next(answers)]
    )
    assert engine_of(block(), 'fast', out='free').speedup.speed == 'exact'


def test_a_subclass_of_a_convolution_is_not_folded() -> None:
    class Standardised(nn.Conv2d):
        """Changes its weight before it uses it."""

    model = block()
    model.conv1 = Standardised(3, 6, 3, bias=False)
    assert pairs_of(model) == {('conv2', 'norm2')}


def test_an_averaged_copy_may_move_without_the_teachers(tmp_path: Path) -> None:
    model = distiller(tmp_path, 'exact')
    terms_of(model)
    average = copy.deepcopy(model).double()
    assert average.teachers is model.teachers
    assert next(model.teachers['t'].model.parameters()).dtype == torch.float32
    assert model.teachers.runners['t'].engine is not None
    model.double()
    assert next(model.teachers['t'].model.parameters()).dtype == torch.float64
