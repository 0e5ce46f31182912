"""The doctor: each check finds what is wrong, and says nothing where nothing is."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.logging import MessageHub, MMLogger

import hook_runs
import tiny
from mkd_det.cli import train
from mkd_det.errors import ConfigError
from mkd_det.experiments.doctor import (
    OK,
    WARNING,
    WRONG,
    Finding,
    Settings,
    diagnose,
    distributed,
)
from mkd_det.experiments.doctor.checks import (
    better_student,
    class_order,
    data,
    find_checks,
    heads,
    learning_rate,
    models,
    normalisation,
    plain_training,
    ranks,
    resources,
    shares,
    speed,
    start,
    taps,
    teacher,
    terms,
)
from mkd_det.experiments.doctor.examination import Examination
from mkd_det.experiments.doctor.picture import draw_batch
from mkd_det.experiments.doctor.run import run_check
from mkd_det.experiments.doctor.steps import Steps
from mkd_det.experiments.doctor.teacher_metrics import MeasuredTeacher
from mkd_det.experiments.doctor.timing import Times
from mkd_det.experiments.doctor.training_command import training_command
from tooling import fails, run_command

TERMS: dict[str, Any] = dict(
    loss_attention=dict(type='AttentionKD', student='fpn', teacher='t.fpn'),
    loss_soft=dict(type='SoftOutputKD', student='head', teacher='t.head'),
)
TAPS = dict(fpn='neck', head='bbox_head')


def config(root: Path, **more: Any) -> Config:
    cfg = hook_runs.distill_cfg(root, 2, images=8, terms=TERMS, **more)
    cfg.model.taps = TAPS
    return cfg


@pytest.fixture(scope='module')
def case(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    """A healthy distillation; nothing of it is changed by a test."""
    cfg = config(tmp_path_factory.mktemp('healthy'))
    folder = tmp_path_factory.mktemp('folder')
    return Examination(cfg, Settings(images=4, batches=2, warmup=1), folder)


@pytest.fixture
def other(tmp_path: Path) -> Callable[..., Examination]:
    """Makes a distillation that a test may spoil."""

    def make(cfg: Config | None = None, **settings: Any) -> Examination:
        given = dict(images=2, batches=2, warmup=0) | settings
        return Examination(cfg or config(tmp_path), Settings(**given), tmp_path)

    return make


def levels(check: Any, case: Examination) -> list[str]:
    return [one.level for one in run_check('it', check, case)]


def only(check: Any, case: Examination, level: str) -> Finding:
    found = [one for one in run_check('it', check, case) if one.level == level]
    assert len(found) == 1, found
    assert found[0].fix or level == OK
    return found[0]


def measured(
    case: Examination, table: Any, had: float = 0.5, images: int = 32, **found: Any
) -> Examination:
    """Put what its teacher has found into an examination."""
    case.__dict__['_measured_teachers'] = dict(
        t=MeasuredTeacher(
            {'coco/bbox_mAP': had, **found}, images, np.array(table), tiny.CLASSES
        )
    )
    return case


def light(case: Examination, **changes: Any) -> Any:
    """The examination with other parts, as checks see it."""
    parts = dict(cfg=case.cfg, model=case.model, settings=case.settings)
    return SimpleNamespace(**{**parts, **changes})


def test_all_checks_are_found_in_their_order() -> None:
    names = [name for name, _ in find_checks()]
    assert names[:2] == ['start', 'models'] and 'class order' in names
    positions = [module.POSITION for _, module in find_checks()]
    assert len(set(positions)) == len(positions)


def test_start(case: Examination, other: Callable) -> None:
    assert only(start, case, OK).message.endswith('2 terms of 1 teachers')
    spoilt = other()
    spoilt.cfg.model.student.bbox_head.num_classes = 4
    assert 'different numbers of classes' in only(start, spoilt, WRONG).message


def test_what_is_not_built_is_not_examined(other: Callable, tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.model.teachers.t.checkpoint = str(tmp_path / 'absent.pth')
    spoilt = other(cfg)
    assert 'absent.pth' in only(start, spoilt, WRONG).message
    assert only(taps, spoilt, WARNING).message == 'not examined'
    wrong, *_, last = diagnose(cfg)
    assert (wrong.check, wrong.level) == ('start', WRONG)
    assert last.message.startswith('not examined: models, teacher, class order')


def test_models(case: Examination, other: Callable, tmp_path: Path) -> None:
    assert levels(models, case) == [OK]
    cfg = config(tmp_path)
    file = cfg.model.teachers.t.checkpoint
    narrow = tiny.gfl(base_channels=2, neck=4)
    small = tiny.write_checkpoint(narrow, tmp_path / 'small.pth')
    cfg.model.teachers.t.update(cfg=narrow, checkpoint=str(small))
    cfg.model.teachers.u = dict(cfg=narrow, checkpoint=str(small))
    cfg.model.terms.loss_soft.teacher = 'u.head'
    Path(cfg.work_dir).mkdir()
    Path(cfg.work_dir, 'epoch_1.pth').touch()
    found = run_check('it', models, other(cfg))
    texts = [one.message for one in found if one.check == 'models']
    assert 'teacher t has 0.0' in texts[0] and 'teacher u has' in texts[1]
    assert 'teacher t and teacher u have the same file' in texts[2]
    assert 'holds another training' in texts[3] and len(texts) == 4
    assert Path(file).is_file()


def test_teacher(case: Examination, other: Callable) -> None:
    right = np.diag([9, 9, 9])
    assert only(teacher, measured(case, right), OK).message.startswith('t: coco/bbox_m')
    assert only(teacher, measured(case, right, had=-1.0), WARNING)
    random = other()
    unchecked = other()
    unchecked.cfg.default_hooks.pop('teacher_check')
    texts = [o.message for o in run_check('teacher', teacher, unchecked)]
    assert 'no better than chance' in texts[-1]
    assert WRONG not in levels(teacher, unchecked)
    assert 'no better than chance' in only(teacher, random, WRONG).message


def test_class_order(case: Examination) -> None:
    right = [[8, 1, 0], [0, 9, 0], [0, 0, 7]]
    assert '24 of 25 objects' in only(class_order, measured(case, right), OK).message
    swapped = [[0, 8, 0], [9, 0, 0], [0, 0, 7]]
    found = only(class_order, measured(case, swapped), WRONG)
    assert "'red' is found as 'green'" in found.message
    few = [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert (
        'only 1 of the objects'
        in only(class_order, measured(case, few), WARNING).message
    )


def test_class_order_of_a_teacher_that_finds_all_objects(
    other: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted are the objects of the files, by what is found on them."""
    from mmengine.structures import InstanceData

    examined = other(images=8)
    model = examined.model.teachers['t'].model
    dataset = examined.runner.val_dataloader.dataset
    objects = {
        info['img_id']: info['instances']
        for info in map(dataset.get_data_info, range(len(dataset)))
    }

    def find(batch: dict) -> list:
        for sample in batch['data_samples']:
            known = objects[sample.img_id]
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([o['bbox'] for o in known]).float(),
                labels=torch.tensor([(o['bbox_label'] + 1) % 3 for o in known]),
                scores=torch.ones(len(known)),
            )
        return batch['data_samples']

    monkeypatch.setattr(model, 'val_step', find)
    found = only(class_order, examined, WRONG)
    assert "'red' is found as 'green'" in found.message
    assert f'0 of {sum(map(len, objects.values()))} objects' in found.message


