"""The distill config is parsed once, into typed dataclasses, or refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mkd_det import config as config_module
from mkd_det.config import (
    DistillConfig,
    SamplingConfig,
    TeacherConfig,
    TermConfig,
)
from mkd_det.errors import ConfigError, as_config_error, fix_of_argument
from mkd_det.parsing import documented, key, parse, words_of

TEACHER = dict(cfg='teacher.py', checkpoint='teacher.pth')
TERM = dict(type='SoftOutputKD', student='head', teacher='t.head')
CLASSES = [
    cls
    for cls in vars(config_module).values()
    if dataclasses.is_dataclass(cls) and cls.__module__.startswith('mkd_det.config.')
]


def whole(**changes: Any) -> dict[str, Any]:
    """A config that uses every key."""
    return dict(
        teachers=dict(
            t={**TEACHER, 'speed': 'exact', 'taps': dict(fpn='neck')},
            pruned=dict(prune_of='t'),
        ),
        taps=dict(head='bbox_head', stages=['backbone.layer2', 'backbone.layer3']),
        adapters=dict(guide=dict(type='GuidanceLayer', student='fpn', teacher='t.fpn')),
        branches=dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs')),
        terms=dict(loss_soft=dict(TERM, weight=2, tau=3.0)),
        sampling=dict(drop_exact=1, always='t'),
        task_weight=2,
        teacher_weights=dict(tap='head'),
        inherit=dict(teacher='t', modules=['neck']),
        balance=dict(type='GradientShare', shares=0.5),
        probe_size=[64, 96],
    ) | dict(changes)


def error_of(given: dict[str, Any]) -> ConfigError:
    """The error that `given` is refused with."""
    with pytest.raises(ConfigError) as caught:
        DistillConfig.parse(given)
    return caught.value


def test_every_key_has_its_place() -> None:
    config = DistillConfig.parse(whole())
    assert config.teachers['t'].speed == 'exact'
    assert config.taps['stages'] == ('backbone.layer2', 'backbone.layer3')
    assert config.adapters['guide'].to_build() == dict(type='GuidanceLayer')
    assert config.branches['explore'].arguments == dict(on='neck.fpn_convs')
    term = config.terms['loss_soft']
    assert (term.student, term.teacher, term.weight) == ('head', 't.head', 2)
    assert term.to_build() == dict(type='SoftOutputKD', weight=2, tau=3.0)
    assert config.sampling == SamplingConfig(drop_exact=1, always=('t',))
    assert config.inherit is not None and config.inherit.modules == ('neck',)
    assert config.balance is not None and config.balance.arguments == {'shares': 0.5}
    assert config.probe_shape == (64, 96)
    assert config.weighed_taps == {'t': 'head'}


def test_everything_has_a_default() -> None:
    config = DistillConfig.parse({})
    assert config == DistillConfig()
    assert (config.teachers, config.balance, config.probe_shape) == (
        {},
        None,
        (256,) * 2,
    )
    assert TermConfig('SoftOutputKD').to_build() == dict(type='SoftOutputKD')


def test_none_is_the_default_of_a_dict() -> None:
    names = ('teachers', 'taps', 'adapters', 'branches', 'terms', 'sampling')
    names += ('teacher_weights', 'inherit', 'balance')
    assert DistillConfig.parse(dict.fromkeys(names)) == DistillConfig()


def test_configs_of_mmengine_are_read() -> None:
    """Lists for tuples, its own dicts, and the scope it adds to packaged bases."""
    given = Config(whole(terms=dict(loss_soft=dict(TERM, _scope_='mkd_det'))))
    given._cfg_dict['_scope_'] = 'mkd_det'
    config = DistillConfig.parse(given._cfg_dict)
    assert config.terms['loss_soft'].arguments == {}
    assert config.taps['stages'] == ('backbone.layer2', 'backbone.layer3')


def test_a_type_may_be_a_class() -> None:
    """As mmengine's pure Python configs give it."""
    config = DistillConfig.parse(dict(terms=dict(loss_own=dict(type=TermConfig))))
    assert config.terms['loss_own'].type is TermConfig
    assert error_of(dict(terms=dict(loss_own=dict(type=3)))).actual == '3'


def test_a_config_cannot_be_changed_and_is_copied_whole() -> None:
    config = DistillConfig.parse(whole())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.task_weight = 3.0  # type: ignore[misc]
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_what_is_given_is_not_changed() -> None:
    given = whole()
    DistillConfig.parse(given)
    assert given == whole()


@pytest.mark.parametrize(
    ('given', 'nearest'),
    [
        (dict(temrs={}), 'terms'),
        (dict(data_preprocesor={}), 'data_preprocessor'),
        (dict(teachers=dict(t=dict(TEACHER, chekpoint='t.pth'))), 'checkpoint'),
        (dict(teachers=dict(t=dict(TEACHER, trust_check=True))), 'trust_checkpoint'),
        (dict(sampling=dict(keep_probability=0.5)), 'keep_prob'),
        (dict(teacher_weights=dict(tap='head', teacher='t')), 'teachers'),
        (dict(inherit=dict(teacher='t', module=['neck'])), 'modules'),
        (dict(teachers=dict(t=dict(TEACHER, speed='faster'))), 'fast'),
    ],
)
def test_a_misspelt_key_names_the_nearest(given: dict, nearest: str) -> None:
    assert error_of(given).available[0] == nearest


