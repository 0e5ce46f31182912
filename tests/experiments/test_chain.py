"""Chain files: what they mean, what is refused, and a chain run through a kill."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import tiny_images
from mkd_det.experiments.chain.chain import for_guides, read_chain, stage_config
from mkd_det.errors import ConfigError
from mkd_det.losses import PairLoss

ROOT = Path(__file__).resolve().parents[2]
RECIPE = dict(
    taps=dict(logits='head'),
    terms=dict(
        loss_soft=dict(
            type='SoftOutputKD',
            student='logits',
            teacher='t.logits',
            tau=4.0,
            weight=2.0,
        )
    ),
    probe_size=16,
)


def member(name: str, **more: Any) -> dict[str, Any]:
    return dict(name=name, cfg=f'{name}.py', **more)


def chain(*names: str, **more: Any) -> dict[str, Any]:
    root, *stages = names
    cfg = dict(root=member(root), stages=[member(n) for n in stages], recipe=RECIPE)
    return {**cfg, **more}


def guides(cfg: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {m.name: m.guides for m in read_chain(cfg).members}


# -- who teaches whom -----------------------------------------------------------


def test_dense_guides_are_all_that_come_before() -> None:
    assert guides(chain('t', 'a', 'b', 's')) == {
        't': (),
        'a': ('t',),
        'b': ('t', 'a'),
        's': ('t', 'a', 'b'),
    }


def test_previous_is_the_one_before() -> None:
    found = guides(chain('t', 'a', 'b', 's', guides='previous'))
    assert found == {'t': (), 'a': ('t',), 'b': ('a',), 's': ('b',)}


def test_a_stage_may_name_its_guides() -> None:
    cfg = chain('t', 'a', 's')
    cfg['stages'][1]['guides'] = ['a']
    assert guides(cfg)['s'] == ('a',)


@pytest.mark.parametrize('kind', ['dense', 'previous'])
def test_parallel_assistants_do_not_teach_each_other(kind: str) -> None:
    cfg = chain('t', 'a', 'b', 's', guides=kind)
    for stage in cfg['stages'][:2]:
        stage['parallel'] = 'g'
    found = guides(cfg)
    assert found['a'] == found['b'] == ('t',)
    assert found['s'] == (('t', 'a', 'b') if kind == 'dense' else ('a', 'b'))
    groups = [[m.name for m in group] for group in read_chain(cfg).groups()]
    assert groups == [['t'], ['a', 'b'], ['s']]


def test_a_given_assistant_is_taken_as_trained_and_teaches() -> None:
    cfg = chain('t', 'a', 's')
    cfg['stages'][0]['checkpoint'] = 'a.pth'
    assert guides(cfg) == {'t': (), 'a': (), 's': ('t', 'a')}


def test_sampling_is_the_students_alone_unless_a_stage_has_its_own() -> None:
    cfg = chain('t', 'a', 'b', 's', sampling=dict(keep_prob=0.75, drop_teacher=False))
    made = {m.name: m.sampling for m in read_chain(cfg).members}
    assert made == {'t': {}, 'a': {}, 'b': {}, 's': dict(keep_prob=0.75, always=['t'])}
    cfg['stages'][1]['sampling'] = dict(drop_exact=1)
    assert read_chain(cfg)['b'].sampling == dict(drop_exact=1)


def test_options_of_the_chain_hold_for_all_and_a_stages_own_come_over_them() -> None:
    cfg = chain('t', 'a', 's', options={'lr': 1, 'epochs': 2})
    cfg['stages'][0]['options'] = {'lr': 3}
    made = {m.name: m.options for m in read_chain(cfg).members}
    assert made['a'] == {'lr': 3, 'epochs': 2}
    assert made['t'] == made['s'] == {'lr': 1, 'epochs': 2}


# -- what a stage's config says ---------------------------------------------------


def test_terms_are_one_for_each_guide_with_lam_times_the_weight() -> None:
    made = for_guides(RECIPE, ['t', 'a'], lam=0.25)
    assert set(made['terms']) == {'loss_soft_t', 'loss_soft_a'}
    for name, term in made['terms'].items():
        assert term['teacher'] == f'{name[-1]}.logits'
        assert term['weight'] == 0.5 and term['tau'] == 4.0
    assert made['taps'] == RECIPE['taps'] and made['probe_size'] == 16
    assert RECIPE['terms']['loss_soft']['weight'] == 2.0  # untouched


def test_a_loss_that_takes_no_weight_is_refused() -> None:
    class Constant(PairLoss):
        def __init__(self, tau: float = 1.0) -> None:
            super().__init__()

    term = {**RECIPE['terms']['loss_soft'], 'type': Constant}
    del term['weight']
    with pytest.raises(ConfigError, match='loss_own: Constant takes no weight'):
        for_guides({**RECIPE, 'terms': dict(loss_own=term)}, ['t', 'a'], lam=0.5)


def test_adapters_are_doubled_with_what_reads_them_and_the_students_own_stay() -> None:
    recipe = dict(
        taps=dict(f='neck'),
        adapters=dict(guide=dict(type='GuidanceLayer', student='f', teacher='t.f')),
        branches=dict(explore=dict(type='ExplorationBranch', on='neck.fpn_convs')),
        terms=dict(
            loss_relation=dict(
                type='RelationKD', student='guide.student', teacher='guide.teacher'
            ),
            loss_own=dict(type='AttentionKD', student='f', teacher='explore.inherit'),
        ),
    )
    made = for_guides(recipe, ['big', 'small'], lam=1.0)
    assert made['adapters']['guide_small']['teacher'] == 'small.f'
    relation = made['terms']['loss_relation_big']
    assert relation['student'] == 'guide_big.student'
    assert relation['teacher'] == 'guide_big.teacher'
    assert relation['weight'] == 1.0  # the loss's own default, times lam
    assert made['terms']['loss_own'] == recipe['terms']['loss_own']
    assert made['branches'] == recipe['branches']
    assert set(made['terms']) == {
        'loss_relation_big',
        'loss_relation_small',
        'loss_own',
    }


def test_pruned_copies_are_made_of_every_guide() -> None:
    recipe = dict(
        taps=dict(logits='head'),
        teachers=dict(pruned=dict(prune_of='t', prune=0.3)),
        terms=dict(
            loss_dlkd=dict(
                type='DLKD',
                student='logits',
                teacher='t.logits',
                pruned='pruned.logits',
            )
        ),
    )
    made = for_guides(recipe, ['t', 'a'], lam=0.5)
    assert made['teachers'] == dict(
        pruned_t=dict(prune_of='t', prune=0.3), pruned_a=dict(prune_of='a', prune=0.3)
    )
    term = made['terms']['loss_dlkd_a']
    assert (term['teacher'], term['pruned']) == ('a.logits', 'pruned_a.logits')


def test_what_an_adapter_says_of_a_guide_is_weighed_as_terms_are() -> None:
    align = dict(type='NonLinearAlign', student='f', teacher='t.f', weight=3.0)
    recipe = {**RECIPE, 'adapters': dict(align=align)}
    made = for_guides(recipe, ['t', 'a'], lam=0.5)
    assert made['adapters']['align_a'] == {**align, 'teacher': 'a.f', 'weight': 1.5}


@pytest.mark.parametrize(
    ('lam', 'scale', 'weight'), [(0.25, True, 2.25), (0.25, False, 0.75), (1, True, 0)]
)
def test_the_task_counts_once_for_each_guide(
    lam: float, scale: bool, weight: float, tmp_path: Path
) -> None:
    plain = dict(model=tiny_images.classifier(), default_scope='mmdet')
    Config(plain).dump(tmp_path / 's.py')
    own = dict(imports=['json'])
    cfg = chain('t', 'a', 'b', 's', lam=lam, ce_scale=scale, custom_imports=own)
    cfg['stages'][2]['cfg'] = str(tmp_path / 's.py')
    students = {name: (f'{name}.py', f'{name}.pth') for name in 'tab'}
    made = stage_config(read_chain(cfg)['s'], students, read_chain(cfg))
    assert made.model.task_weight == pytest.approx(weight)
    assert made.model.teachers.a == dict(cfg='a.py', checkpoint='a.pth')
    assert made.model.student == plain['model']
    assert made.custom_imports['imports'] == ['mkd_det', 'json']


# -- what is refused --------------------------------------------------------------


def weighed(weight: Any) -> dict[str, Any]:
    return {
        **RECIPE,
        'terms': dict(loss_soft=RECIPE['terms']['loss_soft'] | dict(weight=weight)),
    }


def balanced(shares: Any) -> dict[str, Any]:
    return {**RECIPE, 'balance': dict(type='GradientShare', shares=shares)}


def with_stage(**more: Any) -> dict[str, Any]:
    cfg = chain('t', 'a', 's')
    cfg['stages'][1].update(more)
    return cfg


@pytest.mark.parametrize(
    ('cfg', 'words'),
    [
        (chain('t'), 'must list'),
        (chain('t', 'a', 'a'), "are called 'a'"),
        (chain('t', 't'), "are called 't'"),
        (with_stage(guides=['nobody']), 'never trained'),
        (with_stage(guides=['s']), 'a cycle'),
        (with_stage(guides=[]), 'guides must be'),
        (with_stage(guides='all'), 'guides must be'),
        (with_stage(lam=0), 'lam'),
        (with_stage(lam=1.5), 'lam'),
        (with_stage(ce_scale=2), 'ce_scale'),
        (with_stage(name='two words'), 'no name'),
        (with_stage(cfg=None), 'needs `cfg`'),
        (with_stage(temperature=3), 'unknown key'),
        (with_stage(teacher=dict(speeed='fast')), 'unknown key'),
        (with_stage(sampling=dict(drop_exact=2)), 'at least one'),
        (with_stage(sampling=dict(keep_prob=0)), 'keep_prob'),
        (with_stage(sampling=dict(drop_exact=2, drop_teacher=False)), 'at least one'),
        (with_stage(sampling=[0.5]), 'must be a dict'),
        (chain('t', 's', options=['lr']), 'must be a dict'),
        (with_stage(recipe={}), 'no term that reads a teacher'),
        (with_stage(guides=['nobody'], checkpoint='a.pth'), 'never trained'),
        (with_stage(teacher=dict(prefix='net.')), 'none is given'),
        (with_stage(recipe={**RECIPE, 'terms': ['loss_soft']}), 'must be a dict'),
        (with_stage(recipe={**RECIPE, 'terms': dict(a=None)}), 'must be a dict'),
        (with_stage(recipe=weighed('2.0')), 'must be a number'),
        (with_stage(recipe=balanced(dict(loss_soft=0.5))), 'one share for all'),
        (with_stage(recipe={**RECIPE, 'sampling': {}}), 'unknown key'),
        (with_stage(recipe={**RECIPE, 'teachers': dict(u=dict(cfg='u.py'))}), 'pruned'),
        (
            dict(
                chain('t', 's'),
                stages=[
                    member('a', parallel='g'),
                    member('b'),
                    member('c', parallel='g'),
                    member('s'),
                ],
            ),
            'other stages stand between',
        ),
        (chain('t', 's', stage=[]), 'unknown key'),
    ],
)
def test_a_chain_that_cannot_be_trained(cfg: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_chain(cfg)


def test_the_order_of_guides_is_the_chains() -> None:
    cfg = chain('t', 'a', 's')
    cfg['stages'][1]['guides'] = ['a', 't']
    assert read_chain(cfg)['s'].guides == ('t', 'a')


def test_one_share_holds_for_the_terms_of_all_guides() -> None:
    balance = balanced(0.5)['balance']
    assert for_guides(balanced(0.5), ['t', 'a'], lam=0.5)['balance'] == balance


def test_a_term_of_the_students_own_is_not_written_over() -> None:
    own = dict(type='LossAggregation', student='logits', losses=dict(ce=1.0))
    terms = {'loss_soft_a': own, **RECIPE['terms']}
    with pytest.raises(ConfigError, match='loss_soft_a is what loss_soft is called'):
        for_guides({**RECIPE, 'terms': terms}, ['t', 'a'], lam=0.5)


def test_a_guide_that_comes_later_is_a_cycle_that_says_what_to_write() -> None:
    cfg = chain('t', 'a', 's')
    cfg['stages'][0]['guides'] = ['s']
    with pytest.raises(ConfigError, match='s before a') as caught:
        read_chain(cfg)
    assert caught.value.available == ('t',)


# -- a chain, run -------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A chain of three tiny classifiers."""
    data = tiny_images.write_folder(tmp_path / 'data', 8)
    for name, width in (('t', 8), ('a', 6), ('s', 4)):
        cfg = tiny_images.runner_cfg(
            tiny_images.classifier(base_channels=width), data, tmp_path / name, 2
        )
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        cfg.pop('work_dir')
        cfg.dump(tmp_path / f'{name}.py')
    write_chain(tmp_path)
    return tmp_path


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    return importlib.import_module('train_chain')


