"""The tools do what they say, and say what is wrong with their input."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny
from mkd_det.experiments.chain.chain import read_chain
from mkd_det.training.preflight import check_start

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> ModuleType:
    """A tool as a module: starting a process for each costs seconds."""
    path = ROOT / 'tools' / f'{name}.py'
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # tools use each other
    spec = importlib.util.spec_from_file_location(f'tool_{name}', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def student() -> dict[str, Any]:
    """A student that finds something, however little it has learned."""
    cfg = tiny.gfl()
    cfg['test_cfg']['score_thr'] = 0.0
    return cfg


def distiller(checkpoint: Path | str | None, **parts: Any) -> dict[str, Any]:
    """A distiller that learns the head and, through a guide, the neck."""
    cfg: dict[str, Any] = dict(
        type='Distiller',
        student=student(),
        teachers=dict(
            t=dict(
                cfg=tiny.gfl(base_channels=16, neck=24),
                checkpoint=None if checkpoint is None else str(checkpoint),
            )
        ),
        taps=dict(fpn='neck', head='bbox_head'),
        adapters=dict(guide=dict(type='GuidanceLayer', student='fpn', teacher='t.fpn')),
        terms=dict(
            loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'),
            loss_feature=dict(
                type='FeatureKD', student='guide.student', teacher='guide.teacher'
            ),
        ),
        probe_size=64,
    )
    return {**cfg, **parts}


def write_config(
    path: Path, model: dict[str, Any], data: Path, work_dir: Path, **changes: Any
) -> str:
    """Write a whole training as a config file."""
    cfg = tiny.runner_cfg(deepcopy(model), data, work_dir)
    cfg.custom_imports = dict(imports=['mkd_det'])
    # A random teacher is as good as chance, and that is right here.
    cfg.default_hooks.teacher_check = None
    cfg.merge_from_dict(changes)
    cfg.dump(path)
    return str(path)


@pytest.fixture(scope='module', autouse=True)
def _plain_dumps() -> Iterator[None]:
    """Configs are dumped as they are: yapf takes longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, False)
        )
        yield


