"""What makes the training of a member another one, and what does not."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config

from chains import member, member_runs, write_chain
from mkd_det.experiments.chain.member_runs import MemberRun

Runs = dict[str, MemberRun]


def changed(old: Runs, new: Runs) -> dict[str, set[str]]:
    """Names of what differs between trainings, by member."""
    found = {}
    for name, run in old.items():
        training, other = run.training, new[name].training
        if training is not None and other is not None:
            one, two = training.made_from, other.made_from
            found[name] = {k for k in {*one, *two} if one.get(k) != two.get(k)}
    return found


def edit(files: Path, stage: int, **options: object) -> None:
    """Add options to a stage of the chain file; '__' stands for '.'."""
    cfg = Config.fromfile(files / 'chain.py')
    for key, value in options.items():
        cfg.stages[stage]['options'][key.replace('__', '.')] = value
    cfg.dump(files / 'chain.py')


def test_initial_weights_are_known_by_their_content(files: Path) -> None:
    start = files / 'start.pth'
    edit(files, 1, load_from=str(start))
    start.write_bytes(b'one')
    before = member_runs(files)
    start.write_bytes(b'two')
    assert changed(before, member_runs(files)) == dict(
        t=set(), a=set(), s={'load_from'}
    )


def test_another_assistant_changes_the_members_that_it_guides(files: Path) -> None:
    before = member_runs(files)
    assert changed(before, member_runs(files)) == dict(t=set(), a=set(), s=set())
    edit(files, 0, randomness__seed=5)
    assert changed(before, member_runs(files)) == dict(
        t=set(), a={'randomness.seed'}, s={'guide a'}
    )


def test_a_given_teacher_that_is_read_differently_is_another(files: Path) -> None:
    torch.save({}, files / 't.pth')
    root = member('t', checkpoint=str(files / 't.pth'))
    write_chain(files, root=root)
    before = member_runs(files)
    for more in (
        dict(options={'model.data_preprocessor.mean': [0, 0, 0]}),
        dict(teacher=dict(revise_keys=[('a', 'b')])),
    ):
        write_chain(files, root={**root, **more})
        found = changed(before, member_runs(files))
        assert 'guide t' in found['a'] and 'guide t' in found['s']


def test_settings_without_effect_change_nothing(files: Path) -> None:
    torch.save({}, files / 't.pth')
    root = member('t', checkpoint=str(files / 't.pth'))
    write_chain(files, root=root)
    before = member_runs(files)
    visualizer = dict(
        type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name='other'
    )
    of_all = {
        'log_level': 'ERROR',
        'default_hooks.logger.interval': 7,
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'val_dataloader.num_workers': 1,
        'test_dataloader.batch_size': 5,
        'visualizer': visualizer,
    }
    of_given = {'train_dataloader.batch_size': 3, 'val_dataloader.batch_size': 3}
    write_chain(files, root={**root, 'options': of_given}, options=of_all)
    assert not any(changed(before, member_runs(files)).values())


def test_the_place_of_the_folder_does_not_matter(files: Path) -> None:
    here, there = (member_runs(files, work) for work in ('work', 'elsewhere'))
    assert here['s'].cfg.model.teachers != there['s'].cfg.model.teachers
    assert here['s'].fingerprint == there['s'].fingerprint


def test_a_damaged_or_outdated_plain_model_is_not_there(files: Path) -> None:
    run = member_runs(files)['a']
    weights = run.student[1]
    assert not run.has_student()
    torch.save({'state_dict': {'a': torch.zeros(999)}}, weights)
    run.write_note()
    assert run.has_student()
    edit(files, 0, randomness__seed=5)
    assert not member_runs(files)['a'].has_student()
    weights.write_bytes(weights.read_bytes()[:3000])
    assert not run.has_student()
