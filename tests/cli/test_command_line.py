"""`mkd-det`: commands are found by file, help is fast, exit codes suit a shell."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mkd_det
from mkd_det import cli, startup
from mkd_det.cli.common import command, command_parser, guard
from mkd_det.errors import ConfigError

FILES = sorted(p.stem for p in Path(cli.__path__[0]).glob('[a-z]*.py'))
USED_FIRST = ['distill', 'train', 'test', 'plan', 'export']
TOOLS = {
    'benchmark_step': 'benchmark',
    'compare': 'compare',
    'demo': 'demo',
    'export_student': 'export',
    'inspect_model': 'inspect',
    'plan': 'plan',
    'test': 'test',
    'train': 'train',
    'train_chain': 'chain',
}


def python(*argv: str, **settings: Any) -> subprocess.CompletedProcess:
    """Run this Python, with our checkout in reach and without a GPU."""
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, timeout=120, **settings
    )


# -- overview ------------------------------------------------------------------


def test_the_overview_has_a_line_for_every_command(
    capsys: pytest.CaptureFixture,
) -> None:
    assert cli.main(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    first = lines.index('commands that people use first:') + 1
    others = lines.index('other commands:') + 1
    assert lines[others - 2] == '' and others - 2 - first == 5
    rest = lines[others : others + len(FILES) - 5]
    named = [line.split()[0] for line in [*lines[first : first + 5], *rest]]
    assert sorted(named) == FILES
    assert named[: len(USED_FIRST)] == USED_FIRST
    assert all(len(line) <= 88 for line in lines)


@pytest.mark.parametrize('name', FILES)
def test_every_command_shows_an_example(
    name: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, '--help'])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f'usage: mkd-det {name} ')
    assert f'  mkd-det {name}' in shown.partition('\nexample')[2]


def test_a_command_is_found_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / 'greet.py').write_text(
        '"""Say hello."""\ndef main(argv):\n    print("hello", *argv)\n    return 7\n'
    )
    monkeypatch.setattr(cli, '__path__', [*cli.__path__, str(tmp_path)])
    assert cli.main(['greet', 'you']) == 7
    assert cli.main(['--help']) == 0
    shown = capsys.readouterr().out
    assert 'hello you' in shown and 'Say hello.' in shown
    sys.modules.pop('mkd_det.cli.greet')


def test_the_version_is_shown(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out == f'mkd_det {mkd_det.__version__}\n'


def test_an_unknown_command_is_an_error_with_the_nearest_ones(
    capsys: pytest.CaptureFixture,
) -> None:
    assert cli.main(['trian']) == 2
    assert 'available: train' in capsys.readouterr().err
    assert cli.main([]) == 2
    assert 'other commands:' in capsys.readouterr().out


@pytest.mark.parametrize(
    'argv', [['--help'], ['--version'], ['train', '--help'], ['chain', '--nonsense']]
)
def test_no_library_is_imported_before_arguments_are_parsed(argv: list[str]) -> None:
    code = (
        'import runpy, sys, atexit\n'
        f'sys.argv = ["mkd-det", *{argv}]\n'
        'atexit.register(lambda: print("loaded:", *sorted('
        '{"torch", "mmengine", "mmdet", "numpy"} & set(sys.modules))))\n'
        'runpy.run_module("mkd_det", run_name="__main__", alter_sys=False)\n'
    )
    done = python('-c', code)
    assert done.stdout.splitlines()[-1] == 'loaded:', done.stderr


@pytest.mark.parametrize(
    ('argv', 'orig_argv', 'expected'),
    [
        (['/env/bin/mkd-det', 'train'], ['python', '/env/bin/mkd-det', 'train'], True),
        (['-m', 'train'], ['python', '-u', '-m', 'mkd_det', 'train'], True),
        (['-m'], ['python', '-m', 'pytest'], False),
        (['tools/train.py'], ['python', 'tools/train.py'], False),
        (['-c'], ['python', '-c', 'import mkd_det'], False),
        ([''], ['python'], False),
    ],
)
def test_only_the_command_line_postpones_the_library(
    argv: list[str], orig_argv: list[str], expected: bool
) -> None:
    assert startup.is_command_line(argv, orig_argv) is expected


# -- exit codes ----------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    return command_parser('try', 'Tries.', 'mkd-det try')


@pytest.mark.parametrize(
    ('outcome', 'code', 'words'),
    [
        (None, 0, ''),
        (3, 3, ''),
        (ConfigError('no such key'), 2, 'ConfigError: no such key'),
        (KeyboardInterrupt(), 130, 'Stopped by Ctrl-C.'),
    ],
)
def test_what_ends_a_command_becomes_an_exit_code(
    outcome: Any, code: int, words: str, capsys: pytest.CaptureFixture
) -> None:
    def run(args: argparse.Namespace) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert command(parser, run)([]) == code
    message = capsys.readouterr().err
    assert len(message.strip().splitlines()) <= 1
    assert words in message


def test_a_bug_keeps_its_traceback() -> None:
    def run(args: argparse.Namespace) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command(parser, run)([])


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is on; behind an `&`, a shell has switched it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_libraries_make_of_ctrl_c_is_ctrl_c(
    capsys: pytest.CaptureFixture, ctrl_c: None
) -> None:
    """mmengine makes a SyntaxError of it while it writes a config."""

    def run(args: argparse.Namespace) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise SyntaxError('Failed to format the config file') from None

    assert command(parser, run)([]) == 130
    assert capsys.readouterr().err == '\nStopped by Ctrl-C.\n'
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(SyntaxError):
        command(parser, run)(['--debug'])


def test_ctrl_c_is_for_the_main_process(
    capfd: pytest.CaptureFixture, ctrl_c: None
) -> None:
    """Workers get it as well: they neither print a traceback nor end early."""

    def run(args: argparse.Namespace) -> None:
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                os._exit(8)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    assert command(parser, run)([]) == 0
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize(
    ('number', 'words'),
    [
        (errno.ENAMETOOLONG, 'File name too long'),
        (errno.EACCES, 'Permission denied'),
        (errno.ELOOP, 'symbolic links'),
    ],
)
def test_a_path_that_cannot_be_used_is_a_typed_error(
    number: int, words: str, capsys: pytest.CaptureFixture
) -> None:
    def main(argv: Any) -> None:
        raise OSError(number, os.strerror(number), 'a' * 300)

    assert guard(main)([]) == 2
    message = capsys.readouterr().err
    assert message.startswith('PathError: ') and words in message
    assert 'a' * 201 not in message

    def nameless(argv: Any) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError):
        guard(nameless)([])


def test_a_full_disk_is_a_typed_error_whoever_notices_it(
    capsys: pytest.CaptureFixture,
) -> None:
    def full(argv: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'some.log')

    def broken(argv: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert guard(full)([]) == 2
    message = capsys.readouterr().err
    assert message.startswith('CheckpointSaveError: some.log')
    with pytest.raises(OSError):
        guard(broken)([])


def test_a_reader_that_leaves_ends_a_command_quietly() -> None:
    code = (
        'import sys\n'
        'sys.argv = ["mkd-det"]\n'  # not all of the library
        'from mkd_det.cli.common import guard\n'
        'def main(argv):\n'
        '    for _ in range(100_000): print("a line of a long table")\n'
        'raise SystemExit(guard(main)([]))\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b''
    assert process.wait() == 1


def test_a_process_ends_with_code_2_and_no_traceback(
    root: Path, tmp_path: Path
) -> None:
    tool, config = str(root / 'tools/train.py'), str(tmp_path / 'gone.py')
    env = {**os.environ, 'PYTHONPATH': str(root)}
    done = python(tool, config, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert done.stderr.startswith('ConfigError: ')
    assert 'Traceback' not in done.stderr
    # mmdet's messages about itself, the same in each run, are not shown.
    assert 'OneDL' not in done.stdout and 'Warning' not in done.stderr
    assert list(tmp_path.iterdir()) == []


# -- mmdet's layout: tools/ ----------------------------------------------------


def test_every_tool_is_the_shim_of_a_command(root: Path) -> None:
    files = {p.stem: p for p in (root / 'tools').glob('[a-z]*.py')}
    assert files.keys() == TOOLS.keys()
    assert set(TOOLS.values()) <= set(FILES)
    for name, file in files.items():
        text = file.read_text()
        assert f'from mkd_det.cli.{TOOLS[name]} import main' in text
        assert len(text.splitlines()) < 15


@pytest.mark.parametrize('name', TOOLS)
def test_a_python_without_the_packages_is_told_in_one_line(
    name: str, root: Path
) -> None:
    # -S: nothing that is installed.
    done = python('-S', '-E', str(root / f'tools/{name}.py'), 'config.py')
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'has no torch' in line and '. .venv/bin/activate' in line


@pytest.mark.parametrize(
    ('script', 'given', 'expected'),
    [
        (
            'dist_train.sh',
            ['c.py', '2', '--work-dir', 'a b'],
            ['--nproc_per_node=2', 'train.py', 'c.py', '--launcher', 'pytorch', 'a b'],
        ),
        (
            'dist_test.sh',
            ['c.py', 'e.pth', '4', '--tta'],
            ['--nproc_per_node=4', 'test.py', 'c.py', 'e.pth', 'pytorch', '--tta'],
        ),
        (
            'slurm_train.sh',
            ['gpu', 'job', 'c.py', 'a b', '--amp'],
            ['-p', 'gpu', '--job-name=job', 'train.py', 'c.py', '--work-dir=a b']
            + ['--amp'],
        ),
    ],
)
def test_launchers_pass_their_arguments_on(
    script: str, given: list[str], expected: list[str], root: Path, tmp_path: Path
) -> None:
    for name in ('python', 'srun'):
        fake = tmp_path / name
        fake.write_text('#!/bin/sh\nfor part in "$@"; do echo "$part"; done\n')
        fake.chmod(0o755)
    done = subprocess.run(
        ['bash', str(root / 'tools' / script), *given],
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [Path(x).name if x.endswith('.py') else x for x in done.stdout.splitlines()]
    positions = [lines.index(part) for part in expected]
    assert positions == sorted(positions)