@pytest.fixture
def write(coco_root: Path, tmp_path: Path) -> Any:
    """Write a model as a config; the work dir is `tmp_path/run`."""

    def write(model: dict[str, Any], **changes: Any) -> str:
        path = tmp_path / 'config.py'
        return write_config(path, model, coco_root, tmp_path / 'run', **changes)

    return write


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of one epoch, its config, and no teacher."""
    root = tmp_path_factory.mktemp('trained')
    data = tiny.write_coco(root / 'coco')
    teacher = tiny.write_checkpoint(tiny.gfl(16, 24), root / 'teacher.pth')
    config = write_config(root / 'config.py', distiller(teacher), data, root / 'run')
    assert tool('train').main([config]) == 0
    teacher.rename(root / 'teacher_elsewhere.pth')
    return root


def fails(
    capsys: pytest.CaptureFixture, name: str, argv: list[str], *words: str
) -> str:
    """The tool ends with code 2 and a message that holds `words`."""
    module = tool(name)
    start = time.process_time()
    assert module.main(argv) == 2
    assert time.process_time() - start < 5
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert 'Traceback' not in message
    return message


# -- train, test, resume, export ----------------------------------------------


def test_train_leaves_a_checkpoint_that_fits_the_plain_student(trained: Path) -> None:
    content = torch.load(trained / 'run/epoch_1.pth', weights_only=False)
    student = tiny.build(tiny.gfl())
    student.load_state_dict(content['state_dict'], strict=True)


def test_test_evaluates_the_student_without_the_teacher_file(
    trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'predictions.pkl'
    argv = [str(trained / 'config.py'), str(trained / 'run/epoch_1.pth')]
    argv += ['--work-dir', str(tmp_path / 'test'), '--out', str(out)]
    assert tool('test').main(argv) == 0
    assert len(pickle.loads(out.read_bytes())) == 8
    metrics = next((tmp_path / 'test').glob('*/*.json'))
    assert 'coco/bbox_mAP' in json.loads(metrics.read_text())


def test_test_takes_flips_and_plain_configs(trained: Path, tmp_path: Path) -> None:
    plain = write_config(
        tmp_path / 'plain.py', student(), trained / 'coco', tmp_path / 'test'
    )
    argv = [plain, str(trained / 'run/epoch_1.pth'), '--tta']
    assert tool('test').main(argv) == 0
    assert list((tmp_path / 'test').glob('*/*.json'))


def test_test_refuses_a_checkpoint_of_another_model(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tiny.write_checkpoint(tiny.gfl(base_channels=16), tmp_path / 'other.pth')
    argv = [str(trained / 'config.py'), str(other)]
    fails(
        capsys,
        'test',
        argv,
        'CheckpointKeysError',
        'of another shape',
        'backbone.conv1',
    )


def test_resume_goes_on_where_the_run_ended(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = trained / 'config.py'
    options = ['--cfg-options', 'train_cfg.max_epochs=2']
    options += [f'model.teachers.t.checkpoint={trained / "teacher_elsewhere.pth"}']
    argv = [str(source), '--work-dir', str(tmp_path / 'run')]
    argv += ['--resume', str(trained / 'run/epoch_1.pth'), *options]
    assert tool('train').main(argv) == 0
    last = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    assert (last['meta']['epoch'], last['meta']['iter']) == (2, 8)
    # And `auto` finds nothing left to do, in the work dir that it looks into.
    argv = [str(source), '--work-dir', str(tmp_path / 'run'), '--resume', *options]
    assert tool('train').main(argv) == 0


def test_export_writes_a_student_that_stock_mmdet_loads(
    trained: Path, tmp_path: Path
) -> None:
    from mmdet.apis import inference_detector, init_detector

    out = tmp_path / 'out'
    source = trained / 'run/epoch_1.pth'
    assert (
        tool('export_student').main([str(trained / 'config.py'), str(source), str(out)])
        == 0
    )
    text = (out / 'student_config.py').read_text()
    assert 'mkd_det' not in text and 'Distiller' not in text
    content = torch.load(out / 'student.pth', weights_only=True)
    before = torch.load(source, weights_only=False)['state_dict']
    assert content['state_dict'].keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in content['state_dict'].items())
    assert 'distill' not in str(content['state_dict']._metadata)
    assert (out / 'student.pth').stat().st_size < source.stat().st_size
    model = init_detector(
        str(out / 'student_config.py'), str(out / 'student.pth'), device='cpu'
    )
    assert model.dataset_meta['classes'] == tiny.CLASSES
    picture = next((trained / 'coco/images').glob('*.png'))
    assert inference_detector(model, str(picture)).pred_instances is not None


def test_export_of_a_wrong_checkpoint_writes_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tiny.write_checkpoint(tiny.fcos(), tmp_path / 'other.pth')
    argv = [str(trained / 'config.py'), str(other), str(tmp_path / 'out')]
    fails(capsys, 'export_student', argv, 'does not fit', 'keys missing')
    assert not (tmp_path / 'out').exists()


# -- bad input ----------------------------------------------------------------


def soft(**changes: Any) -> dict[str, Any]:
    """Terms with soft outputs alone, with `changes` of its config."""
    term = dict(type='SoftOutputKD', student='head', teacher='t.head')
    return dict(loss_soft={**term, **changes})


def feature(**changes: Any) -> dict[str, Any]:
    """Terms with features alone, with `changes` of its config."""
    term = dict(type='FeatureKD', student='guide.student', teacher='guide.teacher')
    return dict(loss_feature={**term, **changes})


GUIDE = "dict(type='GuidanceLayer', student='fpn', teacher='t.fpn')"
BAD_PLANS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    'tap path': (
        dict(taps=dict(fpn='nek', head='bbox_head')),
        ('TapNotFoundError', "'nek'", 'available: neck'),
    ),
    'container tap': (
        dict(taps=dict(fpn='neck.fpn_convs', head='bbox_head')),
        ('TapSilentError', 'container', "fix:       'neck.fpn_convs.*'"),
    ),
    'tap name': (
        dict(terms=soft(student='heat')),
        ('ConfigError', "'heat'", 'available: head'),
    ),
    'adapter name': (
        dict(terms=feature(student='guid.student')),
        ('ConfigError', "'guid.student'", 'available: guide.student'),
    ),
    'adapter type': (
        dict(adapters=dict(guide=dict(type='GuidanceLayr', student='fpn'))),
        ('ConfigError', "'GuidanceLayr'", 'available: GuidanceLayer'),
    ),
    'term type': (
        dict(terms=soft(type='SoftOutputsKD')),
        ('ConfigError', "'SoftOutputsKD'", 'available: SoftOutputKD'),
    ),
    'term key': (
        dict(terms=soft(weigth=2)),
        ('ConfigError', "'weigth'", 'available: weight'),
    ),
    'channels': (
        dict(terms=feature(student='fpn', teacher='t.fpn')),
        ('ShapeMismatchError', '16 channels', '24 channels', f'guide={GUIDE}'),
    ),
    'head kind': (
        dict(terms=soft(classes='softmax')),
        ('HeadKindError', 'softmax', 'sigmoid'),
    ),
}


@pytest.mark.parametrize('case', BAD_PLANS)
def test_a_plan_that_does_not_fit_is_refused_by_name(
    case: str, write: Any, capsys: pytest.CaptureFixture
) -> None:
    parts, words = BAD_PLANS[case]
    fails(capsys, 'plan', [write(distiller(None, **parts))], *words)


def _truncated(path: Path) -> None:
    tiny.write_checkpoint(tiny.gfl(16, 24), path)
    path.write_bytes(path.read_bytes()[:20000])


def _prefixed(path: Path) -> None:
    tiny.write_checkpoint(tiny.gfl(16, 24), path)
    content = torch.load(path)
    content['state_dict'] = {
        f'student.{k}': v for k, v in content['state_dict'].items()
    }
    torch.save(content, path)


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.marker),))


def _hostile(path: Path) -> None:
    torch.save(dict(state_dict=Hostile(path.with_suffix('.marker'))), path)


BAD_TEACHERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    'missing': (
        lambda path: None,
        ('CheckpointFileError', 'teachers.t: ', 'does not exist', "'https://"),
    ),
    'folder': (lambda path: path.mkdir(), ('CheckpointFileError', 'is a folder')),
    'text': (
        lambda path: path.write_text('no weights'),
        ('CheckpointFileError', "begins with b'no weights'"),
    ),
    'truncated': (_truncated, ('CheckpointFileError', 'truncated', 'bytes')),
    'another model': (
        lambda path: tiny.write_checkpoint(tiny.fcos(16, 24), path),
        ('TeacherKeysError', 'of another model', 'fix:'),
    ),
    'another class count': (
        lambda path: tiny.write_checkpoint(tiny.gfl(16, 24, num_classes=5), path),
        ('TeacherClassesError', 'number of classes'),
    ),
    'a prefix': (_prefixed, ('TeacherKeysError', "prefix='student.'")),
    'hostile': (_hostile, ('UntrustedCheckpointError', 'trust_checkpoint=True')),
}


@pytest.mark.parametrize('case', BAD_TEACHERS)
def test_a_teacher_file_that_does_not_fit_stops_training_before_it_starts(
    case: str, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make, words = BAD_TEACHERS[case]
    path = tmp_path / 'bad.pth'
    make(path)
    fails(capsys, 'train', [write(distiller(path))], str(path), *words)
    assert not (tmp_path / 'run').exists()
    assert not path.with_suffix('.marker').exists()


BAD_DATA: dict[str, tuple[Any, tuple[str, ...]]] = {
    'missing': (
        lambda root: (root / 'annotations.json').unlink(),
        ('AnnotationError',),
    ),
    'empty': (
        lambda root: (root / 'annotations.json').write_text(''),
        ('AnnotationError', 'empty'),
    ),
    'image': (
        lambda root: (root / 'images/003.png').write_bytes(b'no picture'),
        ('ImageError', '003.png'),
    ),
    'flat box': (
        lambda root: _flatten_a_box(root / 'annotations.json'),
        ('AnnotationError', 'without width or height', 'bbox_min_size'),
    ),
}


def _flatten_a_box(path: Path) -> None:
    content = json.loads(path.read_text())
    content['annotations'][0]['bbox'][2] = 0
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('case', BAD_DATA)
def test_bad_data_stops_training_before_anything_is_written(
    case: str,
    write: Any,
    coco_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    spoil, words = BAD_DATA[case]
    config = write(distiller(None))
    spoil(coco_root)
    fails(capsys, 'train', [config], *words)
    assert not (tmp_path / 'run').exists()


def test_resume_from_what_cannot_be_resumed_is_refused(
    trained: Path, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher = trained / 'teacher_elsewhere.pth'
    config = write(distiller(teacher))
    epoch = trained / 'run/epoch_1.pth'
    argv = [config, '--resume', str(epoch.with_name('epoch_2.pth'))]
    fails(capsys, 'train', argv, 'ResumeError', 'does not exist', str(epoch))

    argv = [config, '--resume', str(trained / 'run/student_last.pth')]
    fails(capsys, 'train', argv, 'ResumeError', 'load_from')

    terms = {'loss_soft': distiller(None)['terms']['loss_soft']}
    config = write(distiller(teacher, terms=terms))
    argv = [config, '--resume', str(epoch)]
    fails(capsys, 'train', argv, 'ResumeError', 'loss_feature')
    assert not (tmp_path / 'run').exists()


def test_arguments_that_the_machine_or_config_cannot_follow_are_refused(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller(None))
    if not torch.cuda.is_available():
        fails(capsys, 'train', [config, '--amp'], 'ConfigError', 'needs a GPU')
    fails(capsys, 'train', [config, '--auto-scale-lr'], 'base_batch_size=16')
    near = str(tmp_path / 'confg.py')
    fails(capsys, 'train', [near], 'no such config file', f'available: {config}')
    assert not (tmp_path / 'run').exists()


BAD_ARGUMENTS: dict[str, tuple[str, list[str], tuple[str, ...]]] = {
    'no work dir': ('train', ['--work-dir', ''], ('--work-dir is empty',)),
    'work dir is a file': ('train', ['--work-dir', '{config}'], ('nothing can be',)),
    'work dir below one': ('train', ['--work-dir', '{config}/a'], ('nothing can be',)),
    'work dir in proc': ('train', ['--work-dir', '/proc/nope'], ('nothing can be',)),
    'long work dir': ('train', ['--work-dir', 'x' * 300], ('too long',)),
    'no resume': ('train', ['--resume', ''], ('--resume is empty',)),
    'new key': (
        'train',
        ['--cfg-options', 'modle.x=2'],
        ("has no 'modle'", 'available: model'),
    ),
    'beyond a list': (
        'train',
        ['--cfg-options', 'train_dataloader.dataset.pipeline.9.type=x'],
        ('fits nothing in the config',),
    ),
    'no optimizer': (
        'train',
        ['--cfg-options', 'optim_wrapper=None'],
        ('no `optim_wrapper`',),
    ),
    'no test data': (
        'test',
        ['{weights}', '--cfg-options', 'test_dataloader=None'],
        ('no `test_dataloader`', 'test_dataloader = val_dataloader'),
    ),
    'test work dir': (
        'test',
        ['{weights}', '--work-dir', '{config}'],
        ('nothing can',),
    ),
    'no out': ('test', ['{weights}', '--out', '{folder}.pkl'], ('a folder',)),
    'out is read': ('test', ['{weights}', '--out', '{weights}'], ('would destroy',)),
    'out below a file': ('test', ['{weights}', '--out', '{config}/a.pkl'], ('--out',)),
    'show-dir': ('test', ['{weights}', '--show-dir', '{config}'], ('--show-dir',)),
    'export onto itself': (
        'export_student',
        ['{checkpoint}', '{checkpoint}'],
        ('would destroy',),
    ),
    'device': ('benchmark_step', ['--device', 'foo'], ('--device', "'foo'")),
    'json': ('benchmark_step', ['--json', '{folder}.pkl'], ('--json', 'a folder')),
}


@pytest.mark.parametrize('case', BAD_ARGUMENTS)
def test_arguments_that_would_lose_or_destroy_something_are_refused(
    case: str, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name, given, words = BAD_ARGUMENTS[case]
    config = write(distiller(None))
    weights = tmp_path / 'weights.pkl'
    weights.write_bytes(b'weights')
    checkpoint = weights.rename(tmp_path / 'w.pth') if name[0] == 'e' else weights
    (tmp_path / 'folder.pkl').mkdir()
    places = dict(config=config, weights=weights, checkpoint=checkpoint)
    argv = [text.format(**places, folder=tmp_path / 'folder') for text in given]
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.iterdir()}
    fails(capsys, name, [config, *argv], 'ConfigError', *words)
    assert before == {
        path: path.is_dir() or path.read_bytes() for path in tmp_path.iterdir()
    }


def test_windows_need_a_screen(
    write: Any, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'platform', 'linux')
    config = write(distiller(None))
    fails(capsys, 'test', [config, 'x.pth', '--show'], 'no screen', '--show-dir')


def test_new_keys_below_known_ones_stay_allowed(write: Any) -> None:
    from mkd_det.configs import load_config

    config = write(distiller(None))
    options = {'train_dataloader.timeout': 3, 'randomness.seed': 1, 'tta_model': {}}
    cfg = load_config(config, options)
    assert cfg.train_dataloader.timeout == 3 and cfg.randomness.seed == 1


def test_a_full_disk_is_a_typed_error_whoever_notices_it(
    capsys: pytest.CaptureFixture,
) -> None:
    from mkd_det.cli.common import main_guard

    def full(argv: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'some.log')

    def broken(argv: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert main_guard(full)([]) == 2
    message = capsys.readouterr().err
    assert 'some.log could not be written: No space left' in message
    with pytest.raises(OSError):
        main_guard(broken)([])


def test_export_onto_a_full_disk_leaves_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [str(trained / 'config.py'), str(trained / 'run/epoch_1.pth')]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        fails(capsys, 'export_student', [*argv, str(tmp_path / 'out')], 'written')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['train', 'test', 'export_student'])
def test_weights_that_are_not_finite_are_refused(
    name: str, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tiny.write_checkpoint(student(), tmp_path / 'nan.pth')
    content = torch.load(path)
    content['state_dict']['backbone.conv1.weight'][0] = float('nan')
    torch.save(content, path)
    argv = {
        'train': ['--cfg-options', f'load_from={path}'],
        'test': [str(path), '--work-dir', str(tmp_path / 'run')],
        'export_student': [str(path), str(tmp_path / 'out')],
    }
    argv['train'] += ['train_cfg.max_epochs=0']
    words = ('CheckpointKeysError', 'backbone.conv1.weight is not finite')
    fails(capsys, name, [write(student()), *argv[name]], *words)


def test_load_from_must_be_a_path(write: Any, capsys: pytest.CaptureFixture) -> None:
    config = write(student())
    fails(capsys, 'train', [config, '--cfg-options', 'load_from=3'], 'load_from must')


def test_debug_shows_the_traceback(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mkd_det.errors import TapNotFoundError

    config = write(distiller(None, taps=dict(fpn='nek', head='bbox_head')))
    with pytest.raises(TapNotFoundError):
        tool('plan').main([config, '--debug'])
    monkeypatch.setenv('MKD_DEBUG', '1')
    with pytest.raises(TapNotFoundError):
        tool('plan').main([config])


def test_a_tool_as_a_process_ends_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(tmp_path / 'gone.py')]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert 'ConfigError: there is no such config file' in done.stderr
    assert 'Traceback' not in done.stderr
    # What mmdet says of itself, on each run the same.
    assert 'OneDL' not in done.stdout and 'Warning' not in done.stderr
    assert list(tmp_path.iterdir()) == []


TOOLS = [
    'benchmark_step',
    'demo',
    'export_student',
    'inspect_model',
    'plan',
    'test',
    'train',
]


@pytest.mark.parametrize('name', TOOLS)
def test_a_python_without_the_packages_is_told_in_one_line(name: str) -> None:
    # -S: nothing that is installed.
    command = [sys.executable, '-S', '-E', str(ROOT / f'tools/{name}.py'), 'config.py']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'has no torch' in line and '. .venv/bin/activate' in line


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('model = dict(type=', 'SyntaxError'),
        ('model = nothing', 'NameError'),
        ("_base_ = ['absent.py']", 'relative to the folder of the config'),
        ("custom_imports = dict(imports=['no_module'])", 'PYTHONPATH=. python'),
        ("_base_ = ['a.py', 'b.py']", 'one base only with these keys'),
        ('optim_wrapper = dict()', 'no `model`'),
        ("model = dict(type='Distiler')", 'Distiler'),
    ],
)
def test_a_config_that_is_broken_is_told(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in 'ab':
        (tmp_path / f'{name}.py').write_text('x = 1')
    (tmp_path / 'broken.py').write_text(text)
    fails(capsys, 'plan', [str(tmp_path / 'broken.py')], 'ConfigError', words)


def test_classes_of_teacher_and_data_are_compared_before_anything_is_written(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / 'teacher.pth'
    tiny.write_checkpoint(tiny.gfl(16, 24), file)
    content = torch.load(file)
    classes = write_classes(write(distiller(file)))
    content['meta'] = dict(dataset_meta=dict(classes=classes[::-1]))
    torch.save(content, file)
    argv = [write(distiller(file))]
    fails(capsys, 'train', argv, 'TeacherClassesError', 'another order')
    assert not (tmp_path / 'run').exists()


def write_classes(config: str) -> tuple[str, ...]:
    from mkd_det.data.check import dataset_classes

    return dataset_classes(Config.fromfile(config)) or ()


def test_weights_to_start_from_must_be_of_the_student(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller(None), load_from=str(tmp_path / 'start.pth'))
    argv = [config, '--cfg-options', 'train_cfg.max_epochs=0']
    fails(capsys, 'train', argv, 'CheckpointFileError', 'start.pth')
    weights = {
        f'teacher.{k}': v for k, v in tiny.build(tiny.gfl()).state_dict().items()
    }
    torch.save(dict(state_dict=weights), tmp_path / 'start.pth')
    fails(capsys, 'train', argv, 'CheckpointKeysError', 'of another model')

    student = tiny.build(tiny.gfl())
    weights = student.state_dict()
    weights['bbox_head.gfl_cls.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=weights), tmp_path / 'start.pth')
    check_start(student, str(tmp_path / 'start.pth'))
    shown = capsys.readouterr().out.splitlines()
    (line,) = [line for line in shown if line.startswith('load_from:')]
    assert line.endswith(': bbox_head.gfl_cls.weight')


# -- plan, inspect, benchmark -------------------------------------------------


def test_plan_needs_no_teacher_file_but_verifies_one(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'teacher.pth'
    config = write(distiller(path))
    assert tool('plan').main([config]) == 0
    shown = capsys.readouterr().out
    assert 'loss_soft' in shown and 'GuidanceLayer' in shown
    assert 'is not there yet' in shown.replace('\n', ' ')

    tiny.write_checkpoint(tiny.gfl(16, 24), path)
    assert tool('plan').main([config]) == 0
    assert '3 classes' in capsys.readouterr().out

    tiny.write_checkpoint(tiny.gfl(16, 16), path)
    fails(capsys, 'plan', [config], 'TeacherKeysError', 'of another shape')
    fails(capsys, 'plan', [write(tiny.gfl())], 'no distill config')
    assert not (tmp_path / 'run').exists()


def test_plan_tells_what_is_inherited_and_held(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tiny.write_checkpoint(tiny.gfl(8, 24), tmp_path / 'teacher.pth')
    cfg = tiny.distiller(tiny.gfl(8, 16), tiny.gfl(8, 24), path)
    cfg['inherit'] = dict(teacher='t', modules=['backbone'])
    cfg['balance'] = dict(type='GradientShare', shares=dict(loss_soft=0.5))
    assert tool('plan').main([write(cfg)]) == 0
    shown = capsys.readouterr().out
    assert 'inherit: backbone of teacher t' in shown
    assert "in shares of the task's: loss_soft 0.5" in shown


def test_inspect_lists_what_can_be_tapped_and_why_not() -> None:
    inspect = tool('inspect_model')
    cfg = tiny.gfl()
    cfg['backbone']['frozen_stages'] = 1
    model = tiny.build(cfg)
    before = deepcopy(model.state_dict())
    rows = {row.path: row for row in inspect.survey(model, (128, 256))}

    neck = rows['neck']
    assert (neck.channels, neck.strides) == ((16,) * 5, (8, 16, 32, 64, 128))
    assert neck.shapes[0] == (16, 16, 32) and not neck.note
    head_conv = rows['bbox_head.gfl_reg']
    assert head_conv.calls == 5 and head_conv.channels == (68,) * 5
    assert rows['bbox_head'].channels == (3,) * 5
    assert rows['neck.fpn_convs'].note == 'container, tap neck.fpn_convs.*'
    assert rows['bbox_head.loss_cls'].note == 'never called'
    assert rows['backbone.layer1'].note.startswith('frozen')
    assert rows['backbone.layer2'].note == ''
    assert rows['backbone.layer2.0.bn2'].note.startswith('changed in place')
    assert model.training and all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize('path', ['neck', 'neck.fpn_convs.2.conv', 'bbox_head.gfl_cls'])
def test_what_inspect_calls_usable_is_usable_as_a_tap(path: str) -> None:
    from mkd_det.heads.running import run_features
    from mkd_det.taps import Tap, capture

    model = tiny.build(tiny.gfl())
    row = next(
        r for r in tool('inspect_model').survey(model, (64, 64)) if r.path == path
    )
    with capture(model, {'tap': Tap.parse(path)}, need_grad=True) as seen:
        run_features(model, torch.randn(1, 3, 64, 64))
    assert not row.note
    assert [tuple(t.shape[1:]) for t in seen['tap']] == row.shapes


def test_inspect_lists_the_second_stage() -> None:
    inspect = tool('inspect_model')
    rows = {r.path: r for r in inspect.survey(tiny.build(tiny.faster_rcnn()), (64, 64))}
    classes = rows['roi_head.bbox_head.fc_cls']
    assert (classes.calls, classes.channels, classes.strides) == (1, (4,), (None,))
    assert classes.note == 'of regions, for a student only'
    assert rows['roi_head.bbox_head.loss_cls'].note == 'yields no levels'
    assert rows['rpn_head'].calls == 1


def test_inspect_pairs_by_path_and_else_by_stride() -> None:
    inspect = tool('inspect_model')
    student = inspect.survey(tiny.build(tiny.gfl()), (128, 128))
    teacher = inspect.survey(tiny.build(tiny.retinanet(16, 24)), (128, 128))
    pairs = {
        row.path: (other, why) for row, other, why in inspect.pair(student, teacher)
    }
    other, why = pairs['neck']
    assert (other.path, other.channels, why) == ('neck', (24,) * 5, 'path')
    other, why = pairs['bbox_head.gfl_cls']
    assert why == 'stride' and other.strides == (8, 16, 32, 64, 128)
    assert other.path.startswith('bbox_head')
    assert 'neck.fpn_convs' not in pairs


def test_inspect_prints_filters_and_pairs(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write(distiller(None))
    argv = [config, '--input-size', '64', '96', '--filter', 'neck*']
    assert tool('inspect_model').main(argv) == 0
    shown = capsys.readouterr().out
    assert 'neck.fpn_convs.0' in shown and 'backbone' not in shown
    argv = [config, '--input-size', '64', '--depth', '1', '--teacher', 't']
    assert tool('inspect_model').main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        'neck' in line and '24/8' in line and 'adapter' in line for line in lines
    )
    assert any('bbox_head' in line and 'match' in line for line in lines)
    argv = [config, '--input-size', '64', '--filter', 'nekc']
    fails(capsys, 'inspect_model', argv, 'TapNotFoundError', 'available: neck')
    broken = {**tiny.gfl(), 'neckk': None}
    fails(capsys, 'inspect_model', [write(broken)], 'ConfigError', "'neckk'")


def test_benchmark_measures_the_three_side_by_side(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / 'cost.json'
    config = write(distiller(tmp_path / 'absent.pth'))
    argv = [config, '--iters', '3', '--warmup', '1', '--batches', '2']
    argv += ['--batch-size', '2', '--json', str(out)]
    assert tool('benchmark_step').main(argv) == 0
    assert 'K / (S + T)' in capsys.readouterr().out

    result = json.loads(out.read_text())
    phases = result['phases']
    assert [len(phases[name]['samples_s']) for name in 'STK'] == [3, 3, 3]
    s, t, k = (phases[name]['median_s'] for name in 'STK')
    assert result['ratios']['K']['of_medians'] == pytest.approx(k / (s + t))
    assert result['image_sizes'] == [[64, 96]] and result['batch_size'] == 2
    assert result['teachers'] == dict(run=['t'], random_weights=['t'])
    assert phases['K']['peak_bytes'] > phases['S']['peak_bytes'] > 0
    # SGD with momentum keeps a number a weight; nobody else's are counted.
    student = sum(p.numel() for p in tiny.build(tiny.gfl()).parameters())
    assert phases['S']['resident_bytes'] == pytest.approx(8 * student, rel=0.05)
    fails(capsys, 'benchmark_step', [write(tiny.gfl())], 'no distill config')


def test_benchmark_measures_every_speed_of_the_teachers(
    write: Any, tmp_path: Path
) -> None:
    bench = tool('benchmark_step')
    cfg = Config.fromfile(write(distiller(None)))
    pair = bench.Bench(cfg, 'cpu', ('off', 'exact', 'fast'))
    names = ['K off', 'K exact', 'K fast']
    assert list(pair.phases()) == ['S', 'T', *names]
    seconds = bench.measure(pair, [tiny.batch()], 1, 1)
    result = bench.summary(pair, seconds, dict.fromkeys(seconds, 0))
    assert list(result['ratios']) == names
    for name, words in zip(names, ('as it is', 'float32', 'bfloat16'), strict=True):
        assert words in result['speedups'][name]['t']
    # The plain teacher serves T whatever ran before; copies count as memory.
    assert pair.engines['off']['t'].model is pair.distiller.teachers['t'].model
    off, exact, fast = (pair.resident(name) for name in names)
    assert off < fast < exact


def test_benchmark_runs_only_the_teachers_that_take_part(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = tool('benchmark_step')
    cfg = distiller(None, sampling=dict(drop_exact=1), adapters={})
    cfg['teachers']['u'] = cfg['teachers']['t']
    cfg['terms'] = {
        f'loss_{name}': dict(type='AttentionKD', student='fpn', teacher=f'{name}.fpn')
        for name in 'tu'
    }
    pair = bench.Bench(Config.fromfile(write(cfg)), 'cpu', ['off'], sources=True)
    assert list(pair.phases()) == ['S', 'T', 'K 1 of 2', 'K 2 of 2']
    run, ran = pair.distiller.teachers.run, []
    monkeypatch.setattr(
        pair.distiller.teachers, 'run', lambda n, *rest: ran.append(n) or run(n, *rest)
    )
    for name, expected in (('K 1 of 2', ['t']), ('K 2 of 2', ['t', 'u'])):
        ran.clear()
        pair.phases()[name](pair.prepare(name, tiny.batch()))
        assert ran == expected
    assert pair.distiller.sampler.drop_exact == 1  # as it was
    seconds = {'S': [1.0], 'T': [1.0], 'K 1 of 2': [2.0], 'K 2 of 2': [2.75]}
    found = bench.summary(pair, seconds, dict.fromkeys(seconds, 0))
    assert found['sources'] == dict(step_s_per_teacher=0.75, forward_s=0.5)


def test_benchmark_compares_equal_students_and_runs_no_teacher_loss(write: Any) -> None:
    bench = tool('benchmark_step')
    pair = bench.Bench(Config.fromfile(write(distiller(None))), 'cpu')
    ours, plain = pair.distiller.state_dict(), pair.student.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in plain.items())
    assert pair.classes == 3
    teacher = pair.distiller.teachers['t'].model
    teacher.bbox_head.loss = teacher.bbox_head.predict = None
    for name, phase in pair.phases().items():
        phase(pair.prepare(name, tiny.batch()))


def test_peak_memory_counts_what_is_held_at_once() -> None:
    bench = tool('benchmark_step')

    def phase(batch: dict) -> None:
        for _ in range(3):
            kept = torch.empty(1 << 20, dtype=torch.uint8)
            del kept

    assert bench.peak_memory(phase, {}, 'cpu') == pytest.approx(1 << 20, rel=0.01)


def test_image_size_is_the_last_and_largest_the_pipeline_names() -> None:
    size = tool('benchmark_step').image_size
    assert size([dict(type='Resize', scale=(320, 240))]) == (240, 320)
    choice = dict(type='RandomChoiceResize', scales=[(1333, 640), (1333, 800)])
    assert size([dict(type='LoadImageFromFile'), choice]) == (800, 1333)
    crop = dict(type='RandomCrop', crop_size=(384, 600))
    assert size([choice, crop]) == (384, 600)
    assert size([]) == (640, 640)


# -- launchers ----------------------------------------------------------------


@pytest.mark.parametrize(
    'script, given, expected',
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
            [
                '-p',
                'gpu',
                '--job-name=job',
                'train.py',
                'c.py',
                '--work-dir=a b',
                '--amp',
            ],
        ),
    ],
)
def test_launchers_hand_their_arguments_on(
    script: str, given: list[str], expected: list[str], tmp_path: Path
) -> None:
    for name in ('python', 'srun'):
        fake = tmp_path / name
        fake.write_text('#!/bin/sh\nfor part in "$@"; do echo "$part"; done\n')
        fake.chmod(0o755)
    done = subprocess.run(
        ['bash', str(ROOT / 'tools' / script), *given],
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [Path(x).name if x.endswith('.py') else x for x in done.stdout.splitlines()]
    positions = [lines.index(part) for part in expected]
    assert positions == sorted(positions)


@pytest.mark.skipif(torch.cuda.is_available(), reason='mmengine does it with a GPU')
def test_a_launcher_works_without_a_gpu(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    place = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_PORT=port)
    for name, value in {**place, 'MASTER_ADDR': '127.0.0.1'}.items():
        monkeypatch.setenv(name, str(value))
    config = write(distiller(None))
    try:
        assert tool('train').main([config, '--launcher', 'pytorch']) == 0
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    weights = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)['state_dict']
    tiny.build(tiny.gfl()).load_state_dict(weights, strict=True)


# -- measure_speed ------------------------------------------------------------


def test_measured_speeds_become_table_and_figure(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = tool('measure_speed')
    for options in measure.CASES.values():
        assert Path(options[0]).is_file()
    config = write(distiller(None))
    case = [config, '--batches', '2', '--batch-size', '2', '--warmup', '2']
    monkeypatch.setattr(measure, 'CASES', {'tiny': case})
    out = tmp_path / 'out'
    assert measure.main(['--iters', '1', '--out', str(out)]) == 0
    saved = json.loads((out / 'speed.json').read_text())['tiny']
    assert saved['command'].startswith('python tools/benchmark_step.py')
    ratio = saved['ratios']['K cached']['of_medians']
    assert f'{ratio:.2f} |' in (out / 'speed.md').read_text()
    assert saved['speedups']['K cached']['t'] == 'read from a disk'
    assert (out / 'speed.png').stat().st_size > 1000


# -- measure_bccd, measure_cifar10, measure_chain ------------------------------


def test_every_row_is_planned_with_every_seed(tmp_path: Path) -> None:
    measure = tool('measure_bccd')
    rows = list(measure.ROWS)
    parser = measure.measuring.parser('', rows, 'work_dirs/bccd')
    stages = measure.plan_stages(parser.parse_args(['--seeds', '0', '1']))
    assert [row for row, _, _ in stages] == ['teacher', *rows, *rows]
    for _, _, stage in stages:
        assert Path(stage.config).is_file()
    assert 'model.teachers.t.checkpoint' not in stages[1][2].options
    taught = stages[2][2].options['model.teachers.t.checkpoint']
    assert taught == str(stages[0][2].checkpoint)
    assert measure.parameters('teacher') > 10 * measure.parameters('full M-KD') > 0


def test_every_row_of_classifiers_is_a_config_that_its_options_fit(
    tmp_path: Path,
) -> None:
    measure = tool('measure_cifar10')
    for depth in (56, 44, 32):
        (tmp_path / f'resnet{depth}-cifar10jpeg.pth').touch()
    args = measure.parse_args(['--weights', str(tmp_path), '--seeds', '7'])
    for row, seed, stage in measure.plan_stages(args):
        cfg = Config.fromfile(stage.config)
        named = set(cfg.model.get('teachers', ()))
        given = {key.split('.')[2] for key in stage.options if 'teachers' in key}
        assert given == {n for n in named if 'cfg' in cfg.model.teachers[n]}, row
        for key in stage.options:
            if key.endswith('.checkpoint'):
                assert Path(stage.options[key]).is_file()
        assert (seed, stage.options['randomness.seed']) == (7, '7')
        assert stage.total == 15 * 313
    assert measure.main(['--weights', str(tmp_path / 'none')]) == 2


def test_measured_runs_become_json_table_and_figure(tmp_path: Path) -> None:
    measure = tool('measure_bccd')

    def run(row: str, seed: int, value: float) -> dict[str, Any]:
        figures = dict(box_map=value, box_map_50=2 * value)
        return dict(name=row, seed=seed, params=1, seconds=60.0, command='', **figures)

    runs = [run('teacher', 0, 0.4), run('full M-KD', 0, 0.1), run('full M-KD', 1, 0.3)]
    measure.measuring.write_report(measure.REPORT, 'python', tmp_path, runs)
    assert json.loads((tmp_path / 'bccd.json').read_text()) == runs
    table = (tmp_path / 'bccd.md').read_text()
    assert '| full M-KD | 0.200 ± 0.141 | 0.400 | 0.100, 0.300 | 60 |' in table
    assert (tmp_path / 'bccd.png').stat().st_size > 1000


@pytest.mark.parametrize('option', ["a=[dict(type='b',c=1)]", 'a=[1,2', 'alone'])
def test_options_that_mmengine_cannot_read_are_shown(
    option: str, capsys: pytest.CaptureFixture
) -> None:
    from mkd_det.cli.common import config_parser

    with pytest.raises(SystemExit):
        config_parser('').parse_args(['x.py', '--cfg-options', option])
    said = capsys.readouterr().err
    assert f'cannot be read: {option};' in said and '_base_' in said


def test_what_a_training_starts_from_is_kept_where_nothing_is_to_resume(
    tmp_path: Path,
) -> None:
    train = tool('train')
    cfg = tiny.runner_cfg(tiny.gfl(), Path('nowhere'), tmp_path / 'run')
    argv = ['x.py', '--work-dir', str(tmp_path / 'run'), '--resume']

    def applied(**more: Any) -> tuple[Any, Any]:
        fresh = Config({**cfg.to_dict(), **more})
        train.apply_args(fresh, train.parse_args(argv))
        return fresh.get('resume'), fresh.get('load_from')

    assert applied(load_from='start.pth') == (None, 'start.pth')
    assert applied() == (True, None)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'epoch_1.pth').touch()
    assert applied(load_from='start.pth') == (True, None)


@pytest.mark.parametrize('experiment', ['cifar10', 'rows', 'bccd', 'whole'])
def test_every_row_of_chains_is_a_chain(experiment: str, tmp_path: Path) -> None:
    """Each ends with the student; what is given was trained by another row, or is in
    the folder."""
    measure = tool('measure_chain')
    weights = measure.WEIGHTS[experiment]
    for name in weights.values():
        (tmp_path / name).touch()
    given = [experiment, '--weights', str(tmp_path), '--seeds', '7']
    args = measure.parse_args([*given, '--work-dir', 'runs'])
    assert args.rows == list(measure.EXPERIMENTS[experiment])
    students = set()
    for row in args.rows:
        if row == 'alone':
            continue
        chain = read_chain(Config(measure.chain_of(args, row, 7)).to_dict())
        students.add(chain.members[-1].name)
        for member in chain.members:
            lent = measure.EXPERIMENTS[experiment][row].given.get(member.name)
            if member.name in weights:
                assert member.checkpoint == str(tmp_path / weights[member.name])
            elif lent:
                assert lent in args.rows[: args.rows.index(row)]
                own = measure.folder_of(args, lent, 7) / 'students'
                assert member.checkpoint == str(own / f'{member.name}.pth')
            else:
                assert member.checkpoint is None
    assert len(students) == 1
    if weights:
        assert measure.main([experiment, '--weights', str(tmp_path / 'none')]) == 2


def test_sizes_of_chains_are_means_over_seeds() -> None:
    measure = tool('measure_chain')
    runs = [
        dict(name='TAKD', seed=seed, top1=value, stages=[
            dict(name='t', params=3, top1=90.0), dict(name='s', params=1, top1=value)])
        for seed, value in enumerate((60.0, 64.0))
    ] + [dict(name='alone', seed=0, params=1, top1=50.0)]  # fmt: skip
    found = measure.over_sizes(runs, 'top1')
    assert [(s['name'], s['top1']) for s in found['TAKD']] == [('t', 90), ('s', 62)]
    assert [(s['params'], s['top1']) for s in found['alone']] == [(1, 50)]


@pytest.mark.parametrize('pair', ['gfl', 'retinanet'])
def test_every_row_of_the_arsenal_teaches_the_base(
    pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = tool('measure_arsenal')
    given: list[str] = []
    monkeypatch.setattr(measure.compare, 'main', lambda argv: given.extend(argv))
    weights = tmp_path / f'{pair}_r18-w64_bccd.pth'
    weights.touch()
    out = ['--out', str(tmp_path), '--weights', str(tmp_path), '--pairs', pair]
    monkeypatch.chdir(ROOT)
    assert measure.main(out) == 0
    args = measure.compare.parse_args(given)
    base, *rows = measure.compare.read_rows(
        args.base, args.rows, measure.compare.check_args(args)
    )
    assert [row.name for row in rows] == list(measure.PAIRS[pair][0])
    for row in rows:
        taught = row.cfg.model
        assert taught.student == base.cfg.model, row.name
        assert taught.teachers['t'].checkpoint == str(weights)
    assert json.loads((tmp_path / 'arsenal.json').read_text()) == {}
