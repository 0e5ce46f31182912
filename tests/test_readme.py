"""What the README shows is true: its examples run, its commands, paths, options,
errors and hooks exist."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import HOOKS, MODELS

import hook_runs
import mkd_det.hooks
import tiny
from mkd_det import errors
from mkd_det.cli import common as cli
from mkd_det.training import runtime
from mkd_det.weighting import schedules
from mkd_det.teachers import bank as teachers
from mkd_det.experiments.chain.chain import read_chain
from mkd_det.distiller.model import Distiller
from mkd_det.registry import LOSSES
from mkd_det.weighting.schedules import Progress

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]

# <!-- runnable: KIND FILE --> stands above a block that is meant to run.
_MARKED = re.compile(r'<!-- runnable: (\w+) (\S+) -->\n```python\n(.*?)```', re.DOTALL)
EXAMPLES = {name: (kind, text) for kind, name, text in _MARKED.findall(README)}
CONFIGS = [name for name, (kind, _) in EXAMPLES.items() if kind == 'config']
COMMANDS = [
    line
    for block in re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all examples as files, on Python's path. What they register
    is gone afterwards."""
    folder = tmp_path_factory.mktemp('readme')
    for name, (_, text) in EXAMPLES.items():
        (folder / name).write_text(text)
    before = [(registry, dict(registry._module_dict)) for registry in (LOSSES, HOOKS)]
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for registry, known in before:
        registry._module_dict.clear()
        registry._module_dict.update(known)
    for name in EXAMPLES:
        sys.modules.pop(Path(name).stem, None)


def with_tiny_models(cfg: Config) -> dict[str, Any]:
    """The example's model, with the smallest detectors in it and no files."""
    model = cfg.model
    model.student = tiny.gfl(base_channels=8, neck=16)
    for width, teacher in enumerate(model.teachers.values(), start=3):
        teacher.cfg = tiny.gfl(base_channels=4 * width, neck=8 * width)
        teacher.checkpoint = None
    model.probe_size = 64
    return model


def test_there_are_examples() -> None:
    kinds = [kind for kind, _ in EXAMPLES.values()]
    assert kinds.count('config') >= 4 and kinds.count('module') == 2
    assert len(EXAMPLES) == README.count('<!-- runnable')


@pytest.mark.parametrize('name', CONFIGS)
def test_config_builds_and_takes_a_step(written: Path, name: str) -> None:
    cfg = Config.fromfile(written / name)
    for teacher in cfg.model.teachers.values():
        assert get_config(teacher.cfg).model.type == 'GFL'
    terms = {n for n, c in cfg.model.terms.items() if c.get('weight', 1.0) != 0}
    model: Any = MODELS.build(with_tiny_models(cfg)).train()
    assert set(model.plan.terms) == terms

    data = model.data_preprocessor(tiny.batch(), training=True)
    total, log = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    picked = model.sampler.pick(0)
    for term, link in model.plan.terms.items():
        assert link.module.weight_at(Progress()) > 0
        if model.plan.teachers_of(link) <= picked:
            assert any(v > 0 for k, v in log.items() if k.startswith(term)), term


def test_example_of_a_chain_is_one(written: Path) -> None:
    chain = read_chain(Config.fromfile(written / 'my_chain.py').to_dict())
    assert {m.name: m.guides for m in chain.members} == {
        'big': (),
        'middle': ('big',),
        'small': ('big', 'middle'),
    }
    assert chain['small'].sampling and 'loss_soft' in chain['small'].recipe['terms']


def test_parts_that_are_switched_off_are_gone(written: Path) -> None:
    cfg = Config.fromfile(written / 'no_exploration.py')
    model: Any = MODELS.build(with_tiny_models(cfg))
    assert not model.branches
    assert 'loss_attention' not in model.plan.terms
    assert not any('explore' in name for name, _ in model.named_parameters())


def test_example_of_every_key_has_every_key(written: Path) -> None:
    shown = Config.fromfile(written / 'every_key.py').model
    takes = set(inspect.signature(Distiller.__init__).parameters)
    implied = {'self', 'data_preprocessor', 'init_cfg', 'unknown'}
    assert takes - implied == set(shown) - {'type'}
    assert set(shown.teachers.t) == set(teachers._KEYS)
    for name in schedules.WeightSchedule.__dataclass_fields__:
        assert f'`{name}`' in README


