"""Promise 12: every shipped config builds and runs one CPU step; its name matches
its contents. A new config for a new loss needs no edit here (promise 10)."""

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
from mmengine.logging import MessageHub
from mmengine.registry import MODELS

import tiny
import tiny_images
from mkd_det.config_files.reading import load_config, read_config
from mkd_det.experiments.chain.chain import ChainMember, read_chain
from mkd_det.experiments.chain.member_configs import member_config
from mkd_det.plan.recipes import packaged_recipes
from mkd_det.registry import ADAPTERS, LOSSES, type_name
from mkd_det.training.student_config import student_config

ROOT = Path(__file__).resolve().parents[1]
CHAINS = sorted((ROOT / 'configs/chain').glob('*.py'))
# Those of packages that are an optional extra have a test of their own.
EXTRA = ('mmpretrain', 'mmseg')
CONFIGS = sorted(
    file
    for file in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in file.relative_to(ROOT).parts
    and file not in CHAINS
    and file.parent.name not in EXTRA
)
CLASSIFIERS = [file for file in CONFIGS if file.parent.name == 'classification']
# Parts of the BCCD pair's config, to measure what each does.
ABLATION = [file for file in CONFIGS if file.parent.name == 'ablation']


@functools.cache
def parsed(file: Path) -> Config:
    """The config; of a pure-Python one, with the last part of each type's name."""
    cfg = read_config(str(file))
    return Config(short(cfg.to_dict())) if Config._is_lazy_import(str(file)) else cfg


def short(value: Any) -> Any:
    """A config with types by their bare names."""
    if isinstance(value, dict):
        named = {k: short(v) for k, v in value.items()}
        if isinstance(value.get('type'), str):
            named['type'] = value['type'].rpartition('.')[2]
        return named
    return type(value)(map(short, value)) if isinstance(value, (list, tuple)) else value


DISTILL = [file for file in CONFIGS if parsed(file).model.type == 'Distiller']
# Of detectors and of classifiers.
TAUGHT = [file for file in CLASSIFIERS if file in DISTILL]
PAIRS = [file for file in DISTILL if file not in TAUGHT + ABLATION]
RECIPES = {recipe.name: recipe.arguments for recipe in packaged_recipes()}
# r<depth> (x<depth>: ResNeXt), or r<depth>-w<base channels> where it is not ResNet's
# own 64; where it starts from a classifier, that one's data; before it the detector,
# if it is another than the student.
BACKBONE = re.compile(r'(?:(\w+)-)?[rx](\d+)(?:-w(\d+))?(?:-cifar|-rows)?$')
NECKS = ('FPN', 'ChannelMapper')
COUNTS = {'two': 2, 'three': 3}
# Metrics by the type of the data set.
METRICS_OF = {
    'CocoDataset': {'CocoMetric'},
    'VOCDataset': {'VOCMetric'},
    'XMLDataset': {'CocoMetric', 'VOCMetric'},
}


def named(file: Path) -> str:
    return f'{file.parent.name}/{file.stem}'


def folder(file: Path) -> str:
    """The data set's folder."""
    return file.relative_to(ROOT / 'configs').parts[0]


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


def fewer_queries(model: Any) -> None:
    """Give a DETR no more queries than a tiny image has places, and few layers."""
    if 'num_queries' in model:
        model.num_queries = 20
        for part in (model.encoder, model.decoder):
            part.num_layers = 2
            part.layer_cfg.ffn_cfg.feedforward_channels = 32


