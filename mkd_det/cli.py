"""What the tools share: arguments, config files, and how errors are shown."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from .errors import CheckpointKeysError, ConfigError, MkdError, nearest

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

# Exit code of a typed error, as argparse has it for bad arguments.
BAD_INPUT = 2
_COUNTER = 'num_batches_tracked'


Main = Callable[[Sequence[str] | None], None]


def main_guard(main: Main) -> Callable[..., int]:
    """Show a typed error as a message in red instead of a traceback.

    The wrapped function takes `argv` (default: the command line) and returns
    the exit code: 0, or 2 for a typed error. `--debug` or MKD_DEBUG=1 lets the
    error through with its traceback. Other exceptions pass untouched: they are
    nobody's bad input, but bugs.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        given = sys.argv[1:] if argv is None else list(argv)
        try:
            main(given)
        except MkdError as error:
            if '--debug' in given or os.environ.get('MKD_DEBUG', '0') != '0':
                raise
            print_error(error)
            return BAD_INPUT
        return 0

    return guarded


def print_error(error: MkdError) -> None:
    """Print `error` in red on stderr; other ranks than 0 print one line."""
    lines = str(error).splitlines()
    rank = int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0)))
    if rank:
        lines = [f'rank {rank}: {type(error).__name__}: {lines[0]}']
    else:
        lines[0] = f'{type(error).__name__}: {lines[0]}'
    # `soft_wrap`: a path or a config line must survive copying.
    Console(stderr=True).print(Text('\n'.join(lines), style='red'), soft_wrap=True)


def console() -> Console:
    """A console for tables: wide enough where the output is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def quiet_libraries() -> None:
    """For tools that print tables: no log lines and warnings of mmdet between."""
    import logging
    import warnings

    from mmengine.logging import MMLogger

    warnings.filterwarnings('ignore', module=r'(mmdet|mmengine|mmcv)\b')
    MMLogger.get_current_instance().setLevel(logging.WARNING)


def config_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `config`, `--cfg-options` and `--debug`."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or a name like mkd_det::...')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value, also nested'
        ' (model.terms.loss_soft.weight=2) and lists (key="[a,b]", no spaces)',
    )
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of typed errors'
    )
    return parser


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add `--launcher` and `--local_rank`, as mmdet's tools have them."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch of torch >= 2.0 passes `--local-rank`.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def join_processes(cfg: Config) -> None:
    """Let several processes of one launcher find each other without a GPU.

    mmengine's own way there selects a GPU first. Where there is one, this does
    nothing and mmengine does it all.
    """
    from mmengine.device import get_device
    from torch import distributed

    if cfg.launcher != 'pytorch' or get_device() != 'cpu':
        return
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    # As mmengine would wrap it, but for the GPU that it would name.
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    cfg.setdefault('model_wrapper_cfg', dict(**wrapper, device_ids=None))


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config file, or a packaged one (`mmdet::...`), with overrides.

    Raises:
        ConfigError: There is no such file; the nearest names are listed.
    """
    from mmengine.hub import get_config
    from mmengine.registry import init_default_scope

    if '::' in path:
        cfg = get_config(path)
    else:
        if not Path(path).is_file():
            raise ConfigError(
                'there is no such config file',
                actual=path,
                available=_siblings(Path(path)),
            )
        cfg = _read_config(path)
    if options:
        cfg.merge_from_dict(options)
    if not isinstance(cfg.get('model'), dict):
        raise ConfigError(
            f'config {path} has no `model`',
            expected="model=dict(type='Distiller', ...), or any detector's",
            actual=repr(cfg.get('model')),
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return cfg


def _read_config(path: str) -> Config:
    from mmengine.config import Config

    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is code
        raise ConfigError(
            f'config {path} cannot be read',
            actual=f'{type(error).__name__}: {error}',
            hint='--debug shows where',
        ) from error


def _siblings(path: Path) -> list[str]:
    """Files of the same ending in the same folder (or the nearest above)."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    names = [str(p) for p in sorted(folder.glob(f'*{path.suffix or ".py"}'))]
    return nearest(str(path), names)


def set_work_dir(cfg: Config, config: str, work_dir: str | None) -> None:
    """Where a run writes: the argument, else the config's, else its name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = config.rpartition('::')[2]
        cfg.work_dir = str(Path('work_dirs', Path(name).stem))


def check_amp(cfg: Config) -> None:
    """Raise ConfigError for mixed precision on a machine that cannot do it."""
    from mmengine.device import get_device

    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise ConfigError(
            'mixed precision (AmpOptimWrapper) needs a GPU, and none was found',
            hint="--cfg-options optim_wrapper.type='OptimWrapper', or no --amp",
        )


def build_model(cfg: Config, model: dict | None = None) -> Any:
    """Build the config's model (or `model`) as a runner would.

    Raises:
        MkdError: The distill config does not fit together.
    """
    from mmengine.registry import MODELS

    from .registry import built

    # mmdet's models write into the config that they are built from.
    model = deepcopy(cfg.model if model is None else model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return built(MODELS, model, 'model')


def load_strict(model: nn.Module, path: str, what: str) -> dict[str, Any]:
    """Load a checkpoint completely, or raise and change nothing.

    Args:
        model: The model to fill. A wrapper's inner model is filled.
        path: The checkpoint; `module.` before its keys is cut off, as
            mmengine does.
        what: What the model is, for the message.

    Returns:
        All that the checkpoint holds.

    Raises:
        CheckpointKeysError: Keys are missing or unexpected, or shapes differ.
    """
    from .checkpoint import read_checkpoint, weights_of

    content = read_checkpoint(path)
    fill_strict(model, weights_of(content, path), path, what)
    return content


def fill_strict(
    model: nn.Module, weights: dict[str, Any], path: str, what: str
) -> None:
    """`load_strict` for weights that have been read already."""
    weights = {k.removeprefix('module.'): v for k, v in weights.items()}
    own = model.state_dict()
    # Old checkpoints lack the counters of BatchNorm, which nothing reads.
    missing = [k for k in own if k not in weights and not k.endswith(_COUNTER)]
    unexpected = [k for k in weights if k not in own]
    shapes = [
        f'{k}: {tuple(weights[k].shape)} instead of {tuple(v.shape)}'
        for k, v in own.items()
        if k in weights and weights[k].shape != v.shape
    ]
    if missing or unexpected or shapes:
        raise CheckpointKeysError(
            f'checkpoint {path} does not fit {what}: {len(missing)} keys missing,'
            f' {len(unexpected)} unexpected, {len(shapes)} of another shape',
            expected=', '.join(missing[:4]) or None,
            actual=', '.join(unexpected[:4] or shapes[:4]) or None,
            hint='the config that this checkpoint was trained with',
        )
    model.load_state_dict(weights, strict=False)
