"""Suggests the user's own files where a comparison lacks one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...config_files.reading import configs_beside
from ...io.paths import relative_to_cwd
from ..runs.recovery import POINTER

# Stand for files that nothing is known about.
_CONFIG, _CHECKPOINT = 'TEACHER_CONFIG.py', 'TEACHER_CHECKPOINT.pth'


def plain_configs(paths: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    """Return configs of plain models that lie beside some files, those of cwd last.

    Args:
        paths: Files; packaged ones are ignored.
        without: Files that are not wanted.
    """
    own = [Path(path) for path in paths if '::' not in path]
    folders = dict.fromkeys([*(path.parent for path in own), Path()])
    unwanted = {Path(path).absolute() for path in without}
    files = [file for folder in folders for file in sorted(folder.glob('*.py'))]
    found = dict.fromkeys(
        relative_to_cwd(file)
        for file in files
        if file.absolute() not in unwanted and _is_plain(file)
    )
    return list(found)


def suggest_teacher(
    cfgs: Mapping[str, str], checkpoints: Mapping[str, str], base: str
) -> tuple[str, list[str]]:
    """Return options that name a teacher, and configs that could be its own.

    Args:
        cfgs: Configs of teachers that were given, by name.
        checkpoints: Checkpoints of teachers that were given, by name.
        base: Config of the student alone.
    """
    names = list(dict.fromkeys([*cfgs, *checkpoints])) or ['t']
    others = plain_configs([base], without=[base])
    options = []
    for name in names:
        cfg, checkpoint = cfgs.get(name, ''), checkpoints.get(name, '')
        if not cfg:
            beside = configs_beside(checkpoint) if checkpoint else []
            single = others if len(others) == 1 else []
            cfg = next(iter([*beside, *single]), _CONFIG)
        checkpoint = checkpoint or find_checkpoint(cfg) or _CHECKPOINT
        prefix = '' if name == 't' else f'{name}='
        options.append(f'--teacher-cfg {prefix}{cfg} --teacher {prefix}{checkpoint}')
    return ' '.join(options), others


def find_checkpoint(cfg: str) -> str:
    """Return the last checkpoint of a config's training; '' if there is none.

    Args:
        cfg: Path of the config. `mkd-det train` writes to work_dirs/<its stem>.
    """
    folder = Path('work_dirs', Path(cfg.rpartition('::')[2]).stem)
    pointer = folder / POINTER
    if pointer.is_file():
        last = folder / Path(pointer.read_text().strip()).name
        if last.is_file():
            return str(last)
    files = sorted(folder.glob('*.pth'), key=lambda file: file.stat().st_mtime)
    return str(files[-1]) if files else ''


def _is_plain(file: Path) -> bool:
    """Tell whether a file looks like the config of a plain model."""
    text = file.read_text(errors='replace')
    return bool(re.search(r'^(_base_|model) *=', text, re.MULTILINE)) and not re.search(
        r'\bDistiller\b|\brecipe\b', text
    )
