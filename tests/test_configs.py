"""Promise 12: every shipped config builds and runs one CPU step; its name
matches its contents."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.hub import get_config, get_model
from mmengine.registry import MODELS

import tiny
import tiny_images
from mkd_det.configs import load_config
from mkd_det.experiments.chain.chain import ChainMember, read_chain
from mkd_det.experiments.chain.member_configs import member_config
from mkd_det.training.runtime import student_config

ROOT = Path(__file__).resolve().parents[1]
CHAINS = sorted((ROOT / 'configs/chain').glob('*.py'))
CONFIGS = sorted(
    file
    for file in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in file.relative_to(ROOT).parts and file not in CHAINS
)
CLASSIFIERS = [file for file in CONFIGS if file.parent.name == 'classification']
# What teaches detectors: the type of a term or adapter, by the word in the name.
DETECTION = {
    'mkd': 'GuidanceLayer',
    'cwd': 'FeatureKD',
    'pkd': 'FeatureKD',
    'mgd': 'MaskedGeneration',
    'fgd': 'FGD',
    'ld': 'LD',
    'crosskd': 'CrossHead',
    'dkd': 'ProposalDKD',
    'dist': 'DIST',
}
# Where methods share a type, the form of it.
FORMS = {'cwd': {'channel'}, 'pkd': {'pearson'}, 'mgd': {'l2', 'l2_sum'}}
PAIRS = [
    file
    for file in CONFIGS
    if set(file.stem.split('_')) & set(DETECTION)
    and file.parent.name not in ('ablation', 'classification')
]
# What else teaches: the type of a term or adapter, by the word in the name.
METHODS = {
    'kd': 'SoftOutputKD',
    'aggregation': 'LossAggregation',
    'dlkd': 'DLKD',
    'fa': 'NonLinearAlign',
    'dist': 'DIST',
    'dkd': 'DKD',
}
# 'aggregation-focal' is a kind of aggregation.
TAUGHT = [
    file
    for file in CLASSIFIERS
    if {word.split('-')[0] for word in file.stem.split('_')} & set(METHODS)
]
# Parts of the BCCD pair's config, to measure what each does.
ABLATION = [file for file in CONFIGS if file.parent.name == 'ablation']
DISTILL = PAIRS + TAUGHT + ABLATION
DETECTORS = {
    'gfl': 'GFL',
    'retinanet': 'RetinaNet',
    'fcos': 'FCOS',
    'atss': 'ATSS',
    'faster-rcnn': 'FasterRCNN',
}
OF_TEACHERS = {**DETECTORS, 'cascade': 'CascadeRCNN'}
# r<depth> (x<depth>: ResNeXt), or r<depth>-w<base channels> where it is not ResNet's
# own 64; where it starts from a classifier, that one's data; before it the detector,
# if it is another than the student.
BACKBONE = re.compile(r'(?:(\w+)-)?[rx](\d+)(?:-w(\d+))?(?:-cifar|-rows)?$')


# Terms, and whether there are adapters and branches.
PARTS = {
    'soft': ({'loss_soft'}, False, False),
    'relation': ({'loss_relation'}, False, False),
    'attention': ({'loss_attention'}, False, False),
    'aggregated_soft': ({'loss_aggregation'}, False, False),
    'aggregated_labels': ({'loss_aggregation'}, False, False),
    'dlkd': ({'loss_dlkd'}, False, False),
    'pkd': ({'loss_feature'}, True, False),
    'cwd': ({'loss_feature'}, True, False),
    'mgd': ({'loss_feature'}, True, False),
    'fgd': ({'loss_fgd'}, False, False),
    'ld': ({'loss_ld', 'loss_soft'}, False, False),
    'crosskd': ({'loss_cross'}, True, False),
    'two_teachers': ({'loss_soft', 'loss_soft_a'}, False, False),
    'three': ({'loss_soft', 'loss_relation', 'loss_attention'}, False, False),
    'guided': (
        {'loss_soft', 'loss_relation', 'loss_attention', 'loss_feature'},
        True,
        False,
    ),
}


def named(file: Path) -> str:
    return f'{file.parent.name}/{file.stem}'


def folder(file: Path) -> str:
    """The data set's folder."""
    return file.relative_to(ROOT / 'configs').parts[0]


@functools.cache
def parsed(file: Path) -> Config:
    return Config.fromfile(file)