def narrow(model: Any) -> bool:
    """Give a full-size backbone an eighth of its channels; tell whether it was one."""
    fewer_queries(model)
    backbone, neck = model.backbone, model.get('neck') or {}
    if backbone.type in ('CSPDarknet', 'CSPNeXt') and neck.out_channels >= 96:
        backbone.deepen_factor, neck.num_csp_blocks = 0.1, 1
        backbone.widen_factor /= 8
        neck.in_channels = [channels // 8 for channels in neck.in_channels]
        for part, key in (
            (neck, 'out_channels'),
            (model.bbox_head, 'in_channels'),
            (model.bbox_head, 'feat_channels'),
        ):
            part[key] //= 8
        # Pixels up to 255 and random weights would make boxes infinite.
        model.data_preprocessor.update(mean=[114.0] * 3, std=[57.0] * 3)
        return True
    if backbone.type == 'SwinTransformer':
        backbone.embed_dims, backbone.num_heads = 24, [3, 3, 3, 3]
        neck.in_channels = [channels // 4 for channels in neck.in_channels]
        return True
    if backbone.type not in ('ResNet', 'ResNeXt') or neck.get('type') not in NECKS:
        return False
    if backbone.get('base_channels', 64) < 64 or backbone.depth < 50:
        return False
    backbone.base_channels = 8
    if 'groups' in backbone:
        backbone.groups = 8
    neck.in_channels = [channels // 8 for channels in neck.in_channels]
    return True


def narrowed(model: Any) -> Any:
    """A distiller's config with narrow teachers and student, for speed."""
    if model.type != 'Distiller':
        fewer_queries(plain(model))
        return model
    narrow(plain(model))
    for teacher in model.teachers.values():
        if 'cfg' in teacher:
            own = get_config(teacher.cfg).model
            if own.get('neck') and narrow(own):
                own.backbone.pop('init_cfg', None)
                teacher.cfg, model.probe_size = own, 64
    return model


def parts_of(arguments: Any) -> set[tuple[str, str]]:
    """Type and form of every term and adapter; 'l2_sum' is a form of 'l2'."""
    parts = [*arguments['terms'].values(), *(arguments.get('adapters') or {}).values()]
    return {(part['type'], part.get('form', '').partition('_')[0]) for part in parts}


def teaches_by(method: str, file: Path) -> bool:
    """Whether a config teaches by the method that its name speaks of: as the recipes of
    that name do, or else by a class that is called, or calls itself, so."""
    parts = parts_of(read(file).model)
    kind = 'logits' if file in TAUGHT else ('dense', 'stage', 'query')
    named = [n for n in RECIPES if n.split('_')[0] == method and n.endswith(kind)]
    if named:
        return any(parts_of(RECIPES[name]) <= parts for name in named)
    classes = {**LOSSES.module_dict, **ADAPTERS.module_dict}
    word = re.compile(rf'\b{method}\b|^\w*{method}', re.IGNORECASE)
    return any(
        word.search(type_) or word.search(classes[type_].__doc__) for type_, _ in parts
    )


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


def backbone(model: dict[str, Any]) -> list[tuple[int, int]]:
    """(Depth, base channels) of a ResNet; nothing of others, which names speak of by
    the detector's size (RTMDet-tiny)."""
    own = model['backbone']
    return [(own['depth'], own.get('base_channels', 64))] if 'depth' in own else []


def test_there_is_something_to_test() -> None:
    detectors = {file.name.split('_')[0] for file in PAIRS}
    assert {'gfl', 'retinanet', 'fcos', 'atss', 'faster-rcnn'} <= detectors
    assert {'bccd', 'coco', 'voc', 'demo'} <= {folder(file) for file in PAIRS}
    assert len(TAUGHT) > 10 and len(ABLATION) > 10


def test_a_method_of_another_name_is_told_apart() -> None:
    """Or the tests of names below would be none."""
    folder = ROOT / 'configs'
    pkd = folder / 'coco/retinanet_pkd_fcos-x101_r50_fpn_1x_coco.py'
    assert teaches_by('pkd', pkd)
    assert not any(teaches_by(method, pkd) for method in ('cwd', 'mgd', 'mkd', 'fgd'))
    dkd = folder / 'classification/resnet56_dkd_resnet20_cifar10.py'
    assert teaches_by('dkd', dkd)
    assert not any(teaches_by(method, dkd) for method in ('dist', 'dlkd', 'kd', 'fa'))


def test_published_weights_of_coco_pairs() -> None:
    """PKD: 10 for each of four levels, of which the term is the mean. CrossKD: boxes 4
    KL at temperature 1."""
    folder = ROOT / 'configs/coco'
    pkd = read(folder / 'retinanet_pkd_fcos-x101_r50_fpn_1x_coco.py').model
    assert len(pkd.taps.fpn) == 4 and pkd.terms.loss_feature.weight == 4 * 10
    cross = read(folder / 'gfl_crosskd_r101_r50_fpn_1x_coco.py').model.terms.loss_cross
    assert (cross.weight, cross.box_weight, cross.box_tau) == (1.0, 4.0, 1.0)


@pytest.mark.parametrize('file', CONFIGS, ids=named)
def test_config_builds_and_runs_one_step(file: Path) -> None:
    cfg = read(file)
    if 'TimmBackbone' in str(cfg.model):
        pytest.importorskip('timm', reason='needs timm: the extra openmmlab')
    one_step(narrowed(cfg.model), cfg.get('find_unused_parameters', False))


def one_step(model_cfg: Any, unused: bool = False) -> None:
    """One step of training; `unused` is for parameters that mmdet itself does not
    use."""
    # YOLOX's preprocessor asks the runner's.
    MessageHub.get_current_instance().update_info('iter', 0)
    student = plain(model_cfg)
    model = MODELS.build(copy.deepcopy(model_cfg)).train()
    tiny.fill_level_embeddings(model)
    if student.type == 'ImageClassifier':
        batch = tiny_images.batch(side=32)
    else:
        batch = tiny.batch(
            num_classes=box_head(student).num_classes,
            masks='mask_head' in (student.get('roi_head') or student)
            or 'loss_mask' in student.get('bbox_head', {}),
        )
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    if type_name(model_cfg.type) != 'Distiller':
        return
    optional = {name for name, t in model_cfg.terms.items() if 'only_with' in t}
    assert set(model_cfg.terms) - set(model.plan.terms) <= optional
    for term in model.plan.terms:
        parts = [value for key, value in log.items() if key.startswith(term)]
        assert parts and any(value > 0 for value in parts), f'{term} is silent'
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    # A head's scale of a level without positives has no gradient in mmdet.
    assert unused == any('.bbox_head' not in name for name in silent)


@pytest.mark.parametrize('file', ABLATION, ids=named)
def test_name_of_a_part_matches_its_contents(file: Path) -> None:
    """It is a count, a method, or the beginning of what a term or adapter is called."""
    model, word = read(file).model, file.stem.split('_')[0]
    if word in COUNTS:
        assert COUNTS[word] in (len(model.terms), len(model.teachers))
        return
    calls = [name.removeprefix('loss_') for name in model.terms]
    calls += model.get('adapters') or {}
    assert teaches_by(word, file) or any(name[:5] == word[:5] for name in calls)
    assert not model.get('branches')


# Classes of each data set of classifiers.
CLASSES = {
    'cifar10': 10,
    'cifar100': 100,
    'clothing': 10,
    'grocery': 81,
    'imagenet': 1000,
    'signs': 10,
}


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
        assert teaches_by(method.split('-')[0], file)
    else:
        assert models[0].startswith(called(plain(cfg.model)))
        kinds = {'RowModel': ('rows', 'mixed'), 'ImageClassifier': ('', 'aggregation')}
        kind = models[0].removeprefix(called(plain(cfg.model))).removeprefix('-')
        assert kind in kinds[cfg.model.type]
    dataset = cfg.train_dataloader.dataset
    classes = CLASSES[data]
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
    # mmdet has one class for cascades with and without masks.
    stem = file.stem.replace('cascade-mask-rcnn', 'cascade-rcnn')
    detector, method = stem.replace('-rcnn', 'rcnn').split('_')[:2]
    detector = detector.partition('-')[0]  # of its size, or with masks (-ins)
    if file in PAIRS:
        (teacher,), student = teacher_models(cfg), cfg.model.student
        assert backbones(file) == backbone(teacher) + backbone(student)
        other = [m[1] for m in map(BACKBONE.match, file.stem.split('_')) if m and m[1]]
        assert teacher.type.lower().startswith(other[0] if other else detector)
        assert student.type.lower() == detector
        assert teaches_by(method, file)
        assert box_head(teacher).num_classes == box_head(student).num_classes
        assert 'recipe' not in cfg, "take the recipe with _base_.pop('recipe')"
    else:
        assert backbones(file) == backbone(plain(cfg.model))
        assert plain(cfg.model).type.lower() == detector
        assert ('rows' in file.stem) == (cfg.model.type == 'RowModel')


@pytest.mark.parametrize('file', sorted(set(CONFIGS) - set(CLASSIFIERS)), ids=named)
def test_data_set_and_metrics_match_the_folder(file: Path) -> None:
    cfg = read(file)
    evaluators = cfg.val_evaluator
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    kinds = {METRICS.get(evaluator.type).__name__ for evaluator in evaluators}
    dataset = cfg.val_dataloader.dataset
    assert kinds == METRICS_OF[dataset.type]
    assert folder(file) in dataset.data_root.lower()
    student = plain(cfg.model)
    names = dataset.get('metainfo', DATASETS.get(dataset.type).METAINFO)['classes']
    assert box_head(student).num_classes == len(names)


@pytest.mark.parametrize('file', CONFIGS, ids=named)
def test_checkpoints_do_not_fill_the_disk(file: Path) -> None:
    assert 1 <= read(file).default_hooks.checkpoint.max_keep_ckpts <= 2


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
        elif f'mkd-det train {teacher.cfg}\n' in docstring:
            assert f'checkpoints/{weights.name}' in docstring
        elif 'converted' in docstring:
            assert re.search(r'https://github\.com/\S+/\S+', docstring)
            assert f'checkpoints/{weights.name}' in docstring
        else:
            assert re.search(rf'https://\S+/{re.escape(weights.name)}\s', docstring)


PURE_PYTHON = [file for file in CONFIGS if Config._is_lazy_import(str(file))]


def test_a_pure_python_config_is_an_example() -> None:
    """Its classes are what the names are, and it runs as it stands."""
    (file,) = PURE_PYTHON
    assert 'recipe' not in read_config(f'mkd_det::{file.parent.name}/{file.name}')
    cfg = load_config(str(file), {'model.teachers.t.checkpoint': None})
    assert 'mmdet.datasets.coco.CocoDataset' in str(cfg.train_dataloader.dataset.type)
    one_step(cfg.model)


@pytest.mark.parametrize('file', sorted({*DISTILL} - {*PURE_PYTHON}), ids=named)
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
    """What tells the members of a chain apart: depth, width or both."""
    backbone = plain(load_config(member.cfg, dict(member.options)).model).backbone
    if 'widen' in backbone:
        return f'{backbone.depth}-{backbone.widen}'
    if backbone.type == 'CifarVGG':
        return str(backbone.depth)
    return str(backbone.get('base_channels') or backbone.depth)


@pytest.mark.parametrize('file', DISTILL[::4], ids=named)
def test_dumped_config_reads_back_the_same(file: Path, tmp_path: Path) -> None:
    """mmengine dumps a config into the work dir; resuming starts from there."""
    cfg = parsed(file)
    cfg.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == cfg.to_dict()


def test_what_a_recipe_needs_is_no_part_of_a_training() -> None:
    """A config inherits it with the recipe; neither runner nor student sees it."""
    file = ROOT / 'configs/bccd/gfl_mkd_r18-w64_r18-w16_bccd.py'
    assert 'needs' in parsed(file)
    assert 'needs' not in load_config(str(file))
    assert 'needs' not in student_config(parsed(file))


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
