"""Find the checkpoint that a training resumes from, and check that it can."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from ..checkpoints.checkpoint import check_weight_values, read_checkpoint
from ..distiller.model import Distiller
from ..distiller.state import check_resumable, check_saved_values
from ..errors import CheckpointFileError, ResumeError
from ..io.paths import own_file
from ..io.quiet import suppress_info_logs

# Keys that schedulers and newer versions of torch add to an optimizer's groups.
_ADDED = {'initial_lr', 'param_names', 'decoupled_weight_decay', 'params'}


def settle_resume(cfg: Config) -> str | None:
    """Return the checkpoint to resume from; None for a new training.

    Prints what the user may not expect. Where the work dir has no note of the last
    checkpoint, the newest one is written into `cfg.load_from`.

    Args:
        cfg: The config, with `resume`.

    Raises:
        ResumeError: The note of the work dir names a checkpoint that is gone.
    """
    if cfg.get('load_from'):
        return cfg.load_from
    folder = Path(cfg.work_dir)
    note = folder / 'last_checkpoint'
    if note.exists():
        return _noted(note, cfg)
    left = _newest_first([*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')])
    if left:
        # Killed between the first checkpoint and the note of its name.
        print(f'There is no {note}: resuming from {left[0]}, the newest')
        cfg.load_from = left[0]
        return left[0]
    print(f'Nothing to resume in {folder}: the training starts from the beginning')
    return None


def has_begun(work_dir: str) -> bool:
    """Return whether a training has left a checkpoint in its work dir."""
    patterns = ('last_checkpoint', 'epoch_*.pth', 'iter_*.pth')
    return any(True for p in patterns for _ in Path(work_dir).glob(p))


def _noted(note: Path, cfg: Config) -> str:
    """Return the checkpoint that a note names, in the folder of this run.

    In a work dir that was copied, the note names a file of the original. The file of
    the same name in the copy is written into `cfg.load_from`.
    """
    folder = _checkpoint_folder(cfg)
    others = _newest_first(p for p in note.parent.glob('*.pth') if p.is_file())
    try:
        path = note.read_text(encoding='utf-8').strip() if note.is_file() else None
    except (OSError, ValueError) as error:
        path, reason = None, getattr(error, 'strerror', None) or 'no text'
    else:
        reason = 'no file' if path is None else ''
    if path is None:
        raise ResumeError(
            f'{note} cannot be read',
            expected='the path of a checkpoint',
            actual=reason,
            available=others,
            fix='--resume with a checkpoint',
        )
    if '://' in folder and path.startswith(folder.rstrip('/') + '/'):
        return path
    own = own_file(path, folder)
    if own is None:
        raise ResumeError(
            f'{note} names a checkpoint that is gone'
            if not Path(path).is_file()
            else f'{note} names a checkpoint of another work dir',
            expected=f'a file in {folder}',
            actual=path,
            available=others,
            fix='--resume with a checkpoint',
        )
    if not Path(path).is_file() or not os.path.samefile(path, own):
        print(f'{note} names {path}, of another folder: resuming from {own}')
        cfg.load_from = own
        return own
    return path


def _checkpoint_folder(cfg: Config) -> str:
    """Return where the training saves its checkpoints, as mmengine works it out."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    out_dir = hook.get('out_dir')
    if out_dir is None:
        return str(cfg.work_dir)
    return os.path.join(out_dir, os.path.basename(str(cfg.work_dir).rstrip(os.sep)))


def _newest_first(files: Any) -> list[str]:
    return [str(p) for p in sorted(files, key=lambda p: -p.stat().st_mtime)]