@pytest.mark.parametrize(
    ('had', 'has', 'images', 'level'),
    [
        (0.5, 0.4, 32, OK),
        (0.5, 0.7, 32, WRONG),
        (0.5, 0.62, 32, WARNING),  # 1.24 times: colours hardly matter
        (0.5, 0.7, 4, WARNING),  # of so few images it may be chance
        (0.04, 0.09, 32, WARNING),  # twice, but of next to nothing
    ],
)
def test_normalisation(
    case: Examination,
    monkeypatch: pytest.MonkeyPatch,
    had: float,
    has: float,
    images: int,
    level: str,
) -> None:
    preprocessor: Any = case.model.teachers['t'].model.data_preprocessor
    measured(case, np.diag([9, 9, 9]), had, images)
    asked = []

    def measure(case: Any, name: str, count: int) -> Any:
        asked.append(count)
        return SimpleNamespace(metrics={'coco/bbox_mAP': has})

    monkeypatch.setattr(normalisation, 'measure', measure)
    found = run_check('it', normalisation, case)
    assert [one.level for one in found] == [level, OK][level == OK :]
    assert level == OK or 'channels reversed' in found[0].message
    # As many as the plain figure is of: the same ones.
    assert asked == [case.settings.images]
    assert preprocessor._channel_conversion is True


