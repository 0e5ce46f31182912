#!/usr/bin/env python3
"""Make the environment in which `make demo` and `make test` run.

    python3 scripts/setup_env.py [--venv .venv]

Needs nothing but Python 3.10+, a C++ compiler and a package index that pip can
reach. It makes a virtual environment (on top of the torch that this Python has,
if it has one that works), installs the versions of constraints.txt, builds mmcv's
operators for that torch, and checks that they run. What is done already is not
done again; all output goes to `<venv>/setup.log`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 6)
# Downloads of torch's CUDA build and of all else, and a build on two cores.
ABOUT = {
    'venv': '5 s',
    'torch': '1 to 10 minutes: a download of some GB',
    'mmcv': '7 minutes on two cores: compiles 78 files, once',
    'rest': '1 minute',
    'check': '10 s',
}
# What mim's look-up of configs imports (and pandas, which the test replaces).
MIM = ('onedl-mim', 'click', 'colorama', 'model-index', 'ordered-set', 'tabulate')
# Belongs to torch: not ours to pin when torch was there before us.
TORCH_STACK = re.compile(r'(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==')
# Import torch first: the operators are linked against its libraries.
TRY_MMCV = """
import torch, mmcv._ext
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 29., 29.]])
assert nms(boxes, torch.tensor([.9, .8, .7]), .5)[1].tolist() == [0, 2]
"""
HAS_CUDA = 'import torch; assert torch.cuda.is_available()'
TRY_CUDA = """
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 9., 9.]], device='cuda')
nms(boxes, boxes[:, 0] + 1, .5)
"""
# By pip's versions: torch itself adds '+cu130' or so to what pip knows it as.
TRY_TORCH = """
import torch, torchvision, torchvision.ops
from importlib.metadata import version
print(*(f'{name}=={version(name)}' for name in ('torch', 'torchvision')))
"""


class SetupError(Exception):
    """Something is missing that this script cannot install."""


class Environment:
    """The virtual environment and how commands are run in it.

    Args:
        folder: Where it is, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / 'bin' / 'python'
        self.log = folder / 'setup.log'
        self.constraints = folder / 'constraints.txt'

    def works(self, code: str) -> bool:
        """Whether `code` runs through, in a process of its own."""
        return self.output(code) is not None

    def output(self, code: str) -> str | None:
        """Return what `code` prints, or None if it fails."""
        return output_of(self.python, code) if self.python.exists() else None

    def run(self, command: list[str | Path], **env: str) -> None:
        """Run `command`, its output in the log, with a sign of life.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        with open(self.log, 'a', encoding='utf-8') as log:
            log.write(f'\n$ {" ".join(map(str, command))}\n')
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                cwd=ROOT,
            )
            try:
                self._watch(process, start)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(command))

    def _watch(self, process: subprocess.Popen, start: int) -> None:
        """Say from time to time how far `process` has come, until it ends."""
        terminal = sys.stdout.isatty()
        begun = told = time.monotonic()
        while True:
            try:
                process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            if now - told >= (1 if terminal else 30):
                told = now
                say(
                    f'      {minutes(now - begun)} {self._compiled(start)}'.rstrip(),
                    terminal,
                )
        if terminal:
            print('\r\033[K', end='', flush=True)

    def _compiled(self, start: int) -> str:
        """Return how many files ninja has compiled, from the end of the log."""
        with open(self.log, 'rb') as log:
            log.seek(max(start, self.log.stat().st_size - 20_000))
            steps = re.findall(rb'^\s*\[(\d+)/(\d+)\] ', log.read(), re.MULTILINE)
        return (
            f'({steps[-1][0].decode()}/{steps[-1][1].decode()} files)' if steps else ''
        )

    def pip(self, *arguments: str | Path, **env: str) -> None:
        """`pip install` with our constraints."""
        options = ['--no-input', '--disable-pip-version-check', '--progress-bar=off']
        command: list[str | Path] = [self.python, '-m', 'pip', 'install', *options]
        self.run([*command, '--constraint', self.constraints, *arguments], **env)


def say(text: str, passing: bool = False) -> None:
    """Print a line; a passing one is overwritten by the next."""
    print(f'\r\033[K{text}' if passing else text, end='' if passing else '\n')
    sys.stdout.flush()


def minutes(seconds: float) -> str:
    """Return seconds as minutes:seconds."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


