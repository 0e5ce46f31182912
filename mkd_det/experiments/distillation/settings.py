"""What a user asks of a distillation, and what can be told before a model is built."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config_files.reading import load_config
from ...errors import ConfigError, PathError
from ...io.json_files import read_json, write_own_json
from ...io.paths import check_writable_folder
from ...training.resume import has_begun
from .choice import AUTO

# The written config of a teacher that is trained first.
TEACHER_CONFIG = 'teacher.py'
# The config with what the command line says, if it says something.
OPTIONS_CONFIG = 'options.py'
# The config with the weights that were found for the data.
CALIBRATED = 'calibrated.py'
# Folders of a distillation's own trainings, and what other runs leave.
_OWN = {'student', 'teacher', 'distill'}
_TRACES = ('report', 'report.json', '*/vis_data', '*/*/vis_data', '*/last_checkpoint')
# File in the folder of the configs that says which data they were written for.
_SOURCES = '.sources.json'


@dataclass(frozen=True)
class DistillSettings:
    """What a user asks for.

    Args:
        student: Config of the student, alone.
        teacher: Config of the teacher.
        checkpoint: The teacher's weights; None to train the teacher first.
        work_dir: Folder for configs, logs and checkpoints.
        recipe: Name of a recipe, or 'auto'.
        data: A COCO json or the folder of a dataset; None for the student's own data.
        unlabeled: Folder of images without labels.
        epochs: Length of the training; by the number of images if None.
        init: Checkpoint that the student starts from.
        options: Overrides of the config that is trained, by dotted key.
        trains: Whether the training follows: its data is checked as it would be.
        class_map: Classes of the teacher by the student's, for names that differ.
    """

    student: str
    teacher: str
    checkpoint: str | None
    work_dir: Path
    recipe: str = AUTO
    data: Path | None = None
    unlabeled: Path | None = None
    epochs: int | None = None
    init: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    trains: bool = True
    class_map: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Folder of the written configs."""
        return self.work_dir / 'configs'

    @property
    def run_dir(self) -> Path:
        """Folder of the training."""
        return self.work_dir / 'distill'

    @property
    def teacher_dir(self) -> Path:
        """Folder of the teacher's training, if it is trained first."""
        return self.work_dir / 'teacher'

    @property
    def config(self) -> Path:
        """The written config that is trained, before its terms are calibrated."""
        return self.folder / (OPTIONS_CONFIG if self.options else 'distill.py')

    def base_of(self, config: str) -> str:
        """Return a config as the written configs name it.

        Args:
            config: A file, or a packaged config.
        """
        return config if '::' in config else os.path.relpath(config, self.folder)

    @property
    def sources(self) -> dict[str, str]:
        """Where the images come from, by option; '' for those of the configs."""
        given = {'--data': self.data, '--unlabeled': self.unlabeled}
        return {name: os.path.abspath(p) if p else '' for name, p in given.items()}

    @property
    def teacher_part(self) -> dict[str, Any]:
        """Config and checkpoint of the teacher, as the written config names them."""
        if self.checkpoint is None:
            return dict(
                cfg=str((self.folder / TEACHER_CONFIG).absolute()),
                checkpoint=str((self.teacher_dir / 'last.pth').absolute()),
            )
        checkpoint = located(self.checkpoint)
        return dict(cfg=absolute(self.teacher), checkpoint=checkpoint)


def absolute(config: str) -> str:
    """Return the path of a config from everywhere; packaged ones stay as they are.

    Args:
        config: A file, or a packaged config.
    """
    return config if '::' in config else os.path.abspath(config)


def located(checkpoint: str) -> str:
    """Return the path of a checkpoint from everywhere; an address stays as it is.

    Args:
        checkpoint: A path or an address.
    """
    return checkpoint if '://' in checkpoint else os.path.abspath(checkpoint)


def check_settings(settings: DistillSettings, resume: bool = False) -> None:
    """Raise for what can be told before a model is built.

    Args:
        settings: What the user asks for.
        resume: Whether a training that has begun in the work dir is to go on.

    Raises:
        ConfigError: The settings cannot be meant so.
        PathError: The work dir holds something else.
    """
    if _is_same_config(settings.student, settings.teacher):
        raise ConfigError(
            '--student and --teacher are the same config',
            actual=settings.student,
            expected='a big detector as teacher, a smaller one as student',
        )
    # On other data, the teacher may well keep a copy of itself from forgetting.
    init, known = settings.init, settings.checkpoint
    if settings.data is None and init and known and _is_same_file(init, known):
        raise ConfigError(
            '--init is the checkpoint of the teacher, which then has nothing to teach',
            actual=init,
            expected='a checkpoint of the student',
            fix='without --init',
        )
    if settings.epochs is not None and settings.epochs < 1:
        raise ConfigError('--epochs must be at least 1', actual=settings.epochs)
    _check_work_dir(settings, resume)