@pytest.fixture
def checks(tool: Any) -> Any:
    return importlib.import_module('chain_checks')


def write_chain(folder: Path, **more: Any) -> None:
    cfg = chain('t', 'a', 's', **more)
    for stage in [cfg['root'], *cfg['stages']]:
        stage['cfg'] = str(folder / stage['cfg'])
    for stage in cfg['stages']:
        # Chance, after two epochs: that is not what is tested here.
        stage['options'] = {'default_hooks.teacher_check': None}
    Config(cfg).dump(folder / 'chain.py')


def command(files: Path, *more: str) -> list[str]:
    tool = str(ROOT / 'tools' / 'train_chain.py')
    work = str(files / 'work')
    return [sys.executable, tool, str(files / 'chain.py'), '--work-dir', work, *more]


def run(files: Path, *more: str) -> str:
    done = subprocess.run(
        command(files, *more), capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_chain_from_nothing_to_its_figure_through_a_kill_and_a_change(
    files: Path,
) -> None:
    work = files / 'work'
    process = subprocess.Popen(
        command(files), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    )
    while not (work / 'a' / 'last_checkpoint').exists():
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    teacher = (work / 't' / 'epoch_2.pth').stat().st_mtime_ns
    begun = (work / 'a' / 'epoch_1.pth').stat().st_mtime_ns

    output = run(files)
    assert 't: done before' in output and 'a, taught by t: goes on after' in output
    assert (work / 'a' / 'epoch_1.pth').stat().st_mtime_ns == begun
    assert (work / 't' / 'epoch_2.pth').stat().st_mtime_ns == teacher
    rows = json.loads((work / 'chain.json').read_text())
    assert [row['name'] for row in rows] == ['t', 'a', 's']
    assert [row['guides'] for row in rows] == [[], ['t'], ['t', 'a']]
    assert rows[0]['params'] > rows[1]['params'] > rows[2]['params']
    assert all(0 <= row['top1'] <= 100 and row['seconds'] > 0 for row in rows)
    assert (work / 'chain.png').stat().st_size > 1000

    # What is shipped is plain, and the student's training is a config of its own.
    plain = tiny_images.build(tiny_images.classifier(base_channels=4), seed=3)
    weights = torch.load(work / 'students' / 's.pth', weights_only=True)
    plain.load_state_dict(weights['state_dict'], strict=True)
    cfg = Config.fromfile(work / 'configs' / 's.py')
    assert cfg.work_dir == str(work / 's') and set(cfg.model.teachers) == {'t', 'a'}

    # Another weight of the guides is the student's and the assistant's affair.
    before = {name: (work / name / 'epoch_2.pth').stat().st_mtime_ns for name in 'tas'}
    cfg = Config.fromfile(files / 'chain.py')
    cfg.stages[1]['lam'] = 0.75
    cfg.dump(files / 'chain.py')
    output = run(files)
    assert 'a, taught by t: done before' in output
    assert 's, taught by t, a is another than it was (' in output
    assert 'model.task_weight' in output
    # What was made of the other s is gone before the new one is there.
    assert f's: {work}/students/s.pth is damaged or not known to be' in output
    after = {name: (work / name / 'epoch_2.pth').stat().st_mtime_ns for name in 'tas'}
    assert [name for name in 'tas' if after[name] != before[name]] == ['s']
    assert (work / 's.old1' / 'epoch_2.pth').is_file()


def test_a_start_is_known_by_its_content(files: Path, tool: Any) -> None:
    start = files / 'start.pth'
    cfg = Config.fromfile(files / 'chain.py')
    cfg.stages[1]['options'] = {'load_from': str(start)}
    cfg.dump(files / 'chain.py')
    start.write_bytes(b'one')
    before = jobs_of(tool, files)
    start.write_bytes(b'two')
    after = jobs_of(tool, files)
    assert changed(before, after) == {
        't': set(),
        'a': set(),
        's': {'load_from'},
    }


def test_a_wrong_option_is_told_as_what_it_is(files: Path, tool: Any) -> None:
    cfg = Config.fromfile(files / 'chain.py')
    cfg.stages[1]['options'] = {'randomnes.seed': 1}
    with pytest.raises(ConfigError, match="chain: s: `options`: .* no 'randomnes'"):
        tool.make_configs(read_chain(cfg.to_dict()), files / 'work')


def jobs_of(tool: Any, files: Path, work: str = 'work') -> dict[str, Any]:
    chain = read_chain(Config.fromfile(files / 'chain.py').to_dict())
    configs = tool.make_configs(chain, files / work)
    sizes = dict.fromkeys(configs, 1)
    jobs = tool.make_jobs(chain, configs, sizes, files / work)
    return {job.member.name: job for job in jobs}


def changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, set[str]]:
    """Names of what makes each stage another than it was."""
    found = {}
    for name, job in old.items():
        if job.stage is not None:
            one, other = job.stage.made_from, new[name].stage.made_from
            found[name] = {k for k in {*one, *other} if one.get(k) != other.get(k)}
    return found


