"""Promise 10: a new loss, adapter, probe, branch, head reader or hook is one file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mmengine.registry import HOOKS

import mkd_det
from mkd_det.registry import (
    ADAPTERS,
    BRANCHES,
    HEADS,
    LOSSES,
    argument_names,
    arguments_with_defaults,
    build_component,
    find_class,
    import_files,
)

ROOT = Path(mkd_det.__file__).parent
# What a file of each room registers, and where.
ROOMS = {
    'losses': (LOSSES, mkd_det.PairLoss),
    'adapters': (ADAPTERS, mkd_det.Adapter),
    'probes': (ADAPTERS, mkd_det.Probe),
    'branches': (BRANCHES, mkd_det.Branch),
    'heads': (HEADS, mkd_det.HeadReader),
}


@pytest.mark.parametrize('room', ROOMS)
def test_every_class_of_a_room_is_registered_by_its_file(room: str) -> None:
    registry, base = ROOMS[room]
    classes = [
        cls
        for cls in registry.module_dict.values()
        if cls.__module__.startswith(f'mkd_det.{room}.')
    ]
    assert classes and all(issubclass(cls, base) for cls in classes)
    text = (ROOT / room / '__init__.py').read_text()
    assert not [cls.__name__ for cls in classes if cls.__name__ in text]
    files = {cls.__module__.rpartition('.')[2] for cls in classes}
    assert not [name for name in files - {'base'} if name in text]


def test_hooks_are_found_by_their_files() -> None:
    files = {file.stem for file in (ROOT / 'hooks').rglob('*_hook.py')}
    ours = {
        cls.__module__.rpartition('.')[2]
        for cls in HOOKS.module_dict.values()
        if cls.__module__.startswith('mkd_det.hooks.')
    }
    assert files == ours


def test_a_new_file_of_a_room_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / 'own_room'
    room.mkdir()
    (room / '__init__.py').write_text('')
    (room / 'new.py').write_text(
        'from mkd_det import LOSSES, PairLoss\n\n\n'
        '@LOSSES.register_module()\nclass OwnRoomKD(PairLoss):\n    pass\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        import_files('own_room', [str(room)])
        assert find_class(LOSSES, dict(type='OwnRoomKD'), 'here').__name__
    finally:
        LOSSES.module_dict.pop('OwnRoomKD', None)
        sys.modules.pop('own_room.new', None)
        sys.modules.pop('own_room', None)


def test_the_package_is_typed_and_exports_what_users_build_on() -> None:
    assert (ROOT / 'py.typed').is_file()
    assert set(mkd_det.__all__) <= set(vars(mkd_det))
    assert {
        'ADAPTERS',
        'BRANCHES',
        'HEADS',
        'LOSSES',
        'Adapter',
        'Branch',
        'DistillHook',
        'HeadReader',
        'PairLoss',
        'Probe',
    } <= set(mkd_det.__all__)


class Base:
    def __init__(self, weight: float = 1.0, mode: str | None = None) -> None:
        self.weight, self.mode = weight, mode


class Passing(Base):
    def __init__(self, tau: float, **base: object) -> None:
        super().__init__(**base)  # type: ignore[arg-type]
        self.tau = tau


def test_arguments_are_those_of_all_constructors_that_pass_them_on() -> None:
    assert argument_names(Passing) == ['tau', 'weight', 'mode']
    assert argument_names(Base) == ['weight', 'mode']
    told = arguments_with_defaults(Passing, dict(tau=2.0, weight=3.0))
    assert told == dict(tau=2.0, weight=3.0, mode=None)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(),
        dict(tau='2'),
        dict(tau=float('nan')),
        dict(tau=True),
        dict(tau=1.0, mode=3),
        dict(tau=1.0, wieght=1),
    ],
    ids=str,
)
def test_wrong_arguments_are_told(arguments: dict) -> None:
    with pytest.raises(mkd_det.errors.ConfigError) as caught:
        build_component(LOSSES, dict(type=Passing, **arguments), 'here')
    assert caught.value.message.startswith('here')


def test_arguments_that_fit_are_taken() -> None:
    built = build_component(LOSSES, dict(type=Passing, mode=None), 'here', tau=1)
    assert (built.tau, built.weight, built.mode) == (1, 1.0, None)
