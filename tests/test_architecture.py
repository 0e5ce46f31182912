"""Dependencies run one way, and nothing undeclared is imported.

The order of the rooms is ORDER, below. Methods (losses, adapters, branches, probes) get
tensors and know little more than formulas; classification and data know nothing of
distillation.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'mkd_det'

# A module or package may import those that stand before it. A new one must be
# put in its place here.
ORDER = (
    'startup',
    'errors',
    'parsing',
    'version',
    'packaged',
    'utils',
    'io',
    'checkpoints',
    'structures',
    'registry',
    'contrib',
    'config_files',
    'config',
    'taps',
    'functional',
    'class_maps',
    'heads',
    'inspection',
    'weighting',
    'adapters',
    'branches',
    'losses',
    'probes',
    'teachers',
    'plan',
    'distiller',
    'data',
    'classification',
    'training',
    'deploy',
    'preflight',
    'hooks',
    'run',
    'experiments.benchmark',
    'experiments.calibration',
    'experiments.curves',
    'experiments.detections',
    'experiments.doctor',
    'experiments.memory',
    'experiments.runs',
    'experiments.chain',
    'experiments.comparison',
    'experiments.demo',
    'experiments.distillation',
    'experiments.labelling',
    'cli',
)
# Methods get tensors and shapes: no models, paths or teachers.
METHODS = ('adapters', 'branches', 'losses', 'probes')
METHODS_MAY_IMPORT = {'errors', 'structures', 'weighting', 'registry', 'functional'}
# A probe is an adapter that runs a part of the teacher.
PROBES_MAY_IMPORT = {'adapters', 'heads'}
# Of use without distillation.
BESIDE = {'data': {'errors', 'io'}, 'classification': {'errors', 'io'}}
# How what we import is called where it is installed from.
DISTRIBUTIONS = {
    'PIL': 'pillow',
    'cv2': 'opencv-python',
    'markdown_it': 'markdown-it-py',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmengine': 'onedl-mmengine',
    'skimage': 'scikit-image',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}


def sources() -> list[Path]:
    """Our own files, without the links that an editable install makes."""
    files = sorted((ROOT / PACKAGE).rglob('*.py'))
    return [f for f in files if '.mim' not in f.relative_to(ROOT).parts]


def imports(file: Path) -> Iterator[str]:
    """Dotted names of all that `file` imports, anywhere in it; relative imports
    are resolved, and `from . import a` names `a`."""
    package = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = '.'.join((*base, *([node.module] if node.module else [])))
            if name == PACKAGE:
                yield from (f'{name}.{alias.name}' for alias in node.names)
            else:
                yield name


def room_of(name: str) -> str:
    """The room that a dotted name lies in: a module at the root, a package, or a
    package in `experiments`, which holds rooms itself."""
    _, room, inner = (name.split('.') + ['', ''])[:3]
    return f'{room}.{inner}' if room == 'experiments' and inner else room


def own_imports(file: Path) -> set[str]:
    """Rooms of ours that `file` imports, but for its own."""
    names = (n for n in imports(file) if n.split('.')[0] == PACKAGE)
    return {room_of(name) for name in names} - {room_of_file(file)}


def room_of_file(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix('').parts
    return room_of('.'.join(part for part in parts if part != '__init__'))


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize('file', sources(), ids=named)
def test_arrows_run_one_way(file: Path) -> None:
    room = room_of_file(file)
    if room in ('', '__main__', 'experiments'):
        return
    if room in BESIDE:
        allowed = BESIDE[room]
    elif room in METHODS:
        allowed = METHODS_MAY_IMPORT | (
            PROBES_MAY_IMPORT if room == 'probes' else set()
        )
    else:
        assert room in ORDER, f'{room}: give it a place in ORDER'
        allowed = set(ORDER[: ORDER.index(room)])
    assert own_imports(file) <= allowed


@pytest.mark.parametrize('file', sources(), ids=named)
def test_methods_are_built_through_the_registry(file: Path) -> None:
    """Nobody names a concrete loss, adapter, branch or probe: contracts only."""
    room = room_of_file(file)
    if room in METHODS or room == '':
        return
    for name in imports(file):
        parts = name.split('.')
        if parts[0] == PACKAGE and room_of(name) in METHODS:
            assert parts[2:] == ['base'], f'{named(file)} imports {name}'


def test_the_reader_of_imports_sees_every_form() -> None:
    """The tests above are worth what `imports` finds."""
    probe = ROOT / PACKAGE / 'losses' / '__init__.py'
    names = set(imports(probe))
    assert any(name.startswith(f'{PACKAGE}.losses.') for name in names)
    everything = {room for file in sources() for room in own_imports(file)}
    assert {'errors', 'structures', 'taps', 'plan', 'distiller'} <= everything


def test_every_import_is_declared() -> None:
    declared = {Requirement(r).name.lower() for r in requires(PACKAGE) or ()}
    # Where OpenMMLab's originals are installed, setup.py asks for those.
    aliases = {'mmcv', 'mmengine', 'mmdet'} & declared
    scripts = [*(ROOT / 'tools').glob('*.py'), *(ROOT / 'benchmarks').glob('*.py')]
    files = sources() + sorted(scripts)
    for file in files:
        for name in imports(file):
            top = name.split('.')[0]
            if top in {PACKAGE, *sys.stdlib_module_names} or top in aliases:
                continue
            if (file.parent / f'{top}.py').is_file():
                continue  # a module beside it
            distribution = DISTRIBUTIONS.get(top, top)
            assert distribution in declared, f'{named(file)} imports {top}'


def test_a_function_fits_one_screen() -> None:
    """At most 60 lines, its docstring not counted."""
    too_long = []
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            lines = length(node)
            if lines > 60:
                too_long.append(f'{named(file)}:{node.name} ({lines} lines)')
    assert not too_long


def test_a_room_fits_in_a_head() -> None:
    """At most 2,000 lines: in a folder without its inner folders, which are rooms
    too, or in a module at the root."""
    sizes: Counter[str] = Counter()
    for file in sources():
        room = file if file.parent.name == PACKAGE else file.parent
        sizes[named(room)] += len(file.read_text(encoding='utf-8').splitlines())
    assert {room: size for room, size in sizes.items() if size > 2000} == {}


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0]
    docstring = ast.get_docstring(node) is not None
    skipped = first.end_lineno - first.lineno + 1 if docstring else 0  # type: ignore
    return node.end_lineno - node.lineno + 1 - skipped  # type: ignore[operator]
