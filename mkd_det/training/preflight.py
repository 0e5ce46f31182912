"""What can be known to be wrong with a training before it starts."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIMIZERS
from torch import nn

from ..contrib.row_conv import middle_row
from ..data import check_data, check_loaders
from ..data.check import dataset_classes
from ..distiller.model import Distiller
from ..errors import CheckpointKeysError, ConfigError, as_config_error, nearest_names
from ..io.checkpoint import check_weight_values, extract_state_dict, read_checkpoint
from ..io.paths import check_writable_folder
from ..io.quiet import suppress_info_logs
from .resume import check_resume
from .runtime import build_model, class_count

# Names of the classes, where they are known, by split.
Classes = Mapping[str, tuple[str, ...] | None]


def check_before_start(cfg: Config, teachers: bool = True) -> nn.Module:
    """Raise a typed error for anything that would stop the run later.

    Builds the model once for its plan and files; the runner builds its own, after it
    has set the seed.

    Args:
        cfg: The config, as the runner will get it.
        teachers: Whether their checkpoints are there already.

    Returns:
        The model.
    """
    check_writable_folder(cfg.work_dir, '--work-dir')
    check_data(cfg)
    model = build_model(cfg)
    classes = {split: dataset_classes(cfg, split) for split in ('train', 'val')}
    check_count(classes, model.student if isinstance(model, Distiller) else model)
    if isinstance(model, Distiller) and teachers:
        model.teachers.load()
        check_classes(cfg, classes, model)
    check_optimizer(cfg, model)
    check_loaders(cfg)
    if cfg.get('resume'):
        check_resume(cfg, model)
    elif cfg.get('load_from'):
        check_start(model, cfg.load_from)
    check_pretrained(model)
    return model


def check_count(classes: Classes, student: nn.Module) -> None:
    """Raise unless the student tells as many classes apart as the data has.

    Raises:
        ConfigError: It does not.
    """
    own = class_count(student)
    for split, names in classes.items():
        if own is not None and names and own != len(names):
            raise ConfigError(
                f'the student tells {own} classes apart, the {split} data has'
                f' {len(names)}',
                expected=f'num_classes={len(names)}',
                actual=f'num_classes={own}',
                fix='num_classes of the student, and the classes of the data, as they'
                ' belong together',
            )


def check_classes(cfg: Config, classes: Classes, model: Distiller) -> None:
    """Raise unless the teachers were trained on the classes of the data."""
    hooks = [*cfg.get('default_hooks', {}).values(), *(cfg.get('custom_hooks') or [])]
    if any(isinstance(h, dict) and h.get('check_classes') is False for h in hooks):
        return
    # Its chance is looked at on the validation data, which may have others.
    for names in classes.values():
        for name, teacher in model.teachers.items():
            if names and name in model.plan.taps:
                teacher.check_classes(names)


def check_optimizer(cfg: Config, model: nn.Module) -> None:
    """Raise ConfigError unless the optimizer can be built for the model."""
    if not {'optimizer', 'constructor'} & set(cfg.optim_wrapper):
        return  # several of them, by name
    kind = (cfg.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ConfigError(
            f'there is no optimizer {kind!r}',
            available=nearest_names(kind, OPTIMIZERS.module_dict),
        )
    with suppress_info_logs(), as_config_error('optim_wrapper'):
        build_optim_wrapper(model, cfg.optim_wrapper)


def check_pretrained(model: nn.Module) -> None:
    """Raise unless the weights that parts of the model start from are there and fit.

    mmengine looks for the files after all else, and loads of them what fits. The model
    of a distiller is left without its branches, as when weights are initialised.

    Raises:
        CheckpointError: A file of an `init_cfg` is missing, or of another model.
    """
    if isinstance(model, Distiller):
        for branch in model.branches.values():
            branch.detach()
        model = model.student
    for path, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if cfg.get('type') == 'Pretrained':
                what = f'init_cfg of {path or "the model"}'
                check_start(module, cfg['checkpoint'], what, cfg.get('prefix') or '')


def check_start(
    model: nn.Module, path: str, what: str = 'load_from', prefix: str = ''
) -> None:
    """Raise unless the weights to start from are those of a model like this one.

    As with mmdet, a part may differ (a head for other classes): it is named. But what
    fits must be more than half of the model.

    Args:
        model: The model, or a part of it.
        path: The checkpoint.
        what: What names it in the config, for messages.
        prefix: Of the keys that are for this part.

    Raises:
        CheckpointKeysError: Little or nothing of the checkpoint fits.
    """
    if not isinstance(path, str):
        raise ConfigError(
            f'{what} must be a path or an address',
            actual=repr(path),
            expected='a string',
        )
    if '://' in path:
        return  # downloaded by mmengine, under names of its own
    weights = extract_state_dict(read_checkpoint(path), path)
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        weights = {k: v for k, v in weights.items() if k.startswith(prefix)}
    weights = {k.removeprefix(prefix or 'module.'): v for k, v in weights.items()}
    own = model.state_dict()
    rows = {k: middle_row(v, own[k]) for k, v in weights.items() if k in own}
    cut = [k for k, v in rows.items() if v is not weights[k]]
    if cut:
        print(f'{what}: {len(cut)} kernels of {path} give their middle rows')
    weights |= rows
    check_weight_values(weights, own, f'{what}: checkpoint {path}')
    rest = [
        k for k, v in own.items() if k not in weights or weights[k].shape != v.shape
    ]
    if 2 * len(rest) > len(own):
        raise CheckpointKeysError(
            f'{what}: checkpoint {path} is of another model: {len(rest)} of {len(own)}'
            ' tensors are not in it, or of another shape',
            expected=', '.join(prefix + key for key in rest[:4]),
            actual=', '.join([k for k in weights if k not in own][:4]) or None,
            fix=f'a checkpoint of this model, or no {what}',
        )
    if rest:
        print(f'{what}: starts anew, not from {path}: ' + ', '.join(rest))


def check_optim_wrapper(cfg: Config) -> None:
    """Raise ConfigError unless the config says how to train."""
    if not isinstance(cfg.get('optim_wrapper'), dict):
        raise ConfigError(
            'the config has no `optim_wrapper`: nothing says how to train',
            expected='a dict',
            actual=repr(cfg.get('optim_wrapper')),
            fix="optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01))",
        )


def check_amp(cfg: Config) -> None:
    """Raise ConfigError for mixed precision on a machine that cannot do it."""
    check_optim_wrapper(cfg)
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise ConfigError(
            'mixed precision (AmpOptimWrapper) needs a GPU, and none was found',
            fix="--cfg-options optim_wrapper.type='OptimWrapper', or no --amp",
        )