def check_resume(cfg: Config, model: nn.Module) -> None:
    """Raise unless the training that a config describes can be resumed.

    Args:
        cfg: The config, with `resume`.
        model: Its model, teachers loaded. It is filled from the checkpoint.

    Raises:
        ResumeError: The checkpoint is damaged, or of another training.
    """
    path = settle_resume(cfg)
    if path is None:
        return
    content = _read(path)
    where = f'checkpoint {path}'
    if isinstance(model, Distiller):
        check_saved_values(check_resumable(content, model), model, where)
    elif 'optimizer' not in content:
        raise ResumeError(
            f'{where} cannot be resumed: it has no optimizer state',
            expected='a checkpoint that a training wrote (epoch_*.pth)',
            fix=f"load_from='{path}' without resume: start from its weights",
        )
    _check_parts(content, where)
    try:
        model.load_state_dict(content['state_dict'], strict=True)
    except RuntimeError as error:
        raise ResumeError(
            f'{where} is of another model than the config describes',
            actual=str(error).splitlines()[1].strip(),
        ) from error
    check_weight_values(content['state_dict'], model.state_dict(), where, ResumeError)
    if 'runner_type' not in cfg:  # other runners save it in ways of their own
        _check_optimizer(cfg, model, content['optimizer'], where)
    _print_if_finished(cfg, content['meta'])


def _read(path: str) -> dict[str, Any]:
    try:
        return read_checkpoint(path)
    except CheckpointFileError as error:
        file = Path(path)
        others = _newest_first(
            p for p in file.parent.glob(f'{file.stem.split("_")[0]}_*.pth') if p != file
        )
        raise ResumeError(
            error.message,
            expected=error.expected,
            actual=error.actual,
            available=others or error.available,
            fix=f'--resume {others[0]}' if others else error.fix,
        ) from error


def _check_parts(content: Mapping[str, Any], where: str) -> None:
    """Raise unless the checkpoint has all that mmengine reads without checking."""
    for name, kind in (
        ('state_dict', Mapping),
        ('optimizer', Mapping),
        ('message_hub', Mapping),
        ('message_hub.log_scalars', Mapping),
        ('message_hub.runtime_info', Mapping),
        ('message_hub.resumed_keys', Mapping),
        ('meta', Mapping),
        ('meta.epoch', int),
        ('meta.iter', int),
        ('meta.seed', (int, type(None))),
        ('param_schedulers', (list, dict, type(None))),
    ):
        value: Any = content
        for key in name.split('.'):
            value = value.get(key)
        if not isinstance(value, kind):
            raise ResumeError(
                f'{where} cannot be resumed: '
                + (f'it has no {name}' if value is None else f'{name} is of no use'),
                expected='a checkpoint that this training wrote (epoch_*.pth)',
                actual=f'{name} is a {type(value).__name__}',
                fix='another checkpoint; or load_from without resume, to start from its'
                ' weights',
            )


def _check_optimizer(
    cfg: Config, model: nn.Module, saved: Mapping[str, Any], where: str
) -> None:
    """Raise unless the saved state is of the optimizer that the config describes.

    Torch accepts the state of another optimizer, and fails in the first step.
    """
    with suppress_info_logs():
        wrapper = build_optim_wrapper(model, deepcopy(cfg.optim_wrapper))
    if not isinstance(wrapper, OptimWrapper):
        return  # several optimizers
    wrong = ''
    try:
        foreign: set[str] = set()
        for group in saved['param_groups']:
            foreign |= set(group) - set(wrapper.optimizer.param_groups[0]) - _ADDED
        if foreign:
            wrong = 'the checkpoint has ' + ', '.join(sorted(foreign))
        else:
            wrapper.load_state_dict(dict(saved))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        wrong = str(error).partition('\n')[0] or type(error).__name__
    if wrong:
        raise ResumeError(
            f'{where} is of another optimizer than the config describes',
            expected=f'the state of {type(wrapper.optimizer).__name__}, with'
            f' {len(wrapper.optimizer.param_groups)} groups of parameters',
            actual=wrong,
            fix='the optim_wrapper it was trained with; or load_from without resume,'
            ' to start from its weights',
        )


def _print_if_finished(cfg: Config, meta: Mapping[str, int]) -> None:
    loop = cfg.get('train_cfg') or {}
    for unit in ('epoch', 'iter'):
        last = loop.get(f'max_{unit}s')
        if isinstance(last, int) and meta[unit] >= last:
            print(f'Nothing left to train: {unit} {meta[unit]} of {last} is done')