def test_normalisation_is_compared_with_the_checkpoint(
    case: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = case.model.teachers['t']
    theirs: Any = one.model.data_preprocessor
    text = 'model = dict(data_preprocessor=dict(mean=[{0}, {0}, {0}], std=[1, 1, 1]))'
    monkeypatch.setattr(one, 'meta', dict(cfg=text.format(103.53)))
    found = list(normalisation._not_as_trained('t', one, theirs))
    assert [f.level for f in found] == [WRONG, WRONG]
    assert 'mean=[103.53, 103.53, 103.53]' in found[0].fix
    # A checkpoint is data: the text is not run.
    bad = 'import os\nos.abort()\nmodel = dict(data_preprocessor=dict(mean=os.abort()))'
    monkeypatch.setattr(one, 'meta', dict(cfg=bad))
    assert not list(normalisation._not_as_trained('t', one, theirs))


def test_images_that_are_normalised_twice(other: Callable, tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.model.student.data_preprocessor.std = [1.0, 1.0, 1.0]
    found = list(normalisation._student_images(other(cfg)))
    assert [one.level for one in found] == [WARNING]
    assert 'not about 0 and 1' in found[0].message


def test_taps_terms_and_shares(case: Examination) -> None:
    assert 'all fire: 2 of the student, 2 of t' in only(taps, case, OK).message
    assert 'loss_attention' in only(terms, case, OK).message
    assert 'loss_soft' in only(shares, case, OK).message


def test_taps_that_do_not_fire(other: Callable) -> None:
    spoilt = other()
    student: Any = spoilt.model.student
    # Hooks do not see a direct call of `forward`.
    student.extract_feat = lambda images: student.neck.forward(student.backbone(images))
    assert 'never' in only(taps, spoilt, WRONG).message


@pytest.mark.parametrize(
    ('steps', 'level', 'text'),
    [
        (Steps('', {'task': [1.0], 'loss_soft': [0.0]}), WRONG, 'always zero'),
        (Steps('', {'task': [1.0], 'loss_soft': [2.0]}), WRONG, 'stays 2'),
        (Steps('', {'task': [1.0], 'loss_soft': [np.nan]}), WRONG, 'not finite'),
        (Steps('', {'task': [np.inf], 'loss_soft': [1.0]}), WRONG, 'task is not'),
        (Steps('', {'task': [1.0]}), WARNING, 'took no part'),
        (
            Steps('', {'loss_soft': [1.0]}, {'loss_soft': [np.inf]}),
            WRONG,
            'gradient of loss_soft',
        ),
    ],
)
def test_terms(case: Examination, steps: Steps, level: str, text: str) -> None:
    plan = SimpleNamespace(terms={'loss_soft': None})
    spoilt = light(case, model=SimpleNamespace(plan=plan), _steps=steps)
    found = [one for one in run_check('it', terms, spoilt) if text in one.message]
    assert [one.level for one in found] == [level] and found[0].fix


def test_a_term_that_does_not_reach_the_student(other: Callable) -> None:
    """Measured in real steps: its tap lies behind frozen layers only."""
    examined = other()
    loss: Any = examined.model.losses['loss_attention']
    loss.forward = lambda student, teacher, **_: student[0].mean() * 0.0
    assert 'loss_attention is always zero' in only(terms, examined, WRONG).message


def test_shares(case: Examination) -> None:
    far = Steps('backbone', {}, {'loss_soft': [900.0], 'loss_attention': [1e-6]})
    found = run_check('it', shares, light(case, _steps=far))
    assert [one.level for one in found] == [WARNING, WARNING, OK]
    assert 'pulls too hard' in found[0].message and 'calibrate' in found[0].fix
    assert 'hardly pulls' in found[1].message


def test_a_task_without_a_gradient_is_nothing_to_compare_with(
    case: Examination,
) -> None:
    """As with `task_weight=0`: terms still reach the student."""
    alone = Steps('backbone', {'loss_soft': [1.0]}, {}, {'loss_soft': 2.0})
    spoilt = light(case, _steps=alone)
    assert 'nothing to compare with' in only(shares, spoilt, OK).message
    plan = SimpleNamespace(terms={'loss_soft': None})
    spoilt = light(case, model=SimpleNamespace(plan=plan), _steps=alone)
    assert not [one for one in run_check('it', terms, spoilt) if one.level == WRONG]


def test_a_student_that_begins_as_good_as_its_teacher(
    case: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(better_student, 'warn_of_better_student', lambda _: ['it is'])
    assert list(better_student.check(case)) == []
    cfg = Config({**case.cfg, 'load_from': 'student.pth'})
    [found] = better_student.check(light(case, cfg=cfg))
    assert found.level == WARNING and 'swapped' in found.fix

    def fail(_: Any) -> None:
        raise ConfigError('no val data')

    monkeypatch.setattr(better_student, 'warn_of_better_student', fail)
    [found] = better_student.check(light(case, cfg=cfg))
    assert 'not compared: no val data' in found.message and 'mkd-det test' in found.fix


def test_heads(case: Examination, other: Callable) -> None:
    assert 'DenseReader' in only(heads, case, OK).message
    spoilt = other()
    head: Any = type(case.model.student.bbox_head)
    with pytest.MonkeyPatch.context() as patch:
        own = head.predict_by_feat
        patch.setattr(
            head,
            'predict_by_feat',
            lambda self, cls, *a, **k: own(self, [c + 1 for c in cls], *a, **k),
        )
        assert 'predict' in only(start, spoilt, WRONG).message


def test_plain_training(case: Examination) -> None:
    assert levels(plain_training, case) == [OK]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_training, 'switched_off', lambda cfg: cfg)
        assert 'differ from plain' in only(plain_training, case, WRONG).message


def _dataset(*objects: list[tuple[int, int]]) -> Any:
    """A data set; each image has objects of (label, side)."""
    infos = [
        dict(instances=[dict(bbox_label=c, bbox=(0, 0, s, s)) for c, s in image])
        for image in objects
    ]

    class Data(list):
        metainfo = dict(classes=tiny.CLASSES)

        def get_data_info(self, index: int) -> dict:
            return self[index]

    return Data(infos)


def test_the_rarest_of_many_classes_are_named() -> None:
    dataset = _dataset([(0, 50), (0, 50), (3, 50)])
    dataset.metainfo = dict(classes=[f'c{i}' for i in range(80)])
    counts = data.Counts(1, 1, 1, Counter({0: 2, 3: 1}))
    (finding,) = data._classes(counts, dataset)
    assert 'learn from: c3 (1), c0 (2), c1 (0), c2 (0), c4 (0)' in finding.message
    assert finding.message.endswith('(0) and 60 more')


class Listed(BaseDataset):
    """A data set of mmengine from a list of what its images have."""

    METAINFO = dict(classes=tiny.CLASSES)

    def __init__(self, infos: list[dict]) -> None:
        self.infos = list(infos)
        super().__init__()

    def load_data_list(self) -> list[dict]:
        return self.infos


def _rare(dataset: Any) -> list[str]:
    counts = data.count(dataset, 0.0, 100)
    return [one.message for one in data._classes(counts, dataset)]


def test_rare_classes_are_named_beside_images_without_labels() -> None:
    labelled = _dataset(*[[(0, 50), (1, 50)]] * 10, [(2, 50)] * 4)
    # As mkd-det distill writes it; repeated objects are not more to learn from.
    repeated = dict(type='RepeatDataset', times=3, dataset=Listed(labelled))
    both = ConcatDataset([repeated, Listed([{}] * 40)])
    assert _rare(both) == ['classes with under 10 objects to learn from: blue (4)']
    counts = data.count(both, 0.0, 100)
    assert (counts.images, counts.total) == (11, 51)
    assert counts.boxes == {0: 10, 1: 10, 2: 4}


def test_rare_classes_of_many_images_are_estimated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, 'MOST', 30)
    images = [[(0, 50)] * 3 + [(1, 50)]] * 60
    images[30] = [(2, 50)]
    (message,) = _rare(_dataset(*images))
    assert message.endswith('estimated from 30 of 60 images: blue (2)')


def test_what_was_not_trained_can_be_copied_into_a_shell(tmp_path: Path) -> None:
    args = SimpleNamespace(
        config=str(tmp_path / 'my pair.py'),
        work_dir=str(tmp_path / 'a run'),
        amp=True,
        auto_scale_lr=False,
        cfg_options={'lam': 0.5, 'a.sizes': [(1, 2), [3]], 'b': None, 'c': 'x y'},
    )
    words = shlex.split(training_command(args))
    assert words[:2] == ['mkd-det', 'train']
    again = train.make_parser().parse_args(words[2:])
    assert (again.config, again.work_dir) == (args.config, args.work_dir)
    assert again.amp and not again.auto_scale_lr
    assert again.cfg_options == {**args.cfg_options, 'c': 'xy'}  # as argparse reads it
    args.amp, args.cfg_options = False, None
    assert shlex.split(training_command(args))[-1] == args.work_dir


def test_data(case: Examination) -> None:
    def examined(*objects: list) -> list[tuple[str, str]]:
        loader = SimpleNamespace(dataset=_dataset(*objects))
        one = light(case, train_loader=loader, batches=[])
        found = run_check('it', data, one)
        return [(f.level, f.message) for f in found]

    good = [(0, 20), (1, 20), (2, 20)]
    assert [level for level, _ in examined(*[good] * 10)] == [OK]
    rare = examined(*[good[:2]] * 10)
    assert rare[0] == (
        WARNING,
        'classes with under 10 objects to learn from: blue (0)',
    )
    assert '10 of 20 images have no object' in examined(*[good, []] * 10)[0][1]
    crowded = examined(*[good * 8] * 10)
    assert 'have more than 20 objects' in crowded[0][1]
    tiny_ones = examined(*[[*good, (0, 4)]] * 10)
    assert '10 of 40 objects are smaller than 8 pixels' in tiny_ones[0][1]


def test_learning_rate(case: Examination) -> None:
    def examined(scaling: Any, rate: float = 0.01) -> Finding:
        cfg = case.cfg.copy()
        cfg.auto_scale_lr = scaling
        cfg.optim_wrapper.optimizer.lr = rate
        (found,) = run_check('it', learning_rate, light(case, cfg=cfg))
        return found

    far = examined(dict(base_batch_size=16, enable=False))
    assert far.level == WARNING and 'lr=0.00125' in far.fix
    assert examined(dict(base_batch_size=16, enable=True)).level == OK
    assert examined(dict(base_batch_size=2)).level == OK
    assert examined(None).level == OK
    assert examined(None, 5.0).level == WARNING


SECONDS = {'S': [1.0], 'T': [1.0], 'K off': [2.0], 'K exact': [1.5], 'K fast': [4.0]}


def test_speed(case: Examination) -> None:
    slow = light(case, device='cpu', _times=Times(SECONDS, 10))
    found = run_check('it', speed, slow)
    assert [one.level for one in found] == [WARNING, OK]
    assert found[0].fix == 'model.teachers.t.speed=exact'
    even = light(case, device='cpu', _times=Times(dict.fromkeys(SECONDS, [1.0]), 10))
    assert levels(speed, even) == [OK]


def test_resources(case: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = dict(device='cpu', iterations=9, _times=Times(SECONDS, 10**9))
    examined = light(case, **parts)
    monkeypatch.setattr(resources, 'free_memory', lambda device: 2 * 10**9)
    assert levels(resources, examined) == [OK, OK, OK]
    monkeypatch.setattr(resources, 'free_memory', lambda device: 10**9 // 2)
    monkeypatch.setattr(resources, 'free_disk', lambda case: 1000)
    found = run_check('it', resources, examined)
    assert [one.level for one in found] == [WRONG, WRONG, OK]
    assert 'batch_size=1' in found[0].fix and 'max_keep_ckpts' in found[1].fix


def test_speed_and_memory_are_measured(case: Examination) -> None:
    assert levels(speed, case)[-1] == OK
    assert case.__dict__['_times'].bytes > 0
    assert set(case.__dict__['_times'].seconds) == set(SECONDS)


def test_two_ranks(
    case: Examination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert levels(ranks, case) == []  # not asked for
    # Forked from a process that has imported everything; spawning takes longer.
    monkeypatch.setattr(distributed, 'START', 'forkserver')
    examined = light(
        case,
        settings=Settings(ranks=2),
        loader_cfg=case.loader_cfg,
        folder=tmp_path,
    )
    assert levels(ranks, examined) == [OK]
    monkeypatch.setattr(ranks, 'try_ranks', lambda *_: 'x is not the same')
    assert 'x is not the same' in only(ranks, examined, WRONG).message


def test_the_picture_shows_a_batch(case: Examination, tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'doctor.png'
    assert run_check('picture', draw_batch(path), case)[0].level == OK
    height, width = cv2.imread(str(path)).shape[:2]
    assert width > 4 * 300 and height > 2 * 150  # four columns, two rows


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    before, state = cfg.to_dict(), torch.get_rng_state()
    loggers = set(MMLogger._instance_dict), set(MessageHub._instance_dict)
    found = diagnose(cfg, Settings(images=2, batches=2, warmup=0, quick=True))
    assert {one.check for one in found} >= {'start', 'teacher', 'terms', 'data'}
    assert not {one.check for one in found} & {'speed', 'plain training', 'picture'}
    assert cfg.to_dict() == before and torch.equal(torch.get_rng_state(), state)
    assert not Path(cfg.work_dir).exists()
    assert (set(MMLogger._instance_dict), set(MessageHub._instance_dict)) == loggers


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        diagnose(tiny.runner_cfg(tiny.gfl(), tmp_path, tmp_path))
    assert 'distill' in error.value.message
    with pytest.raises(ConfigError) as error:
        Settings(ranks=0)
    assert error.value.actual == 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, out = tmp_path / 'pair.py', tmp_path / 'found.json'
    config(tmp_path).dump(file)
    argv = [file, '--quick', '--images', 2, '--no-picture', '--json', out]
    assert run_command('doctor', argv) == 2  # its teacher is random
    assert 'no better than chance' in ' '.join(capsys.readouterr().out.split())
    written = json.loads(out.read_text())
    assert written['wrong'] and {f['level'] for f in written['findings']} >= {WRONG}
    assert not (tmp_path / 'run').exists()
    fails(capsys, 'doctor', [file, '--images', 0], 'ConfigError', '--images')
