"""The commands chain, compare and demo: arguments, exit codes, what they print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mkd_det.cli import chain, compare, demo
from mkd_det.errors import ExperimentError
from mkd_det.experiments.comparison.options import ComparisonOptions
from mkd_det.experiments.comparison.run import ComparisonOutcome

CHAIN = 'mkd_det.experiments.chain.run.run_chain'
COMPARE = 'mkd_det.experiments.comparison.run.compare'
DEMO = 'mkd_det.experiments.demo.run.run_demo'


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ('main', 'function', 'arguments'),
    [(chain.main, CHAIN, ['c.py']), (demo.main, DEMO, [])],
)
def test_ctrl_c_says_how_to_resume(
    main: Callable[[list[str]], int],
    function: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(function, interrupted)
    assert main(arguments) == 130
    assert 'same command again to resume' in capsys.readouterr().out


def test_chain_passes_its_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls = []
    row = dict(name='s', params=9, metric='top1', top1=50.0, guides=['t'])
    row |= dict(seconds=9.0, command='python x')

    def run_chain(*arguments: Any) -> SimpleNamespace:
        calls.append(arguments)
        return SimpleNamespace(results=[row], student='s.pth', figure='chain.png')

    monkeypatch.setattr(CHAIN, run_chain)
    options = ['--devices', 'cpu', '--beside', 'b', '--cfg-options', 'lam=0.25']
    assert chain.main(['mkd_det::chain/x.py', *options]) == 0
    (call,) = calls
    assert call[:2] == ('mkd_det::chain/x.py', Path('work_dirs/x'))
    assert call[2:] == ({'lam': 0.25}, ['cpu'], [Path('b')], None)
    output = capsys.readouterr().out
    assert 'taught by' in output and 's.pth' in output


def call_compare(monkeypatch: pytest.MonkeyPatch, *arguments: str, **more: Any) -> Any:
    """Exit code of the command, and what it called the library with."""
    calls: list[tuple] = []
    outcome = dict(comparison=None, report=Path('r'), failed={}, stopped=False)

    def function(*given: Any) -> ComparisonOutcome:
        calls.append(given)
        return ComparisonOutcome(**{**outcome, **more})

    monkeypatch.setattr(COMPARE, function)
    code = compare.main(list(arguments))
    return code, *(calls[0] if calls else ())


def test_compare_passes_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    code, base, rows, work_dir, options, out, command = call_compare(
        monkeypatch,
        *('a.py', '--base', 'alone.py', '--seeds', '3', '4', '--epochs', '2'),
        *('--teacher', 't.pth', '--teacher', 'u=u.pth', '--teacher-cfg', 'u=u.py'),
        *('--least', '0.5', '--metric', 'coco/bbox_mAP_50', '--devices', 'cpu'),
        *('--test', '--resamples', '50'),
    )
    assert (code, base, rows) == (0, 'alone.py', ['a.py'])
    assert (work_dir, out) == (Path('work_dirs/compare'), None)
    assert options == ComparisonOptions(
        seeds=[3, 4],
        teachers={'t': 't.pth', 'u': 'u.pth'},
        teacher_cfgs={'u': 'u.py'},
        epochs=2,
        metric='coco/bbox_mAP_50',
        least_gain=0.5,
        devices=['cpu'],
        test=True,
        resamples=50,
    )
    assert command.startswith('mkd-det compare a.py --base alone.py')


def test_compare_takes_rows_before_and_after_options() -> None:
    args = compare.make_parser().parse_args(['a.py', '--base', 'b.py', '--epochs', '1'])
    assert args.rows == ['a.py']
    args = compare.make_parser().parse_args(['--epochs', '1', 'a.py', 'c.py'])
    assert args.rows == ['a.py', 'c.py']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'nothing to compare with'),
        (['--base', 'b', '--seeds', '1', '1'], '1 is given twice'),
        (['--base', 'b', '--teacher', 'x', '--teacher', 't=y'], "are called 't'"),
    ],
)
def test_wrong_arguments_of_compare(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert call_compare(monkeypatch, 'a.py', *arguments)[0] == 2
    assert message in capsys.readouterr().err


def test_exit_codes_of_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = ['a.py', '--base', 'b.py']
    assert call_compare(monkeypatch, *arguments, stopped=True)[0] == 130
    assert 'same command again to resume' in capsys.readouterr().out
    failed = {'a, seed 0': ExperimentError('the training has failed')}
    assert call_compare(monkeypatch, *arguments, failed=failed)[0] == 2
    assert 'the training has failed' in capsys.readouterr().err


def test_devices_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,3')
    arguments = ['a.py', '--base', 'b.py', '--devices']
    args = compare.make_parser().parse_args([*arguments, '3', '2', 'cpu'])
    assert args.devices == ['3', '2', 'cpu']
    with pytest.raises(SystemExit):
        compare.make_parser().parse_args([*arguments, '0'])
    assert 'GPUs here: 2, 3' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'folder', 'images'),
    [
        (['--quick'], 'work_dirs/demo-quick', 12),
        (['--seed', '3'], 'work_dirs/demo', 400),
    ],
)
def test_demo_passes_its_arguments(
    arguments: list[str], folder: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def run_demo(*given: Any) -> None:
        calls.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(DEMO, run_demo)
    demo.main(arguments)
    work_dir, size, seed = calls[0]
    assert (work_dir, size.train) == (Path(folder), images)
    assert seed == (3 if '--seed' in arguments else 0)


@pytest.mark.parametrize(
    ('arguments', 'fix'),
    [
        (['--jobs', '3'], '--executor slurm'),
        (['--executor', 'slurm', '--devices', 'cpu'], 'gpus_per_node=1'),
        (['--executor', 'local', '--jobs', '2'], '--devices cpu cpu'),
        (['--executor', 'local', '--executor-options', 'x=1'], 'timeout_min=600'),
    ],
)
def test_wrong_arguments_of_an_executor(
    arguments: list[str],
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    code, *_ = call_compare(monkeypatch, 'a.py', '--base', 'b', *arguments)
    message = capsys.readouterr().err
    assert code == 2 and message.startswith('ConfigError') and fix in message


def test_an_executor_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    more = ['--executor', 'local', '--executor-options', 'timeout_min=9']
    call = call_compare(monkeypatch, 'a.py', '--base', 'b', *more)
    launcher = call[4].launcher
    assert (launcher.executor, launcher.options) == ('local', {'timeout_min': 9})