def read(file: Path) -> Config:
    """The config as a user reads it, with nothing to download: no pre-trained
    backbones, and random weights instead of the teacher's file."""
    cfg = copy.deepcopy(parsed(file))
    if cfg.model.type == 'Distiller':
        cfg.model.student.backbone.pop('init_cfg', None)
        for teacher in cfg.model.teachers.values():
            teacher.checkpoint = None
    else:
        plain(cfg.model).backbone.pop('init_cfg', None)
    return cfg


def plain(model: Any) -> Any:
    """The student's model, of whatever filters."""
    model = model.get('student', model)
    return model.model if model.type == 'RowModel' else model


def box_head(model: Any) -> Any:
    """What tells classes apart, of a detector of one stage or more."""
    head = (model.get('roi_head') or model).bbox_head
    return head[0] if isinstance(head, list) else head


def teacher_models(cfg: Config) -> list[Config]:
    """Configs of the models of the teachers, pruned copies left out."""
    own = [t for t in cfg.model.teachers.values() if 'cfg' in t]
    return [get_config(teacher.cfg).model for teacher in own]


def backbones(file: Path) -> list[tuple[int, int]]:
    """(depth, base channels) of each backbone that the name speaks of."""
    found = [BACKBONE.match(part) for part in file.stem.split('_')]
    return [(int(m[2]), int(m[3] or 64)) for m in found if m]


def backbone(model: dict[str, Any]) -> tuple[int, int]:
    return model['backbone']['depth'], model['backbone'].get('base_channels', 64)


def test_there_is_something_to_test() -> None:
    kinds = {file.name.split('_')[0] for file in PAIRS}
    assert kinds == set(DETECTORS)
    assert {'bccd', 'coco', 'voc', 'demo'} <= {folder(file) for file in PAIRS}


@pytest.mark.parametrize('file', CONFIGS, ids=named)
def test_config_builds_and_runs_one_step(file: Path) -> None:
    one_step(read(file).model)


def one_step(model_cfg: Any) -> None:
    student = plain(model_cfg)
    model = MODELS.build(model_cfg).train()
    if student.type == 'ImageClassifier':
        batch = tiny_images.batch(side=32)
    else:
        batch = tiny.batch(num_classes=box_head(student).num_classes)
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    if model_cfg.type != 'Distiller':
        return
    for term in model_cfg.terms:
        parts = [value for key, value in log.items() if key.startswith(term)]
        assert parts and any(value > 0 for value in parts), f'{term} is silent'
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    # A head's scale of a level without positives has no gradient in mmdet.
    assert not [name for name in silent if '.bbox_head' not in name]


@pytest.mark.parametrize('file', ABLATION, ids=named)
def test_name_of_a_part_matches_its_contents(file: Path) -> None:
    model = read(file).model
    terms, adapters, branches = PARTS[file.stem]
    assert set(model.terms) == terms
    found = bool(model.get('adapters')), bool(model.get('branches'))
    assert found == (adapters, branches)
    forms = {term.get('form') for term in model.terms.values()}
    assert file.stem not in FORMS or forms & FORMS[file.stem]


def called(classifier: dict[str, Any]) -> str:
    """What a classifier is to be called in a config's name."""
    backbone = classifier['backbone']
    if backbone['type'] == 'TorchvisionBackbone':
        return backbone['name'].replace('_', '').removesuffix('small')
    width = f'-w{backbone["base_channels"]}' if backbone['type'] == 'ResNet' else ''
    return f'resnet{backbone["depth"]}{width}'


@pytest.mark.parametrize('file', CLASSIFIERS, ids=named)
def test_name_of_a_classifier_matches_its_contents(file: Path) -> None:
    cfg = read(file)
    *models, data = file.stem.split('_')
    if file in TAUGHT:
        teachers, method, student = models
        known = '-'.join(called(model) for model in teacher_models(cfg))
        assert teachers == known.replace('-resnet', '-')
        assert student == called(cfg.model.student)
        parts = [*cfg.model.terms.values(), *cfg.model.get('adapters', {}).values()]
        assert METHODS[method.split('-')[0]] in {part.type for part in parts}
    else:
        assert models[0].startswith(called(plain(cfg.model)))
        kinds = {'RowModel': ('rows', 'mixed'), 'ImageClassifier': ('', 'aggregation')}
        kind = models[0].removeprefix(called(plain(cfg.model))).removeprefix('-')
        assert kind in kinds[cfg.model.type]
    dataset = cfg.train_dataloader.dataset
    classes = {'cifar10': 10, 'cifar100': 100, 'imagenet': 1000}[data]
    assert plain(cfg.model).num_classes == classes
    assert len(dataset.get('classes', range(classes))) == classes
    assert data in dataset.root
    # As built without the data itself: every transform is torchvision's.
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.type == 'TorchvisionDataset'
    assert METRICS.get(cfg.val_evaluator.type).__name__ == 'ClassAccuracy'