@contextlib.contextmanager
def step(title: str, about: str) -> Iterator[None]:
    """Announce a step, and say at its end how long it took."""
    say(f'  {title} (about {about})')
    begun = time.monotonic()
    yield
    say(f'      done in {minutes(time.monotonic() - begun)}')


def output_of(python: str | Path, code: str) -> str | None:
    """Return what `code` prints under `python`, or None if it fails."""
    done = subprocess.run(
        [str(python), '-c', code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),  # not among our sources
    )
    return done.stdout.strip() if done.returncode == 0 else None


def check_machine(mmcv_stands: bool) -> None:
    """Raise SetupError, with the line that helps, for what the system lacks.

    Args:
        mmcv_stands: The operators are built already: no compiler is needed.
    """
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f'Python 3.10 or newer is needed; {sys.executable} is'
            f' {sys.version.split()[0]}.\nIf there is another:'
            ' make demo PYTHON=python3.12'
        )
    version = f'{sys.version_info[0]}.{sys.version_info[1]}'
    missing = {}
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        missing['venv'] = f'python{version}-venv'
    if not mmcv_stands:
        if shutil.which(os.environ.get('CXX', 'c++').split()[0]) is None:
            missing['a C++ compiler'] = 'g++'
        if not Path(sysconfig.get_path('include'), 'Python.h').exists():
            missing["Python's header files"] = f'python{version}-dev'
    if missing:
        raise SetupError(
            f'This system lacks {" and ".join(missing)}. On Debian or Ubuntu:\n'
            f'    sudo apt-get update && sudo apt-get install -y '
            + ' '.join(missing.values())
        )


def torch_of_this_python() -> list[str]:
    """Return pins of this Python's torch and torchvision.

    Empty where they do not work or are too old.
    """
    found = output_of(sys.executable, TRY_TORCH)
    if found is None:
        return []
    pins = found.splitlines()[-1].split()
    numbers = re.match(r'torch==(\d+)\.(\d+)', pins[0])
    new = numbers and tuple(map(int, numbers.groups())) >= OLDEST_TORCH
    return pins if new else []


def make_venv(env: Environment, inherit: bool) -> None:
    """Make the virtual environment, or repair it.

    Args:
        env: The environment.
        inherit: Let it see what this Python has installed.
    """
    options = ['--system-site-packages'] if inherit else []
    command = [sys.executable, '-m', 'venv', *options, str(env.folder)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    link = Path(
        output_of(env.python, 'import sysconfig; print(sysconfig.get_path("purelib"))')
        or '',
        'mkd_det_inherited.pth',
    )
    # A virtual environment inherits from the system, not from another one.
    if inherit and sys.prefix != sys.base_prefix:
        link.write_text('\n'.join(site.getsitepackages()) + '\n', encoding='utf-8')
    else:
        link.unlink(missing_ok=True)


def write_constraints(env: Environment, torch: list[str]) -> None:
    """Write the tested versions, but keep the torch that was there."""
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    if torch:
        lines = [line for line in lines if not TORCH_STACK.match(line)] + torch
    env.constraints.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def install_mmcv(env: Environment) -> None:
    """Install mmcv and what goes with it; build its operators where needed."""
    options = ['--no-build-isolation', '--verbose']
    packages = ['onedl-mmcv', 'onedl-mmengine', 'onedl-mmdetection']
    with build_settings(env) as settings:
        try:
            env.pip(*options, *packages, **settings)
        except subprocess.CalledProcessError:
            if 'CUDA_VISIBLE_DEVICES' in settings:
                raise
            say('      that failed with the GPU: operators for the CPU only')
            settings['CUDA_VISIBLE_DEVICES'] = ''
            env.pip(*options, *packages, **settings)
        if env.works(TRY_MMCV):
            return
        say('      its operators do not fit this torch: building them anew')
        again = ['--no-cache-dir', '--force-reinstall', '--no-deps', 'onedl-mmcv']
        env.pip(*options, *again, **settings)
    if not env.works(TRY_MMCV):
        raise SetupError(f'mmcv was built, but does not run; see {env.log}')


@contextlib.contextmanager
def build_settings(env: Environment) -> Iterator[dict[str, str]]:
    """Yield environment variables under which mmcv builds for the installed torch."""
    settings = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(build_jobs())}
    nvcc = shutil.which('nvcc') or os.environ.get('CUDA_HOME')
    if not nvcc or not env.works(HAS_CUDA):
        settings['CUDA_VISIBLE_DEVICES'] = ''
    with tempfile.TemporaryDirectory() as folder:
        # mmcv asks for C++17, but the headers of new versions of torch want C++20;
        # of two such options compilers take the last. -O1 halves the time.
        standard = '-std=c++20' if needs_cxx20(env) else ''
        compiler = Path(folder, 'c++')
        real = os.environ.get('CXX', 'c++')
        compiler.write_text(f'#!/bin/sh\nexec {real} "$@" {standard} -g0 -O1\n')
        compiler.chmod(0o755)
        settings['CXX'] = str(compiler)
        if standard:
            settings['NVCC_APPEND_FLAGS'] = standard
        yield settings


