"""Distil a big detector into a small one: two configs, a checkpoint, data.

Looks at both models and the data, chooses the recipe, finds the weights of its terms
(mkd-det calibrate), writes a short config and trains it. What was written is what is
trained: edit it, and train it with mkd-det train.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    BAD_INPUT,
    add_class_map,
    add_launcher,
    add_verbose,
    as_dict,
    class_map_table,
    command,
    command_parser,
    console,
    options_of,
    quiet_libraries,
)
from .common.arguments import Options

if TYPE_CHECKING:
    from ..experiments.distillation.prepare import PreparedDistillation

POSITION = 5


def make_parser() -> argparse.ArgumentParser:
    """Return the parser: two models, data, and mmdet's own arguments."""
    parser = command_parser(
        'distill',
        __doc__,
        'mkd-det distill --teacher big.py big.pth --student small.py',
        'mkd-det distill --teacher mmdet::gfl/gfl_r50_fpn_1x_coco.py --train-teacher'
        ' --student mkd_det::coco/gfl_r18_fpn_1x_coco.py --data data/mine --dry-run',
    )
    add = parser.add_argument
    add(
        '--teacher',
        nargs='+',
        required=True,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='config and weights of the teacher',
    )
    add('--student', required=True, help='config that trains the student alone')
    add('--train-teacher', action='store_true', help='train the teacher first')
    add_class_map(
        parser,
        'a class of the student and what the teacher calls it, or several of the'
        " teacher's, with commas, or none; all others are matched by name",
    )
    add('--recipe', default='auto', help='a recipe by name; default: auto')
    add(
        '--data',
        type=Path,
        help='a COCO json, a yaml of YOLO, or a folder in the layout of COCO, VOC or'
        " YOLO; default: the student's own data",
    )
    add('--unlabeled', type=Path, help='folder of images without labels')
    add('--epochs', type=int, help='default: by the number of images')
    add('--init', help='checkpoint that the student starts from')
    add('--work-dir', type=Path, help='default: work_dirs/<student>_distilled')
    add('--dry-run', action='store_true', help='write the configs, and train nothing')
    add(
        '--no-calibrate',
        action='store_true',
        help="keep the recipe's weights, which were found on other data",
    )
    add(
        '--no-doctor',
        action='store_true',
        help='train without a look at teacher, data and first steps (mkd-det doctor)',
    )
    _add_training(parser)
    add_verbose(parser)
    add_launcher(parser)
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add what `mkd-det train` has too."""
    add = parser.add_argument
    add('--amp', action='store_true', help='automatic mixed precision training')
    add(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size',
    )
    add(
        '--resume',
        action='store_true',
        help='go on with what has begun, from its last checkpoint',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='override settings of the config that is trained',
    )


def run(args: argparse.Namespace) -> Any:
    """Prepare, show, write, train."""
    from ..experiments.distillation.run import (
        hand_over,
        is_finished,
        wait_for_first,
        written_config,
    )
    from ..experiments.distillation.settings import check_same_run
    from ..io.launched import launched_rank
    from .train import run as train

    quiet_libraries()
    settings = settings_of(args)
    begun = written_config(settings) if args.resume else None
    if begun is not None and not args.dry_run:
        check_same_run(settings, begun)
        # As it was written: another calibration would change the weights half way.
        args.config, args.work_dir = str(begun), str(settings.run_dir)
        args.resume = 'auto'
        if not is_finished(args.config, settings.run_dir, args.cfg_options):
            train(args)
        return finish(settings, begun)
    first = args.launcher == 'none' or launched_rank() == 0
    if args.dry_run:
        if first:
            write_only(settings, args)
        return None
    path = write_and_calibrate(settings, args) if first else wait_for_first(settings)
    args.config, args.work_dir = str(path), str(settings.run_dir)
    args.resume = 'auto' if args.resume else None
    if args.launcher != 'none' and first and not (args.no_doctor or args.resume):
        text = f'Doctor: not run by several processes; mkd-det doctor {path}'
        console().print(text, markup=False, soft_wrap=True)
    elif not (args.no_doctor or args.resume or args.launcher != 'none'):
        from .doctor import examine

        if examine(args):
            return BAD_INPUT
    try:
        train(args)
    finally:
        if first:  # a later launch must not read it
            hand_over(settings, None)
    return finish(settings, path)


def write_only(settings: Any, args: argparse.Namespace) -> None:
    """Show what was chosen, and write the configs.

    Args:
        settings: What the user asked for.
        args: The arguments.
    """
    from ..experiments.distillation.config_text import list_overrides

    prepared = show_prepared(settings, args)
    files = prepared.write(settings.folder)
    lines = [f'Written: {file}' for file in files]
    if settings.checkpoint is None:
        trained = settings.teacher_part
        lines += [
            f'Train the teacher first, {trained["cfg"]}; its last checkpoint goes to'
            f' {trained["checkpoint"]}'
        ]
    config = shlex.quote(str(settings.config))
    if again := [
        f'{key}={value}' for key, value in list_overrides(settings.options).items()
    ]:
        config += ' --cfg-options ' + shlex.join(again)
    if prepared.choice.recipe.arguments.get('balance') is None:
        lines.append(f'Weights for these data: mkd-det calibrate {config}')
    lines.append(f'Training with those of the recipe: mkd-det train {config}')
    for line in lines:
        console().print(line, markup=False, highlight=False, soft_wrap=True)


def write_and_calibrate(settings: Any, args: argparse.Namespace) -> Path:
    """Show what was chosen, write the configs, calibrate; tell the other processes.

    Args:
        settings: What the user asked for.
        args: The arguments.

    Returns:
        The config to train.
    """
    from ..experiments.distillation.run import hand_over, write_configs

    hand_over(settings, None)
    prepared = show_prepared(settings, args)
    path = write_configs(settings, prepared, calibrated=not args.no_calibrate)
    if args.launcher != 'none':
        hand_over(settings, path)
    console().print(f'Trains {path}', markup=False, soft_wrap=True)
    return path


def show_prepared(settings: Any, args: argparse.Namespace) -> PreparedDistillation:
    """Look at both models and the data, and show what was chosen.

    Args:
        settings: What the user asked for.
        args: The arguments.
    """
    from ..experiments.distillation.prepare import prepare
    from ..experiments.distillation.run import check_checkpoint
    from ..experiments.distillation.table import choice_table

    check_checkpoint(settings, args.train_teacher)
    prepared = prepare(settings, args.resume)
    shown: Any = console()
    shown.print(choice_table(prepared))
    if prepared.class_map is not None:
        shown.print(class_map_table(prepared.class_map))
    for warning in prepared.warnings:
        shown.print(f'Warning: {warning}', style='yellow', markup=False)
    return prepared


def settings_of(args: argparse.Namespace) -> Any:
    """Return the settings that the arguments stand for.

    Args:
        args: The arguments.

    Raises:
        ConfigError: There are several checkpoints.
    """
    from ..errors import ConfigError
    from ..experiments.distillation.settings import DistillSettings

    config, *weights = args.teacher
    if len(weights) > 1:
        raise ConfigError(
            '--teacher takes a config and one checkpoint',
            actual=' '.join(args.teacher),
            fix=f'--teacher {config} {weights[0]}',
        )
    stem = Path(args.student.rpartition('::')[2]).stem
    return DistillSettings(
        args.student,
        config,
        weights[0] if weights else None,
        args.work_dir or Path('work_dirs', f'{stem}_distilled'),
        args.recipe,
        args.data,
        args.unlabeled,
        args.epochs,
        args.init,
        options_of(args),
        not args.dry_run,
        as_dict(args.class_map, '--class-map'),
    )


def finish(settings: Any, config: Path) -> None:
    """Say how the student is loaded, and write the page, in the first process.

    Args:
        settings: What the user asked for.
        config: The config that was trained.
    """
    from ..experiments.distillation.finish import tell_finished

    def say(text: str, style: str = '') -> None:
        shown: Any = console()
        shown.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    tell_finished(settings, config, say)


main = command(make_parser, run)
