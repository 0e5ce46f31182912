"""Runs a training, or the test of a student, from a config.

`train` and `evaluate` check everything that can be checked before they write anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed, nn

from .checkpoints.checkpoint import (
    extract_state_dict,
    load_state_dict_strict,
    read_checkpoint,
    read_meta,
)
from .checkpoints.mmengine_loader import use_our_reader
from .data import check_data, check_loaders
from .distiller.model import Distiller
from .errors import ConfigError
from .hooks.recovery.divergence_hook import DivergenceHook
from .hooks.recovery.missing_validation_hook import MissingValidationHook
from .hooks.recovery.resume_state_hook import ResumeStateHook
from .hooks.recovery.run_record_hook import RunRecordHook
from .hooks.recovery.safe_checkpoint_hook import use_safe_checkpoint_hook
from .io.lock import locked_folder
from .io.log_errors import log_errors_in_one_line
from .io.own_code import own_code_errors
from .io.paths import check_output_file, check_writable_folder, relative_to_cwd
from .io.progress_bar import progress_bar
from .io.quiet import ignore_library_warnings
from .preflight.checks import check_before_start
from .preflight.disk_use import describe_disk_use
from .preflight.runner_parts import check_runner_parts
from .preflight.runner_settings import check_runner_settings, has_stock_runner
from .training.class_order import check_test_labels
from .training.plan_summary import summarize_plan
from .training.runtime import prepare_config
from .utils import releasing_instance_lock


@releasing_instance_lock()
@log_errors_in_one_line()
def train(cfg: Config) -> Runner:
    """Check a training, then run it to its end.

    Args:
        cfg: Config of the training, with `work_dir` and `launcher`.

    Returns:
        The runner, after its last iteration.

    Raises:
        MkdError: The training could not start, or has diverged.
    """
    _prepare_process()
    cfg = prepare_config(cfg)
    checked = check_before_start(cfg)
    with locked_folder(Path(cfg.work_dir), 'training'):
        return _run(cfg, checked)


def _run(cfg: Config, checked: nn.Module) -> Runner:
    """Run a training that has been checked."""
    unlink_config_copy(cfg)
    runner = build_runner(cfg)
    runner.logger.info(f'The whole log: {relative_to_cwd(runner.logger.log_file)}')
    if isinstance(checked, Distiller):
        runner.logger.info(summarize_plan(checked))
        for note in checked.plan.notes:
            runner.logger.warning(f'Plan: {note}')
    disk_use = describe_disk_use(cfg, checked)
    if disk_use:
        runner.logger.info(disk_use)
    use_safe_checkpoint_hook(runner)
    runner.register_hook(RunRecordHook())
    runner.register_hook(DivergenceHook())
    runner.register_hook(MissingValidationHook())
    if not isinstance(checked, Distiller) and isinstance(runner, Runner):
        runner.register_hook(ResumeStateHook())
    with progress_bar(runner), own_code_errors(runner.log_dir):
        runner.train()
    return runner


def unlink_config_copy(cfg: Config) -> None:
    """Remove a link where mmengine writes the config, in the work dir.

    mmengine would write through it: into a file of the work dir that this one is a
    copy of, or wherever somebody has let it point.

    Args:
        cfg: Config of a training.
    """
    if cfg.filename:
        copy = Path(cfg.work_dir, Path(cfg.filename).name)
        if copy.is_symlink() or (copy.is_file() and copy.stat().st_nlink > 1):
            copy.unlink(missing_ok=True)  # each rank comes here


@releasing_instance_lock()
@log_errors_in_one_line()
def evaluate(cfg: Config, checkpoint: str, out: str | None = None) -> dict[str, float]:
    """Test a plain model on the test set of its config.

    Args:
        cfg: Config of the model, with `work_dir` and `launcher`; of a distill config,
            what `student_config` returns.
        checkpoint: Path or address of the weights. They must fit completely.
        out: Pickle file for the predictions.

    Returns:
        The metrics.

    Raises:
        MkdError: The test could not start, or the weights do not fit.
    """
    from mmdet.evaluation import DumpDetResults

    _prepare_process()
    check_runner_settings(cfg)
    if has_stock_runner(cfg):
        check_runner_parts(cfg)
    check_test(cfg, checkpoint, out)
    content = read_checkpoint(checkpoint)
    check_data(cfg, splits=('test',))
    check_loaders(cfg, splits=('test',))
    check_test_labels(cfg, read_meta(content))
    unlink_config_copy(cfg)
    runner = build_runner(cfg)
    load_weights(runner, content, checkpoint)
    if out is not None:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=out))
    with own_code_errors(runner.log_dir):
        return runner.test()


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, after its processes have found each other."""
    join_processes(cfg)
    cfg.setdefault('env_cfg', {})  # FlexibleRunner does not do without
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def join_processes(cfg: Config) -> None:
    """Let several processes of one launcher find each other without a GPU.

    mmengine's own way selects a GPU first. Does nothing where there is one.
    """
    if cfg.get('launcher') != 'pytorch' or get_device() != 'cpu':
        return
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    # As mmengine would wrap it, but without a GPU's number.
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    cfg.setdefault('model_wrapper_cfg', dict(**wrapper, device_ids=None))


def check_test(cfg: Config, checkpoint: str, out: str | None = None) -> None:
    """Raise for what would stop a test later, or lose its results.

    Raises:
        ConfigError: There is nothing to test, or a path cannot be written to.
    """
    for key in ('test_dataloader', 'test_evaluator', 'test_cfg'):
        if cfg.get(key) is None:
            raise ConfigError(
                f'the config has no `{key}`',
                expected='test_dataloader, test_evaluator and test_cfg',
                fix=f'{key} = val_{key.removeprefix("test_")}',
            )
    check_writable_folder(cfg.work_dir, '--work-dir')
    if out is not None:
        check_output_file(out, '--out', checkpoint)


def use_tta(cfg: Config) -> None:
    """Wrap the model for test time augmentation: by default, flipped and not."""
    nms = dict(type='nms', iou_threshold=0.5)
    default = dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))
    model = cfg.get('tta_model', default)
    if not isinstance(model, dict):
        raise ConfigError('tta_model must be a dict', actual=repr(model))
    cfg.model = ConfigDict(**model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.get('tta_pipeline') or _flipping(dataset.pipeline)


def _flipping(pipeline: Sequence[dict]) -> list[dict[str, Any]]:
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    # Metrics may need more than mmdet's default keys: keep the config's own.
    keys = tuple(pipeline[-1].get('meta_keys', keys))
    pack = dict(type='PackDetInputs', meta_keys=(*keys, 'flip', 'flip_direction'))
    last = dict(type='TestTimeAug', transforms=[flips, [pack]])
    return [*deepcopy(list(pipeline[:-1])), last]


def load_weights(runner: Runner, content: dict[str, Any], path: str) -> None:
    """Fill the runner's model from a checkpoint, completely or not at all."""
    # Hooks such as EMAHook choose here which weights count.
    runner.call_hook('after_load_checkpoint', checkpoint=content)
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    weights = extract_state_dict(content, path)
    load_state_dict_strict(model, weights, path, 'the model of the config')


def _prepare_process() -> None:
    """Set what mmdet's own tools set, and who reads checkpoints."""
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    ignore_library_warnings()
    setup_cache_size_limit_of_dynamo()
    use_our_reader()