def build_jobs() -> int:
    """Return how many compilers run at once: one a core, 2 GB of memory for each."""
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30
    return max(1, min(len(os.sched_getaffinity(0)), int(memory // 2)))


def needs_cxx20(env: Environment) -> bool:
    """Tell whether torch's own headers refuse an older standard."""
    where = env.output('import torch; print(torch.__path__[0])') or ''
    header = Path(where.splitlines()[-1], 'include', 'ATen', 'ATen.h')
    return header.exists() and 'error C++20' in header.read_text(encoding='utf-8')


def install_rest(env: Environment) -> None:
    """Install this checkout (editable), and the packages of all extras."""
    env.pip('--no-build-isolation', '--editable', f'{ROOT}[all]')
    if not (env.folder / 'mim').exists():
        # For the test of `mim train`, out of the way of everything else: mim and
        # model-index install a package `tests`, and opendatalab, which mim needs for
        # downloads only, asks for old versions of packages that we use.
        env.pip(
            '--no-build-isolation', '--no-deps', '--target', env.folder / 'mim', *MIM
        )
    if not (env.folder / 'bin' / 'ruff').exists():
        # A program, not a module: the one that this Python has is of no use.
        env.pip('--ignore-installed', '--no-deps', 'ruff')
    if not env.works('import cv2'):
        # OpenCV with windows needs system libraries that servers do not have.
        env.pip('--force-reinstall', '--no-deps', 'opencv-python-headless')


def check(env: Environment) -> None:
    """Import everything once, and note what `make` must know about the GPU."""
    if not env.works('import mkd_det'):
        env.run([env.python, '-c', 'import mkd_det'])
    hide = env.works(HAS_CUDA) and not env.works(TRY_CUDA)
    if hide:
        say('      mmcv has no operators for the GPU (no nvcc?): it stays unused')
    note = 'export CUDA_VISIBLE_DEVICES=  # mmcv has no operators for the GPU\n'
    (env.folder / 'mkd_det.env').write_text(note if hide else '')


def fingerprint() -> str:
    """Return a hash of what the environment depends on."""
    digest = hashlib.sha256(f'{ROOT} {sys.executable} {sys.version}'.encode())
    for name in ('constraints.txt', 'setup.py', 'scripts/setup_env.py'):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def set_up(env: Environment) -> None:
    """Run all steps in order. Each skips what is done already."""
    check_machine(env.works(TRY_MMCV))
    torch = torch_of_this_python()
    say(f'Setting up {env.folder} for {ROOT.name}; details in {env.log}')
    with step('1/5 virtual environment', ABOUT['venv']):
        make_venv(env, inherit=bool(torch))
        write_constraints(env, torch)
    title = f'2/5 {" ".join(torch)} of this Python' if torch else '2/5 torch'
    with step(title, '10 s' if torch else ABOUT['torch']):
        env.pip('torch', 'torchvision', 'setuptools<81', 'wheel', 'ninja')
    about = '10 s' if env.works(TRY_MMCV) else ABOUT['mmcv']
    with step('3/5 mmcv, mmengine, mmdet', about):
        install_mmcv(env)
    with step('4/5 mkd_det and all else', ABOUT['rest']):
        install_rest(env)
    with step('5/5 check', ABOUT['check']):
        check(env)


def main() -> int:
    """Set up the environment, or leave it as it is; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv')
    env = Environment(parser.parse_args().venv.absolute())
    stamp = env.folder / 'mkd_det.stamp'
    now = fingerprint()
    if stamp.exists() and stamp.read_text() == now:
        return 0
    try:
        set_up(env)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        tail = env.log.read_text(encoding='utf-8', errors='replace').splitlines()
        print('\n'.join(tail[-25:]), file=sys.stderr)
        command = ' '.join(map(str, error.cmd))
        print(f'\nThis failed: {command}\nAll output: {env.log}', file=sys.stderr)
        return 1
    stamp.write_text(now)
    return 0


if __name__ == '__main__':
    sys.exit(main())