def _is_same_config(one: str, other: str) -> bool:
    """Return whether two configs are one file, or say the same."""
    first, second = load_config(one), load_config(other)
    files = str(first.filename), str(second.filename)
    return os.path.samefile(*files) or first.to_dict() == second.to_dict()


def _is_same_file(one: str, other: str) -> bool:
    """Return whether two names are of one file, or of files with equal content."""
    if one == other:
        return True
    if not (os.path.isfile(one) and os.path.isfile(other)):
        return False
    if os.path.samefile(one, other):
        return True
    if os.path.getsize(one) != os.path.getsize(other):
        return False
    return Path(one).read_bytes() == Path(other).read_bytes()


def _check_work_dir(settings: DistillSettings, resume: bool) -> None:
    """Raise PathError for a work dir that holds a run which this one would mix with."""
    work_dir = settings.work_dir
    check_writable_folder(work_dir, '--work-dir')
    begun = has_begun(str(settings.run_dir))
    if begun and not resume:
        raise PathError(
            '--work-dir holds a distillation that has begun',
            actual=str(settings.run_dir),
            fix=f'--resume to go on with it, or --work-dir {work_dir}_2',
        )
    ours = begun or (settings.folder / 'distill.py').is_file()
    found = {path.relative_to(work_dir) for t in _TRACES for path in work_dir.glob(t)}
    others = sorted(str(path) for path in found if path.parts[0] not in _OWN)
    if (others and not ours) or has_begun(str(work_dir)):
        raise PathError(
            '--work-dir holds another run',
            expected='a new folder, or one of mkd-det distill',
            actual=f'{work_dir} with {", ".join(others[:5]) or "checkpoints"}',
            fix=f'--work-dir {work_dir}_2',
        )


def note_sources(settings: DistillSettings) -> None:
    """Note which data the configs are written for; the configs themselves say classes.

    Args:
        settings: What the user asks for.
    """
    write_own_json(settings.folder / _SOURCES, settings.sources)


def check_same_run(settings: DistillSettings, config: Path) -> None:
    """Raise unless a distillation that has begun is the one that is asked for.

    Args:
        settings: What the user asks for.
        config: The config that is trained.

    Raises:
        PathError: It is of other models, classes or data, or of another recipe or
            length.
    """
    cfg = load_config(str(config))
    asked = {'--student': settings.base_of(settings.student)}
    found = {'--student': _first_base(settings.folder / 'student.py')}
    given = (cfg.model.get('teachers') or {}).get('t') or {}
    for option, key in (('--teacher', 'cfg'), ('the checkpoint', 'checkpoint')):
        if settings.checkpoint is not None:
            asked[option] = str(settings.teacher_part[key])
            found[option] = str(given.get(key))
    if settings.checkpoint is None:
        asked['--teacher'] = settings.base_of(settings.teacher)
        found['--teacher'] = _first_base(settings.folder / TEACHER_CONFIG)
    if settings.recipe != AUTO:
        asked['--recipe'] = settings.recipe
        bases = _bases(settings.folder / 'distill.py')
        own = bases[-1:] == ['recipe.py']  # a copy, whose name is not its recipe's
        found['--recipe'] = Path(bases[-1]).stem if bases and not own else ''
    if settings.epochs is not None:
        asked['--epochs'] = str(settings.epochs)
        found['--epochs'] = str((cfg.get('train_cfg') or {}).get('max_epochs'))
    if settings.init is not None:
        asked['--init'] = located(settings.init)
        found['--init'] = located(str(cfg.get('load_from')))
    if settings.class_map:
        written = given.get('class_map')
        mapped = written if isinstance(written, Mapping) else {}
        asked['--class-map'] = str(settings.class_map)
        found['--class-map'] = str(
            {name: mapped.get(name) for name in settings.class_map}
        )
    known = read_json(settings.folder / _SOURCES)
    for option, path in settings.sources.items():
        if path and isinstance(known, dict):
            asked[option] = path
            found[option] = str(known.get(option) or 'of the configs')
    differ = [name for name in asked if found[name] and asked[name] != found[name]]
    if differ:
        raise PathError(
            '--work-dir holds another run, which --resume would go on with',
            expected='; '.join(f'{name} {found[name]}' for name in differ),
            actual='; '.join(f'{name} {asked[name]}' for name in differ),
            fix=f'--work-dir {settings.work_dir}_2 without --resume; or mkd-det train'
            f' {config} --work-dir {settings.run_dir} --resume, to go on with it',
        )


def _first_base(config: Path) -> str:
    bases = _bases(config)
    return bases[0] if bases else ''


def _bases(config: Path) -> list[str]:
    """Return the bases that a written config names, as they stand there."""
    try:
        space = ast.parse(config.read_text(encoding='utf-8'))
        for node in space.body:
            if isinstance(node, ast.Assign):
                target = node.targets[0]
                if isinstance(target, ast.Name) and target.id == '_base_':
                    found = ast.literal_eval(node.value)
                    return [found] if isinstance(found, str) else list(found)
    except (OSError, ValueError, SyntaxError):
        pass
    return []