def test_a_misspelt_key_says_where_it_stands() -> None:
    where = dict(teachers=dict(t=dict(TEACHER, chekpoint='t.pth')))
    assert error_of(where).message == "teachers.t: unknown key 'chekpoint'"
    assert error_of(dict(temrs={})).message == "Distiller: unknown key 'temrs'"


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (dict(taps=['neck']), 'taps must be a dict'),
        (dict(taps={1: 'neck'}), 'taps: keys must be strings'),
        (dict(taps=dict(fpn=3)), 'taps: fpn must be a string or a list of strings'),
        (dict(teachers='t.py'), 'teachers must be a dict'),
        (dict(teachers=dict(t='t.py')), 'teachers.t must be a dict'),
        (dict(terms=dict(loss_a='KD')), 'terms.loss_a must be a dict'),
        (dict(terms=dict(loss_a={})), 'terms.loss_a: `type` is missing'),
        (dict(terms=dict(loss_a=dict(TERM, weight='1'))), 'terms.loss_a: weight must'),
        (dict(sampling=3), 'sampling must be a dict'),
        (dict(sampling=dict(keep_prob='0.5')), 'sampling: keep_prob must be a finite'),
        (dict(sampling=dict(keep_prob=0)), 'sampling: keep_prob must be above 0'),
        (dict(sampling=dict(seed=True)), 'sampling: seed must be a whole number'),
        (dict(sampling=dict(drop_exact=1, keep_prob=0.5)), 'sampling: give keep_prob'),
        (dict(task_weight=-1), 'task_weight must be 0 or more'),
        (dict(task_weight=float('nan')), 'task_weight must be a finite number'),
        (dict(task_weight=None), 'task_weight must be a finite number'),
        (dict(probe_size=0.5), 'probe_size must be a side'),
        (dict(probe_size=[64]), 'probe_size must be a side'),
        (dict(probe_size=4), 'probe_size must be a side'),
        (dict(balance=dict(shares=0.5)), 'balance: `type` is missing'),
        (dict(teacher_weights={}), 'teacher_weights: `tap` is missing'),
        (dict(inherit=dict(teacher='t', modules='neck')), 'inherit: modules must be'),
        (dict(inherit=dict(teacher='t', modules=[])), 'inherit: there is nothing'),
    ],
)
def test_a_wrong_value_is_refused(given: dict, words: str) -> None:
    assert error_of(given).message.startswith(words)


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(cfg='t.py'), '`checkpoint` is missing'),
        (dict(checkpoint='t.pth'), '`cfg` is missing'),
        (dict(TEACHER, cfg=3), 'cfg must be a config file or a model config'),
        (dict(TEACHER, cfg={}), 'cfg must be a config file or a model config'),
        (dict(TEACHER, checkpoint=3), 'checkpoint must be a path, an address or None'),
        (dict(TEACHER, prefix=1), 'prefix must be a string'),
        (dict(TEACHER, trust_checkpoint=1), 'trust_checkpoint must be True or False'),
        (dict(TEACHER, cache=1), 'cache must be a folder or None'),
        (dict(TEACHER, speed=1), "speed must be 'auto' or 'fast'"),
        (dict(TEACHER, prune=1.0), 'prune must be a share from 0 to below 1'),
        (dict(TEACHER, prune='half'), 'prune must be a share from 0 to below 1'),
        (dict(TEACHER, revise_keys='a'), 'revise_keys must be pairs'),
        (dict(TEACHER, revise_keys=[('a',)]), 'revise_keys must be pairs'),
        (dict(TEACHER, revise_keys=[('(', '')]), 'revise_keys must be pairs'),
        (dict(TEACHER, taps={'a.b': 'neck'}), "tap 'a.b' cannot be a name"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused(settings: dict, words: str) -> None:
    error = error_of(dict(teachers=dict(t=settings)))
    assert error.message.startswith(f'teachers.t: {words}')


@pytest.mark.parametrize(
    'given',
    [
        dict(teachers={'a-b': TEACHER}),
        dict(teachers=dict(student=TEACHER)),
        dict(taps={'a.b': 'neck'}),
        dict(adapters=dict(student=dict(type='A'))),
        dict(adapters=dict(keys=dict(type='A'))),
        dict(adapters=dict(training=dict(type='A'))),
        dict(adapters=dict(t=dict(type='A')), teachers=dict(t=TEACHER)),
        dict(adapters=dict(a=dict(type='A')), branches=dict(a=dict(type='B'))),
        dict(terms=dict(soft=TERM)),
        dict(terms={'loss_a-b': TERM}),
    ],
)
def test_a_name_that_cannot_be_is_refused(given: dict) -> None:
    error_of(given)


@pytest.mark.parametrize(
    ('given', 'available'),
    [
        (dict(sampling=dict(always=['u'])), ('t',)),
        (dict(teacher_weights=dict(tap='head', teachers=['u'])), ('t',)),
        (dict(inherit=dict(teacher='u', modules=['neck'])), ('t',)),
    ],
)
def test_a_teacher_that_is_not_there_is_named(given: dict, available: tuple) -> None:
    assert error_of({'teachers': dict(t=TEACHER), **given}).available == available


def test_nothing_is_inherited_from_random_weights() -> None:
    teachers = dict(t=dict(cfg='t.py', checkpoint=None))
    error = error_of(dict(teachers=teachers, inherit=dict(teacher='t', modules=['a'])))
    assert 'checkpoint' in str(error.expected)


# -- pruned copies ---------------------------------------------------------------


def test_a_pruned_copy_has_the_settings_of_its_teacher() -> None:
    given = dict(t=dict(TEACHER, speed='off', cache='here'), p=dict(prune_of='t'))
    config = DistillConfig.parse(dict(teachers=given))
    copied = config.teachers['p']
    assert config.pruned_copies == {'p': 't'}
    assert (copied.cfg, copied.speed, copied.prune) == ('teacher.py', 'off', 0.5)
    assert copied.cache is None  # a cache belongs to one teacher


def test_a_pruned_copy_may_have_settings_of_its_own() -> None:
    given = dict(t=TEACHER, p=dict(prune_of='t', prune=0.9, speed='off'))
    copied = DistillConfig.parse(dict(teachers=given)).teachers['p']
    assert (copied.prune, copied.speed) == (0.9, 'off')


@pytest.mark.parametrize('source', ['u', 'q', 'p', 3, ['t']])
def test_a_copy_of_nothing_is_refused(source: Any) -> None:
    given = dict(t=TEACHER, q=dict(prune_of='t'), p=dict(prune_of=source))
    error = error_of(dict(teachers=given))
    assert error.available == ('t',)


# -- the parser -----------------------------------------------------------------


@pytest.mark.parametrize('cls', CLASSES, ids=lambda cls: cls.__name__)
def test_every_key_is_documented(cls: type) -> None:
    names = [field.name for field in dataclasses.fields(cls)]
    assert list(documented(cls)) == names
    assert all(documented(cls).values())


def test_words_of_annotations() -> None:
    assert words_of(str | None) == 'a string or None'
    assert words_of(tuple[str, ...]) == 'a list of strings'
    assert words_of(tuple[int, int]) == '(a whole number, a whole number)'
    assert words_of(TeacherConfig) == 'a dict'


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage.

    Args:
        name: Its name.
        count: How often, over
            two lines.
    """

    name: str = key(example="name='a'")
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Stages:
    """Stages.

    Args:
        stages: A list of dicts.
        by_name: A dict of dicts.
    """

    stages: tuple[Stage, ...]
    by_name: dict[str, Stage] = key(factory=dict)


def test_lists_of_dicts_are_parsed() -> None:
    made = parse(Stages, dict(stages=[dict(name='a'), Stage('b')]), 'chain')
    assert made.stages == (Stage('a'), Stage('b'))
    assert documented(Stage)['count'] == 'How often, over two lines.'


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (dict(stages=[{}]), 'chain.stages[0]: `name` is missing'),
        (dict(stages=[dict(nam='a')]), "chain.stages[0]: unknown key 'nam'"),
        (dict(stages=['a']), 'chain.stages[0] must be a dict'),
        (dict(stages={}), 'chain: stages must be a list of dicts'),
        (dict(), 'chain: `stages` is missing'),
        (None, 'chain: `stages` is missing'),
        (dict(stages=[], by_name=dict(a=dict(count=2.0))), 'chain.by_name.a: `name`'),
    ],
)
def test_errors_in_nested_dicts_say_where(given: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Stages, given, 'chain')
    assert caught.value.message.startswith(words)


def test_a_misspelt_part_names_the_part_that_was_meant() -> None:
    error = error_of(whole(terms=dict(loss_soft=TERM, loss_sof=dict(weight=0))))
    assert error.message.startswith("terms: there is no 'loss_sof'")
    assert (error.available, error.fix) == (('loss_soft',), 'loss_soft=dict(weight=0)')


def test_keys_of_a_bases_model_ask_for_delete() -> None:
    student = dict(type='GFL', backbone={}, data_preprocessor={})
    with pytest.raises(ConfigError) as caught:
        DistillConfig.parse(whole(backbone={}), student)
    assert caught.value.actual == 'backbone'
    assert caught.value.fix.startswith('model = dict(_delete_=True,')


def test_arguments_that_a_base_left_behind_ask_for_delete() -> None:
    for name, fix in (('taus', 'tau=...'), ('momentum', "without 'momentum'; ")):
        assert fix_of_argument(name, ['tau', 'weight']).startswith(fix)
    with pytest.raises(ConfigError) as caught, as_config_error('optim_wrapper'):
        torch.optim.AdamW([torch.zeros(1)], momentum=0.9)
    assert '_delete_=True' in caught.value.fix