@pytest.mark.parametrize(
    'file', sorted(set(CONFIGS) - set(ABLATION) - set(CLASSIFIERS)), ids=named
)
def test_name_matches_contents(file: Path) -> None:
    cfg = read(file)
    detector = DETECTORS[file.stem.split('_')[0]]
    if file in PAIRS:
        (teacher,), student = teacher_models(cfg), cfg.model.student
        assert backbones(file) == [backbone(teacher), backbone(student)]
        other = [m[1] for m in map(BACKBONE.match, file.stem.split('_')) if m and m[1]]
        assert teacher.type == (OF_TEACHERS[other[0]] if other else detector)
        assert student.type == detector
        parts = [*cfg.model.terms.values(), *cfg.model.get('adapters', {}).values()]
        (method,) = set(file.stem.split('_')) & set(DETECTION)
        assert DETECTION[method] in {part.type for part in parts}
        forms = {part.get('form') for part in parts}
        assert method not in FORMS or forms & FORMS[method]
        assert box_head(teacher).num_classes == box_head(student).num_classes
        assert 'recipe' not in cfg, "take the recipe with _base_.pop('recipe')"
    else:
        assert backbones(file) == [backbone(plain(cfg.model))]
        assert plain(cfg.model).type == detector
        assert ('rows' in file.stem) == (cfg.model.type == 'RowModel')


@pytest.mark.parametrize('file', sorted(set(CONFIGS) - set(CLASSIFIERS)), ids=named)
def test_data_set_and_metrics_match_the_folder(file: Path) -> None:
    cfg = read(file)
    evaluators = cfg.val_evaluator
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    kinds = {METRICS.get(evaluator.type).__name__ for evaluator in evaluators}
    dataset = cfg.val_dataloader.dataset
    expected = {
        'coco': ({'CocoMetric'}, 80),
        'voc': ({'VOCMetric'}, 20),
        'bccd': ({'CocoMetric', 'VOCMetric'}, 3),
        'demo': ({'CocoMetric'}, 10),
    }
    metrics, classes = expected[folder(file)]
    assert kinds == metrics
    student = plain(cfg.model)
    names = dataset.get('metainfo', DATASETS.get(dataset.type).METAINFO)['classes']
    assert box_head(student).num_classes == len(names) == classes


@pytest.mark.parametrize('file', PAIRS + TAUGHT, ids=named)
def test_comment_says_what_to_download(file: Path) -> None:
    """The teacher's file is named with where it comes from: an address that
    ends in its name, or the config that trains it."""
    text = file.read_text(encoding='utf-8')
    docstring = text.split('"""')[1]
    for teacher in parsed(file).model.teachers.values():
        if 'cfg' not in teacher:
            continue  # a pruned copy of another
        weights = Path(teacher.checkpoint)
        if teacher.cfg.startswith('mkd_det::') and '://' not in teacher.checkpoint:
            assert 'train' in docstring
        else:
            assert re.search(rf'https://\S+/{re.escape(weights.name)}\s', docstring)


@pytest.mark.parametrize('file', DISTILL, ids=named)
def test_each_term_can_be_overridden_alone(file: Path, tmp_path: Path) -> None:
    """A config that inherits changes one weight in one line."""
    term = next(iter(parsed(file).model.terms))
    child = tmp_path / 'mine.py'
    child.write_text(
        f'_base_ = [{str(file)!r}]\n'
        f'model = dict(terms=dict({term}=dict(weight=0.125)))\n'
    )
    before, after = copy.deepcopy(parsed(file).model), Config.fromfile(child).model
    assert after.terms[term].pop('weight') == 0.125
    before.terms[term].pop('weight', None)
    assert after == before