def test_an_assistant_that_is_another_changes_whom_it_teaches(
    tool: Any, files: Path
) -> None:
    before = jobs_of(tool, files)
    assert changed(before, jobs_of(tool, files)) == dict(t=set(), a=set(), s=set())
    cfg = Config.fromfile(files / 'chain.py')
    cfg.stages[0]['options']['randomness.seed'] = 5
    cfg.dump(files / 'chain.py')
    assert changed(before, jobs_of(tool, files)) == dict(
        t=set(), a={'randomness.seed'}, s={'guide a'}
    )


def test_a_given_teacher_that_is_read_otherwise_is_another(
    tool: Any, files: Path
) -> None:
    torch.save({}, files / 't.pth')
    root = member('t', checkpoint=str(files / 't.pth'))
    write_chain(files, root=root)
    before = jobs_of(tool, files)
    for more in (
        dict(options={'model.data_preprocessor.mean': [0, 0, 0]}),
        dict(teacher=dict(revise_keys=[('a', 'b')])),
    ):
        write_chain(files, root={**root, **more})
        found = changed(before, jobs_of(tool, files))
        assert 'guide t' in found['a'] and 'guide t' in found['s']


def test_what_cannot_change_the_weights_makes_nothing_another(
    tool: Any, files: Path
) -> None:
    torch.save({}, files / 't.pth')
    root = member('t', checkpoint=str(files / 't.pth'))
    write_chain(files, root=root)
    before = jobs_of(tool, files)
    logger = {
        'log_level': 'ERROR',
        'default_hooks.logger.interval': 7,
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'val_dataloader.num_workers': 1,
        'test_dataloader.batch_size': 5,
        'visualizer': dict(
            type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name='other'
        ),
    }
    write_chain(
        files,
        root={
            **root,
            'options': {
                'train_dataloader.batch_size': 3,
                'val_dataloader.batch_size': 3,
            },
        },
        options=logger,
    )
    assert not any(changed(before, jobs_of(tool, files)).values())


