"""Calibration: fixed weights from shares; what was written is what is trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import hook_runs
import tiny
import tiny_images
from mkd_det.config import DistillConfig
from mkd_det.config_files.reading import load_config
from mkd_det.errors import ConfigError, DivergenceError, ExperimentError, PathError
from mkd_det.experiments.calibration import Calibration, Settings, calibrate
from mkd_det.experiments.calibration.config_file import (
    apply_weights,
    calibration_table,
    write_calibrated,
)
from mkd_det.experiments.calibration.measure import RecordingShare
from mkd_det.experiments.calibration.run import asked_shares
from mkd_det.plan.recipes import apply_recipe, read_recipe
from tooling import fails, run_command

SHARES = dict(loss_attention=2.0, loss_soft=0.5)
TERMS: dict[str, Any] = dict(
    loss_attention=dict(
        type='AttentionKD', student='stages', teacher='t.stages', share=2.0, weight=40.0
    ),
    loss_soft=dict(
        type='SoftOutputKD', student='head', teacher='t.head', share=3.0, weight=0.5
    ),
    loss_relation=dict(
        type='RelationKD', relation='spatial', student='fpn', teacher='t.fpn'
    ),
)
TAPS = dict(fpn='neck', stages='backbone', head='bbox_head')
SETTINGS = Settings(iters=12, interval=2)


def config(root: Path, terms: dict[str, Any] | None = None, **more: Any) -> Config:
    """A training of 16 iterations of a GFL by a GFL."""
    cfg = hook_runs.distill_cfg(root, 4, images=8, terms=terms or TERMS, **more)
    cfg.model.taps = TAPS
    return cfg


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Calibration]:
    """A config and its calibration."""
    cfg = config(tmp_path_factory.mktemp('calibrated'))
    before = cfg.to_dict()
    calibration = calibrate(cfg, dict(loss_soft=0.5), SETTINGS)
    assert cfg.to_dict() == before
    assert not Path(cfg.work_dir).exists()
    return cfg, calibration


def test_each_term_has_the_weight_of_its_share(
    found: tuple[Config, Calibration],
) -> None:
    calibration = found[1]
    assert (calibration.iters, calibration.seed) == (12, 0)
    assert calibration.kept == dict(loss_relation=1.0)
    assert {n: t.share for n, t in calibration.terms.items()} == SHARES
    for name, term in calibration.terms.items():
        assert term.before == TERMS[name]['weight']
        assert 0 < term.low <= term.measured <= term.high
        assert term.weight * term.measured == pytest.approx(term.share, rel=1e-3)


def test_a_training_with_these_weights_has_the_shares(
    found: tuple[Config, Calibration], tmp_path: Path
) -> None:
    """Measured by the hook, which knows nothing of a calibration."""
    cfg, calibration = found
    cfg = apply_weights(cfg, calibration)
    cfg.work_dir = str(tmp_path / 'run')
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg[key] = None
    cfg.default_hooks.checkpoint = None
    cfg.custom_hooks = [dict(type='GradientShareHook', interval=1, high=1e9)]
    runner = hook_runs.build(cfg, 'with_shares')
    runner.train()
    for name, share in SHARES.items():
        key = f'train/stat_share_{name.removeprefix("loss_")}'
        had = runner.message_hub.get_scalar(key).data[0][3:12]
        mean = math.exp(sum(map(math.log, had)) / len(had))
        assert share / 2 < mean < share * 2, (name, list(had))


def test_equal_seeds_give_equal_weights_and_others_do_not(
    found: tuple[Config, Calibration],
) -> None:
    own, again, other = (
        calibrate(found[0], None, Settings(3, 1, seed=seed)) for seed in (7, 7, None)
    )
    assert own == again
    assert (own.seed, other.seed) == (7, 0) and other.weights != own.weights


def test_it_says_what_it_has_measured_on_where_the_backbone_is_frozen(
    tmp_path: Path,
) -> None:
    cfg = config(tmp_path, dict(loss_soft=TERMS['loss_soft']))
    cfg.model.student.backbone.frozen_stages = 4
    assert calibrate(cfg, None, Settings(3, 1)).on == 'neck'


def test_the_weight_of_before_does_not_matter(
    found: tuple[Config, Calibration], tmp_path: Path
) -> None:
    terms = {n: dict(term) for n, term in TERMS.items()}
    terms['loss_attention']['weight'] = 0.04
    again = calibrate(config(tmp_path, terms), dict(loss_soft=0.5), SETTINGS)
    wanted = found[1].weights
    assert again.weights == pytest.approx(wanted, rel=0.02)


def test_what_was_written_is_the_config_with_these_weights(
    found: tuple[Config, Calibration], tmp_path: Path
) -> None:
    cfg, calibration = found
    base, out = tmp_path / 'base.py', tmp_path / 'new' / 'out.py'
    cfg.dump(base)
    write_calibrated(out, str(base), cfg, calibration)
    text = out.read_text()
    assert "_base_ = ['../base.py']" in text and len(text.splitlines()) < 25
    written = load_config(str(out))
    assert written.to_dict() == apply_weights(cfg, calibration).to_dict()
    for name, weight in calibration.weights.items():
        assert written.model.terms[name].weight == weight
        assert written.model.terms[name].share == SHARES[name]
    # With overrides, or of a pure-Python config, it stands alone.
    write_calibrated(out, str(base), cfg, calibration, {'model.probe_size': 64})
    assert '_base_ = [' not in out.read_text()
    assert load_config(str(out)).to_dict() == written.to_dict()


def test_a_balance_is_replaced_by_fixed_weights(
    found: tuple[Config, Calibration], tmp_path: Path
) -> None:
    calibration = found[1]
    cfg = config(tmp_path, balance=dict(type='GradientShare', shares=SHARES))
    base, out = tmp_path / 'base.py', tmp_path / 'out.py'
    cfg.dump(base)
    write_calibrated(out, str(base), cfg, calibration)
    assert load_config(str(out)).model.balance is None
    assert apply_weights(cfg, calibration).model.balance is None


def test_what_others_wrote_is_not_overwritten(
    found: tuple[Config, Calibration], tmp_path: Path
) -> None:
    cfg, calibration = found
    base, out = tmp_path / 'base.py', tmp_path / 'mine.py'
    cfg.dump(base)
    out.write_text('mine = 1\n')
    with pytest.raises(PathError, match='not written by calibrate') as caught:
        write_calibrated(out, str(base), cfg, calibration)
    assert 'mine_calibrated.py' in caught.value.fix
    assert out.read_text() == 'mine = 1\n'
    with pytest.raises(ConfigError, match='input'):
        write_calibrated(base, str(base), cfg, calibration)


def distill(terms: dict[str, Any], **more: Any) -> DistillConfig:
    given = dict(teachers=dict(t=dict(cfg='t.py', checkpoint=None)), terms=terms)
    return DistillConfig.parse({**given, **more}, {})


def test_shares_come_from_terms_balance_and_arguments() -> None:
    assert asked_shares(distill(TERMS), {}) == dict(loss_attention=2.0, loss_soft=3.0)
    balance = dict(type='GradientShare', shares=dict(loss_soft=4.0))
    held = distill(TERMS, balance=balance)
    assert asked_shares(held, {}) == dict(loss_attention=2.0, loss_soft=4.0)
    assert asked_shares(held, dict(loss_soft=5.0))['loss_soft'] == 5.0
    all_alike = distill(TERMS, balance=dict(type='GradientShare', shares=0.5))
    assert set(asked_shares(all_alike, {}).values()) == {0.5}
    off = {**TERMS, 'loss_soft': {**TERMS['loss_soft'], 'weight': 0}}
    assert asked_shares(distill(off), {}) == dict(loss_attention=2.0)


@pytest.mark.parametrize(
    'given, words',
    [
        (dict(loss_sfot=1.0), 'loss_soft'),
        (dict(loss_soft=0.0), 'above 0'),
        (dict(loss_soft=float('nan')), 'above 0'),
    ],
)
def test_shares_that_say_nothing_are_told(given: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked_shares(distill(TERMS), given)
    assert words in str(caught.value)


def test_a_config_without_shares_is_told_what_to_write() -> None:
    terms = dict(loss_relation=TERMS['loss_relation'])
    with pytest.raises(ConfigError, match='no term has a share') as caught:
        asked_shares(distill(terms), {})
    assert '--shares loss_relation=1.0' in caught.value.fix


def test_a_term_that_does_not_reach_the_module_is_told(tmp_path: Path) -> None:
    terms = dict(
        loss_attention=dict(
            type='AttentionKD', student='stages', teacher='t.stages', share=1.0
        )
    )
    with pytest.raises(ExperimentError, match='loss_attention') as caught:
        calibrate(config(tmp_path, terms), None, Settings(4, 2, on='neck'))
    assert '--on' in caught.value.fix


def test_a_plain_config_is_refused(tmp_path: Path) -> None:
    data = tiny.write_coco(tmp_path / 'coco')
    with pytest.raises(ConfigError, match='no distill config'):
        calibrate(tiny.runner_cfg(tiny.gfl(4, 8), data, tmp_path / 'run'))
    for wrong in (dict(iters=0), dict(interval=0)):
        with pytest.raises(ConfigError, match='at least 1'):
            Settings(**wrong)


def test_the_table_says_asked_had_and_weight(
    found: tuple[Config, Calibration],
) -> None:
    table = calibration_table(found[1])
    columns = {str(c.header): list(c.cells) for c in table.columns}
    assert columns['term'] == ['loss_attention', 'loss_soft', 'loss_relation']
    assert columns['share asked'] == ['2', '0.5', 'none given']
    had = float(columns['share had'][0])
    assert had == pytest.approx(
        40 * found[1].terms['loss_attention'].measured, rel=0.01
    )


# -- kinds of models --------------------------------------------------------------


def yolox(width: float) -> dict[str, Any]:
    """Config of a tiny YOLOX of three classes."""
    cfg = load_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py').model.to_dict()
    channels = [int(256 * width), int(512 * width), int(1024 * width)]
    cfg['backbone'].update(deepen_factor=0.33, widen_factor=width)
    cfg['neck'].update(in_channels=channels, out_channels=channels[0])
    cfg['bbox_head'].update(
        num_classes=3, in_channels=channels[0], feat_channels=channels[0]
    )
    cfg['data_preprocessor']['batch_augments'] = None
    return cfg


PAIRS: dict[str, tuple[Any, Any, str]] = {
    'retinanet': (tiny.retinanet(4, 8), tiny.retinanet(8, 16), 'soft_dense'),
    'faster_rcnn': (tiny.faster_rcnn(4, 8), tiny.faster_rcnn(8, 16), 'soft_two_stage'),
    'yolox': (0.125, 0.25, 'soft_dense'),
}


@pytest.mark.parametrize('name', PAIRS)
def test_other_kinds_of_detectors(name: str, tmp_path: Path) -> None:
    student, teacher, recipe = PAIRS[name]
    if name == 'yolox':
        student, teacher = yolox(student), yolox(teacher)
    read = read_recipe(f'mkd_det::_base_/recipes/{recipe}.py')
    file = tiny.write_checkpoint(teacher, tmp_path / 'teacher.pth')
    model = apply_recipe(
        student,
        dict(t=dict(cfg=teacher, checkpoint=str(file))),
        read.arguments,
        probe_size=64,
    )
    data = tiny.write_coco(tmp_path / 'coco', images=4)
    cfg = tiny.runner_cfg(model, data, tmp_path / 'run')
    calibration = calibrate(cfg, None, Settings(iters=2, interval=1))
    # Masks are in the recipe, and in no plan of a pair without masks.
    terms = {n: t for n, t in read.arguments['terms'].items() if 'masks' not in n}
    assert {n: t.share for n, t in calibration.terms.items()} == {
        name: term['share'] for name, term in terms.items()
    }
    assert all(0 < w < math.inf for w in calibration.weights.values())


def test_a_classifier(tmp_path: Path) -> None:
    read = read_recipe('mkd_det::_base_/recipes/kd_logits.py')
    teacher = tiny_images.classifier(base_channels=8)
    model = apply_recipe(
        tiny_images.classifier(),
        dict(t=dict(cfg=teacher, checkpoint=None)),
        read.arguments,
    )
    data = tiny_images.write_folder(tmp_path / 'images', 6)
    cfg = tiny_images.runner_cfg(model, data, tmp_path / 'run')
    calibration = calibrate(cfg, None, Settings(iters=3, interval=1))
    assert set(calibration.weights) == {'loss_soft'}


# -- the command ------------------------------------------------------------------


def test_the_command_writes_a_config_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config(tmp_path).dump('pair.py')
    argv = ['pair.py', '--iters', '4', '--shares', 'loss_soft=0.5']
    assert run_command('calibrate', [*argv, '--json', 'found.json']) == 0
    printed = capsys.readouterr().out
    assert 'share asked' in printed and 'mkd-det train pair_calibrated.py' in printed
    result = json.loads(Path('found.json').read_text())
    written = load_config('pair_calibrated.py')
    for name, share in SHARES.items():
        assert result['terms'][name]['share'] == share
        assert written.model.terms[name].weight == result['terms'][name]['weight']
    # Another time, it may write what it has written.
    assert run_command('calibrate', argv) == 0
    capsys.readouterr()
    fails(capsys, 'calibrate', ['pair.py', '--shares', 'x=1'], 'ConfigError', 'x')
    with pytest.raises(SystemExit) as caught:
        run_command('calibrate', ['pair.py', '--shares', 'loss_soft'])
    assert caught.value.code == 2
    assert 'TERM=SHARE' in capsys.readouterr().err


def test_ctrl_c_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config(tmp_path).dump('pair.py')

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RecordingShare, 'wanted_factors', stop)
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(temporary))
    assert run_command('calibrate', ['pair.py', '--iters', '4']) == 130
    assert 'Ctrl-C' in capsys.readouterr().err
    assert not Path('pair_calibrated.py').exists() and not list(temporary.iterdir())


def test_a_training_that_diverges_says_what_works(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.optim_wrapper.optimizer.lr = 1e30
    with pytest.raises(DivergenceError) as caught:
        calibrate(cfg, None, SETTINGS)
    assert 'mkd-det train CONFIG keeps' in caught.value.fix