def test_example_of_a_loss_gives_the_numbers_it_should(written: Path) -> None:
    loss = importlib.import_module('my_losses').CosineKD(weight=0.5)
    assert LOSSES.get('CosineKD') is type(loss)
    here = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    there = torch.tensor([0.0, 3.0]).view(1, 2, 1, 1)
    assert loss.pair(here, here) == pytest.approx(0)
    assert loss.pair(here, there) == pytest.approx(1)
    assert loss.pair(here, -here) == pytest.approx(2)
    # Two places, at angles of 0 and 90 degrees; the mask leaves the second.
    ours, theirs = torch.cat([here, here], -1), torch.cat([here, there], -1)
    mask = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert loss([ours], [theirs]) == pytest.approx(0.5)
    assert loss([ours], [theirs], [mask]) == pytest.approx(1)


def test_example_of_a_hook_prints_and_logs(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    importlib.import_module('my_hooks')
    cfg = hook_runs.distill_cfg(tmp_path, val=False)
    cfg.custom_hooks = [dict(type='PrintStrength', tap='fpn', interval=2)]
    runner = hook_runs.build(cfg, 'readme')
    runner.train()
    steps = len(runner.train_dataloader)
    assert capsys.readouterr().out.count('fpn: student / t = ') == steps // 2
    assert runner.message_hub.get_scalar('train/stat_strength_t').current() > 0


# -- names ---------------------------------------------------------------------


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    named = set(re.findall(r'\b(?:tools|configs|tests|mkd_det)/[\w./-]*[\w/]', text))
    missing = [name for name in sorted(named) if not (ROOT / name).exists()]
    links = re.findall(r'\]\((?!https?://)([^)#]+)', text)
    missing += [link for link in links if not (page.parent / link).exists()]
    assert named and not missing


def test_packaged_configs_that_are_named_are_there() -> None:
    named = re.findall(r'mkd_det::([\w/.-]+\.py)', README)
    assert named and all((ROOT / 'configs' / name).is_file() for name in named)


def test_folders_of_configs_are_all_listed() -> None:
    folders = {f.parent.name for f in (ROOT / 'configs').glob('[a-z]*/*.py')}
    assert set(re.findall(r'^\| `configs/(\w+)/`', README, re.MULTILINE)) == folders


def test_commands_have_the_options_that_are_shown() -> None:
    common = inspect.getsource(cli)
    seen = 0
    for command in COMMANDS:
        tool = re.search(r'tools/\w+\.py', command)
        options = re.findall(r'(?<!\S)(--[a-z-]+)', command.split('#')[0])
        if tool:
            source = (ROOT / tool[0]).read_text() + common
            assert all(f"'{option}'" in source for option in options), command
            seen += 1
    assert seen >= 5
    tools = ''.join(file.read_text() for file in (ROOT / 'tools').glob('*.py'))
    for option in set(re.findall(r'(?<![\w-])--[a-z][a-z-]+', README)):
        assert f"'{option}'" in tools + common, option


def test_make_has_the_targets_that_are_shown() -> None:
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'\bmake (\w+)`', README)) | {
        line.split()[1] for line in COMMANDS if line.startswith('make ')
    }
    assert {'demo', 'test'} <= targets
    for target in targets:
        assert re.search(rf'^{target}\b.*:', makefile, re.MULTILINE), target


def test_every_typed_error_is_explained() -> None:
    ours = {
        name
        for module in (errors, cli)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, errors.MkdError)
    }
    cells = re.findall(r'^\|([^|]*Error`[^|]*)\|', README, re.MULTILINE)
    explained = {name for cell in cells for name in re.findall(r'`(\w+)`', cell)}
    assert explained == ours


def test_every_hook_is_listed_under_its_name() -> None:
    rows = re.findall(r'^\| `(\w+Hook)` \| (.*?) \|', README, re.MULTILINE)
    own = set(mkd_det.hooks.__all__) - {'DistillHook'}
    assert {hook for hook, _ in rows} == own
    for name, cfg in runtime.DEFAULT_HOOKS.items():
        assert (cfg['type'], f'`{name}`') in rows


def test_no_page_speaks_of_a_machine() -> None:
    for page in PAGES:
        text = page.read_text(encoding='utf-8')
        assert not re.search(r'(?<![\w.:/])/(work|home|root|tmp|mnt)/', text), page