def test_where_the_files_lie_does_not_matter(tool: Any, files: Path) -> None:
    here, there = (jobs_of(tool, files, work) for work in ('work', 'elsewhere'))
    assert here['s'].cfg.model.teachers != there['s'].cfg.model.teachers
    assert here['s'].fingerprint == there['s'].fingerprint


def test_the_error_of_a_stage_is_told_and_not_that_others_were_stopped(
    tool: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stages in (
        [member('a', parallel='g'), member('s', parallel='g')],
        [member('s', parallel='g'), member('a', parallel='g')],
    ):
        write_chain(files, stages=stages)
        jobs = jobs_of(tool, files)

        def run_job(job: Any, _: Any, show: Any, stop: Any) -> Any:
            if job.member.name == 's':
                raise ValueError('s has failed')
            if job.member.name == 'a':
                stop.wait(20)
                raise KeyboardInterrupt

        monkeypatch.setattr(tool, 'run_job', run_job)
        chain = read_chain(Config.fromfile(files / 'chain.py').to_dict())
        with pytest.raises(ValueError, match='s has failed'):
            tool.run_jobs(list(jobs.values()), chain, ['', ''], None)


def test_a_given_teacher_is_tested_and_teaches_side_by_side(
    tool: Any, files: Path, capsys: pytest.CaptureFixture
) -> None:
    model = tiny_images.build(tiny_images.classifier(base_channels=8))
    state = {f'net.{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), files / 't.pth')
    root = member('t', checkpoint=str(files / 't.pth'), teacher=dict(prefix='net.'))
    stages = [member('a', parallel='g'), member('s', parallel='g')]
    write_chain(files, root=root, stages=stages)
    in_iterations(files / 's.py')
    output = run(files, '--devices', 'cpu', 'cpu')
    assert 's, taught by t: 6 iterations' in output
    rows = json.loads((files / 'work' / 'chain.json').read_text())
    assert [row['guides'] for row in rows] == [[], ['t'], ['t']]
    assert rows[0]['command'] == 'given' and 't, given: top1' in output
    assert not tool.main([*command(files)[2:], '--beside', str(files / 'work')])
    assert capsys.readouterr().out.count('done before') == 2


def in_iterations(path: Path) -> None:
    """Have a config count iterations instead of epochs."""
    cfg = Config.fromfile(path)
    cfg.train_cfg = dict(by_epoch=False, max_iters=6, val_interval=3)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=3)
    cfg.log_processor = dict(by_epoch=False)
    cfg.dump(path)


def fails(tool: Any, files: Path, capsys: pytest.CaptureFixture) -> str:
    code = tool.main([str(files / 'chain.py'), '--work-dir', str(files / 'work')])
    assert code == 2
    assert not (files / 'work' / 't').exists()  # before the first stage
    return capsys.readouterr().err


def test_a_checkpoint_that_does_not_fit_its_stage(
    tool: Any, files: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tiny_images.build(tiny_images.classifier(base_channels=4))
    torch.save(dict(state_dict=other.state_dict()), files / 'a.pth')
    stages = [member('a', checkpoint=str(files / 'a.pth')), member('s')]
    write_chain(files, stages=stages)
    assert 'teachers.a: checkpoint' in fails(tool, files, capsys)


def test_a_term_that_does_not_fit_a_later_stage(
    tool: Any, files: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = {**RECIPE, 'taps': dict(logits='haed')}
    stages = [member('a'), member('s', recipe=recipe)]
    write_chain(files, stages=stages)
    assert 'haed' in fails(tool, files, capsys)


@pytest.mark.parametrize(
    ('more', 'words'),
    [
        (dict(metric='accuracy/top9'), 'not measured by its evaluator'),
        pytest.param(
            dict(options={'optim_wrapper.type': 'AmpOptimWrapper'}),
            'needs a GPU',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is one'),
        ),
        (dict(options={'default_hooks.checkpoint': None}), 'checkpoint hook'),
        (dict(options={'default_hooks.logger': None}), 'logger hook'),
        (dict(options={'val_evaluator.topk': (2,)}), 'different metrics'),
        (dict(options={'train_cfg.max_epochs': None}), 'how long it is trained'),
    ],
)
def test_what_would_stop_a_later_stage(
    more: dict, words: str, tool: Any, files: Path, capsys: pytest.CaptureFixture
) -> None:
    stages = [
        member('a'),
        member('s', **{k: v for k, v in more.items() if k != 'metric'}),
    ]
    cfg = chain('t', **{k: v for k, v in more.items() if k == 'metric'})
    cfg['stages'] = stages
    for stage in [cfg['root'], *stages]:
        stage['cfg'] = str(files / stage['cfg'])
    Config(cfg).dump(files / 'chain.py')
    assert words in fails(tool, files, capsys)


def test_members_of_other_classes(checks: Any) -> None:
    checks.check_classes_agree(dict(t=('a', 'b'), u=None, s=('a', 'b')))
    with pytest.raises(ConfigError, match='s is trained on other classes than t'):
        checks.check_classes_agree(dict(t=('a', 'b'), u=None, s=('b', 'a')))


def test_a_checkpoint_that_the_chain_would_write_over(
    tool: Any, files: Path, capsys: pytest.CaptureFixture
) -> None:
    (files / 'work').mkdir()
    (files / 'also').symlink_to(files / 'work')
    for folder in ('work', 'also'):
        root = member('t', checkpoint=str(files / folder / 'students' / 't.pth'))
        write_chain(files, root=root)
        assert 'where this chain writes' in fails(tool, files, capsys)


def test_a_root_has_no_hooks_of_a_distillation(files: Path, tool: Any) -> None:
    options = {'default_hooks.teacher_check': None, 'default_hooks.sampler_seed': None}
    write_chain(files, options=options)
    chain = read_chain(Config.fromfile(files / 'chain.py').to_dict())
    hooks = tool.make_configs(chain, files / 'work')['t'].default_hooks
    assert 'teacher_check' not in hooks  # mmengine does not know it
    assert hooks['sampler_seed'] is None  # but this one


def test_a_plain_model_that_is_damaged_is_written_again(tool: Any, files: Path) -> None:
    job = jobs_of(tool, files)['a']
    weights = job.student[1]
    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': {'a': torch.zeros(999)}}, weights)
    tool.note_written(job)
    assert tool.is_written(job)
    weights.write_bytes(weights.read_bytes()[:3000])
    assert not tool.is_written(job)


def test_chains_of_one_name_have_lines_of_their_own(tool: Any, tmp_path: Path) -> None:
    labels = importlib.import_module('chain_report').labels
    found = labels([tmp_path / 'x' / 'chain', tmp_path / 'y' / 'chain', tmp_path / 'b'])
    assert len(set(found)) == 3 and found[2] == 'b'


def test_stages_out_of_order_of_size_are_named(
    checks: Any, capsys: pytest.CaptureFixture
) -> None:
    cfg = read_chain(chain('t', 'a', 's'))
    checks.warn_of_order(cfg, dict(t=30, a=10, s=20))
    said = capsys.readouterr().out
    assert 's (0.00 M parameters) is larger than a' in said
    checks.warn_of_order(cfg, dict(t=30, a=20, s=10))
    assert capsys.readouterr().out == ''