def test_a_detector_can_start_from_the_classifiers_backbone() -> None:
    """The one config's student is the other's `init_cfg`, tensor by tensor."""
    folder = ROOT / 'configs'
    detector = parsed(folder / 'bccd/gfl_mkd_r18-w64_r18-w16-cifar_bccd.py')
    start = copy.deepcopy(detector.model.student.backbone)
    checkpoint = start.pop('init_cfg')
    assert checkpoint.prefix == 'backbone.'
    file = folder / 'classification/resnet56_kd_resnet18-w16_cifar10.py'
    assert f'to {checkpoint.checkpoint} for' in file.read_text(encoding='utf-8')
    states = [
        MODELS.build(cfg).state_dict()
        for cfg in (start, parsed(file).model.student.backbone)
    ]
    shapes = [{k: v.shape for k, v in state.items()} for state in states]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize('file', CHAINS, ids=named)
def test_every_stage_of_a_chain_builds_and_the_last_runs_one_step(
    file: Path, tmp_path: Path
) -> None:
    chain = read_chain(Config.fromfile(file).to_dict())
    students = {}
    for member in chain.members:
        cfg = member_config(member, students, chain)
        student_config(cfg).dump(tmp_path / f'{member.name}.py')
        students[member.name] = str(tmp_path / f'{member.name}.py'), 'none.pth'
        for teacher in cfg.model.get('teachers', {}).values():
            teacher.checkpoint = None
        MODELS.build(copy.deepcopy(cfg.model))
    cfg.model.pop('sampling')  # all terms, in the one step
    one_step(cfg.model)


@pytest.mark.parametrize('file', CHAINS, ids=named)
def test_name_of_a_chain_matches_its_contents(file: Path) -> None:
    chain = read_chain(Config.fromfile(file).to_dict())
    *before, student = chain.members
    teachers, method, last, data = file.stem.split('_')[-4:]
    assert teachers.endswith('-'.join(dict.fromkeys(map(size, before))))
    assert last.endswith(size(student))
    assert all(member.cfg.endswith(f'_{data}.py') for member in chain.members)
    assert (len(student.guides) == 1) == (method == 'takd')
    assert bool(student.sampling) == method.endswith('-stochastic')
    rows = get_config(student.cfg).model.type == 'RowModel'
    assert rows == (method == 'rows')


def size(member: ChainMember) -> str:
    """What tells the members of a chain apart: depth or width."""
    model = plain(load_config(member.cfg, dict(member.options)).model)
    return str(model.backbone.get('base_channels') or model.backbone.depth)


@pytest.mark.parametrize('file', DISTILL[::4], ids=named)
def test_dumped_config_reads_back_the_same(file: Path, tmp_path: Path) -> None:
    """mmengine dumps a config into the work dir; resuming starts from there."""
    cfg = parsed(file)
    cfg.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == cfg.to_dict()


def test_packaged_config_names_resolve() -> None:
    name = 'bccd/gfl_r18-w16_bccd.py'
    cfg = get_config(f'mkd_det::{name}')
    assert Path(cfg.filename).samefile(ROOT / 'configs' / name)
    assert type(get_model(f'mkd_det::{name}')).__name__ == 'GFL'


def test_packaged_configs_are_bases_for_a_users_own(tmp_path: Path) -> None:
    """What comes from a `mkd_det::` base is built in our scope: mmdet's models
    and data sets must be found from there, and so must a recipe's parts."""
    mine = tmp_path / 'mine.py'
    mine.write_text(
        "_base_ = ['mkd_det::bccd/gfl_r18-w16_bccd.py',\n"
        "          'mkd_det::_base_/recipes/mkd_dense.py']\n"
        "model = dict(_delete_=True, type='Distiller',\n"
        '    student={{_base_.model}},\n'
        "    teachers=dict(t=dict(cfg='mkd_det::bccd/gfl_r18-w64_bccd.py',\n"
        '                         checkpoint=None)),\n'
        "    **_base_.pop('recipe'))\n"
    )
    cfg = Config.fromfile(mine)
    assert cfg.model.student['_scope_'] == 'mkd_det'
    model = MODELS.build(cfg.model).train()
    data = model.data_preprocessor(tiny.batch(), training=True)
    assert torch.isfinite(model.parse_losses(model(**data, mode='loss'))[0])
    with DATASETS.switch_scope_and_registry('mkd_det') as registry:
        for name in ('XMLDataset', 'TorchvisionDataset'):
            assert registry.get(name).__name__ == name
    mine.write_text("_base_ = ['mkd_det::classification/resnet20_cifar10.py']")
    cfg = Config.fromfile(mine)
    assert cfg.model['_scope_'] == 'mkd_det'
    assert MODELS.build(cfg.model)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
