"""The documentation is true: its examples run, the names in it exist."""

from __future__ import annotations

import ast
import importlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import HOOKS, MODELS

import faults
import hook_runs
import mkd_det.hooks
import tiny
import tiny_images
from mkd_det import cli, config, errors
from mkd_det.distiller.model import Distiller
from mkd_det.experiments.chain.chain import read_chain
from mkd_det.io.json_files import read_json, write_json
from mkd_det.registry import ADAPTERS, LOSSES
from mkd_det.training import runtime
from mkd_det.weighting.schedules import Progress
from test_architecture import ORDER

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
sys.path.append(str(DOCS / '_ext'))
reference = importlib.import_module('reference')
sys.path.append(str(ROOT / 'scripts'))
count_cases = importlib.import_module('count_cases')

PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
    *sorted(p for p in DOCS.rglob('*.md') if '_build' not in p.parts),
]
RELIABILITY = DOCS / 'reliability.md'
TEXTS = {page: page.read_text(encoding='utf-8') for page in PAGES}
# A block of code, and the comment above it: `<!-- runnable: KIND FILE -->` or
# `<!-- not run: REASON -->`.
_BLOCK = re.compile(
    r'(?:^<!-- (runnable|not run): (.*?) -->\n)?^```(python|bash)\n(.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code in a page."""

    page: Path
    mark: str
    what: str
    language: str
    code: str

    @property
    def kind(self) -> str:
        """What is done with a block that runs."""
        return self.what.split()[0] if self.mark == 'runnable' else ''

    @property
    def name(self) -> str:
        """The file that the block is."""
        return self.what.split()[-1] if ' ' in self.what else ''


BLOCKS = [
    Block(page, *found)
    for page, text in TEXTS.items()
    for found in _BLOCK.findall(text)
]
EXAMPLES = {b.name: b for b in BLOCKS if b.mark == 'runnable' and b.name}
KINDS = {name: block.kind for name, block in EXAMPLES.items()}
CONFIGS = [name for name, kind in KINDS.items() if kind == 'config']
# What the examples take for granted: plain configs of the user's own.
PLAIN = ('small.py', 'middle.py', 'big.py')


def command_lines(block: Block) -> list[list[str]]:
    """Words of each command, without what the shell does with it."""
    code = block.code.replace('\\\n', ' ')
    lines = [shlex.split(line, comments=True) for line in code.splitlines()]
    parts = [part for line in lines for part in split_at_and(line)]
    return [[w for w in part if not re.match(r'[A-Z_]+=', w)] for part in parts]


def split_at_and(words: list[str]) -> Iterator[list[str]]:
    """Split `a && b`; leave out empty lines."""
    part: list[str] = []
    for word in [*words, '&&']:
        if word != '&&':
            part.append(word)
        elif part:
            yield part
            part = []


def arguments(words: list[str]) -> list[str] | None:
    """Arguments of `mkd-det`, or None for another command."""
    if words[:3] == ['python', '-m', 'mkd_det']:
        return words[3:]
    return words[1:] if words[0] == 'mkd-det' else None


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all examples as files, on Python's path. What they register is
    gone afterwards."""
    folder = tmp_path_factory.mktemp('docs')
    for name, block in EXAMPLES.items():
        (folder / name).write_text(block.code)
    for name in PLAIN:
        (folder / name).write_text("model = dict(type='GFL')\n")
    registries = (LOSSES, ADAPTERS, HOOKS)
    before = [(registry, dict(registry._module_dict)) for registry in registries]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.chdir(folder)
        yield folder
    for registry, known in before:
        registry._module_dict.clear()
        registry._module_dict.update(known)
    for name in EXAMPLES:
        sys.modules.pop(Path(name).stem, None)


def with_tiny_models(cfg: Config) -> dict[str, Any]:
    """The example's model, with the smallest detectors in it and no files."""
    model = cfg.model
    kind = tiny.faster_rcnn if model.student.type == 'FasterRCNN' else tiny.gfl
    model.student = kind(base_channels=8, neck=16)
    for width, teacher in enumerate(model.teachers.values(), start=3):
        teacher.cfg = kind(base_channels=4 * width, neck=8 * width)
        teacher.checkpoint = None
    model.probe_size = 64
    return model


# -- code --------------------------------------------------------------------------


def test_every_block_runs_or_says_why_not() -> None:
    unmarked = [f'{b.page.name}: {b.code[:60]!r}' for b in BLOCKS if not b.mark]
    assert not unmarked
    kinds = {
        'config', 'classifier', 'module', 'chain', 'prints', 'commands', 'faults'
    }  # fmt: skip
    assert {b.kind for b in BLOCKS if b.kind} == kinds
    marks = sum(
        len(re.findall(r'^<!-- (?:runnable|not run): ', text, re.MULTILINE))
        for text in TEXTS.values()
    )
    assert marks == len(BLOCKS)


def test_blocks_of_one_name_are_equal() -> None:
    for block in BLOCKS:
        if block.mark == 'runnable' and block.name:
            assert block.code == EXAMPLES[block.name].code, block.page


@pytest.mark.parametrize('name', CONFIGS)
def test_config_builds_and_takes_a_step(written: Path, name: str) -> None:
    cfg = Config.fromfile(name)
    for teacher in cfg.model.teachers.values():
        assert get_config_of(teacher.cfg).model.type == cfg.model.student.type
    terms = {n for n, c in cfg.model.terms.items() if c.get('weight', 1.0) != 0}
    optional = {n for n, c in cfg.model.terms.items() if 'only_with' in c}
    model: Any = MODELS.build(with_tiny_models(cfg)).train()
    assert terms - optional <= set(model.plan.terms) <= terms
    for hook in cfg.get('custom_hooks', ()):
        HOOKS.build(hook)

    data = model.data_preprocessor(tiny.batch(), training=True)
    total, log = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    picked = model.sampler.pick(0)
    for term, node in model.plan.terms.items():
        assert node.loss.weight_at(Progress()) > 0
        if model.plan.teachers_of(node) <= picked:
            assert any(v > 0 for k, v in log.items() if k.startswith(term)), term


def get_config_of(cfg: str) -> Config:
    """A teacher's config, of a package or of the current folder."""
    return get_config(cfg) if '::' in cfg else Config.fromfile(cfg)


def test_config_of_classifiers_builds_and_takes_a_step(written: Path) -> None:
    names = [name for name, kind in KINDS.items() if kind == 'classifier']
    assert names
    for name in names:
        cfg = Config.fromfile(name)
        for teacher in cfg.model.teachers.values():
            assert get_config(teacher.cfg).model.type == cfg.model.student.type
            teacher.update(cfg=tiny_images.classifier(8), checkpoint=None)
        cfg.model.student = tiny_images.classifier(8)
        cfg.model.probe_size = 16
        model: Any = MODELS.build(cfg.model).train()
        data = model.data_preprocessor(tiny_images.batch(), training=True)
        total, log = model.parse_losses(model(**data, mode='loss'))
        assert torch.isfinite(total) and set(model.plan.terms) <= set(log)


def test_example_of_a_chain_is_one(written: Path) -> None:
    chain = read_chain(Config.fromfile('my_chain.py').to_dict())
    assert {m.name: m.guides for m in chain.members} == {
        'big': (),
        'middle': ('big',),
        'small': ('big', 'middle'),
    }
    assert chain['small'].sampling and 'loss_soft' in chain['small'].recipe['terms']


@pytest.mark.parametrize(
    'block', [b for b in BLOCKS if b.kind == 'prints'], ids=lambda b: b.page.name
)
def test_example_prints_what_stands_beside_it(block: Block) -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(block.code, str(block.page), 'exec'), {})
    said = re.findall(r'print\(.*?\) +# (.*)', block.code)
    assert said and out.getvalue().splitlines() == said


def test_example_of_faults_breaks_what_it_says(tmp_path: Path) -> None:
    (block,) = (b for b in BLOCKS if b.kind == 'faults')
    known = dict(faults=faults, pytest=pytest, write_json=write_json)
    known |= dict(read_json=read_json, CheckpointSaveError=errors.CheckpointSaveError)
    exec(compile(block.code, str(block.page), 'exec'), known)
    (test,) = (value for name, value in known.items() if name.startswith('test_'))
    test(tmp_path)


def test_promises_name_tests_that_exist() -> None:
    """And each row of the page has a count; `scripts/count_cases.py` writes it."""
    rows = [count_cases.selectors(line) for line in TEXTS[RELIABILITY].splitlines()]
    named = [test for row in rows if row for test in row]
    assert len(named) > 40
    for path, word in named:
        assert (ROOT / path).exists(), path
        files = (ROOT / path).rglob('*.py') if (ROOT / path).is_dir() else [ROOT / path]
        text = ''.join(file.read_text() for file in files)
        assert re.search(rf'def test_\w*{word}', text), f'{path} -k {word}'
    promised = [line for line in TEXTS[RELIABILITY].splitlines() if '| `tests/' in line]
    assert len(promised) == sum(row is not None for row in rows)
    assert not [line for line in promised if line.endswith('| 0 |')]


def test_parts_that_are_switched_off_are_gone(written: Path) -> None:
    cfg = Config.fromfile('no_exploration.py')
    model: Any = MODELS.build(with_tiny_models(cfg))
    assert not model.branches
    assert 'loss_attention' not in model.plan.terms
    assert not any('explore' in name for name, _ in model.named_parameters())


def test_example_of_a_loss_gives_the_numbers_it_should(written: Path) -> None:
    loss = importlib.import_module('my_losses').CosineKD(weight=0.5)
    assert LOSSES.get('CosineKD') is type(loss)
    here = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    there = torch.tensor([0.0, 3.0]).view(1, 2, 1, 1)
    assert loss.pair(here, here) == pytest.approx(0)
    assert loss.pair(here, there) == pytest.approx(1)
    assert loss.pair(here, -here) == pytest.approx(2)
    # Two positions, at angles of 0 and 90 degrees; the mask leaves the second.
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
    runner = hook_runs.build(cfg, 'docs')
    runner.train()
    steps = len(runner.train_dataloader)
    assert capsys.readouterr().out.count('fpn: student / t = ') == steps // 2
    assert runner.message_hub.get_scalar('train/stat_strength_t').current() > 0


# -- commands ----------------------------------------------------------------------


def test_commands_take_the_arguments_that_are_shown() -> None:
    parsers = {name: module.make_parser() for name, module in cli.commands().items()}
    seen = set()
    for block in (b for b in BLOCKS if b.language == 'bash'):
        for words in command_lines(block):
            given = arguments(words)
            if given is not None:
                parsers[given[0]].parse_args(given[1:])
                seen.add(given[0])
            elif words[0] == 'make':
                targets = re.findall(r'^(\w+):', (ROOT / 'Makefile').read_text(), re.M)
                assert words[1] in targets
            for word in words:
                if re.match(r'(tools|benchmarks|configs|scripts)/', word):
                    assert (ROOT / word).is_file(), word
    assert {'train', 'test', 'plan', 'compare', 'chain', 'export'} <= seen


def test_commands_that_need_no_training_run(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = Config.fromfile('my_pair.py')
    cfg.model = with_tiny_models(cfg)
    monkeypatch.chdir(tmp_path)
    cfg.dump('my_pair.py')
    lines = {tuple(w) for b in BLOCKS if b.kind == 'commands' for w in command_lines(b)}
    assert len(lines) >= 3
    for words in sorted(lines):
        given = arguments(list(words))
        assert given is not None and cli.main(given) == 0, words


# -- generated pages ---------------------------------------------------------------


def test_every_key_of_the_config_is_documented() -> None:
    page = reference.render('config')
    for cls in reference.dataclasses_of(config, config.DistillConfig):
        assert f'### {cls.__name__}\n' in page
        for field in fields(cls):
            assert f'| `{field.name}` |' in page, (cls, field.name)
    assert '| `probe_size` | a side, or (H, W), in pixels | `256` |' in page


def test_every_command_is_documented() -> None:
    page = reference.render('commands')
    for name, module in cli.commands().items():
        assert f'## {name}\n' in page
        assert f'mkd-det {name}' in module.make_parser().epilog, 'no example'
    assert '| `--cfg-options` |' in page


def test_every_typed_error_is_documented_with_its_fix() -> None:
    page = reference.render('errors')
    for cls in reference.errors():
        row = re.search(rf'^\| `{cls.__name__}` \| (.+) \| (.*) \|$', page, re.M)
        assert row and (row[2] or cls.__subclasses__()), cls
    defined = {cls.__name__ for cls in reference.errors()}
    for file in (ROOT / 'mkd_det').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ClassDef):
                bases = {b.id for b in node.bases if isinstance(b, ast.Name)}
                assert not bases & defined or file == Path(errors.__file__), node.name


def test_every_recipe_is_documented() -> None:
    page = reference.render('recipes')
    files = (ROOT / 'configs' / '_base_' / 'recipes').glob('*.py')
    assert all(f'| `{file.name}` | ' in page for file in files)


def test_pages_ask_for_parts_that_exist() -> None:
    asked = [m for text in TEXTS.values() for m in reference.marks(text)]
    assert sorted(asked) == sorted(reference.PARTS)


# -- names -------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them of their words."""
    text = page.read_text(encoding='utf-8')
    text += '\n'.join(map(reference.render, reference.marks(text)))
    heads = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    words = (re.sub(r'[^\w\- ]', '', head.lower()) for head in heads)
    return {word.strip().replace(' ', '-') for word in words}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    if page.name == 'report.md':  # written by `mkd-det compare`, in its own work dir
        return
    text = TEXTS[page]
    pattern = r'\b(?:tools|benchmarks|scripts|configs|tests|mkd_det)/[\w./-]*[\w/]'
    missing = [n for n in re.findall(pattern, text) if not (ROOT / n).exists()]
    for link, anchor in re.findall(r'\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)', text):
        target = page.parent / link if link else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(f'{link}#{anchor}')
    assert not missing


def test_packaged_configs_that_are_named_are_there() -> None:
    text = '\n'.join(TEXTS.values())
    named = set(re.findall(r'mkd_det::([\w/.-]+\.py)', text)) - {'folder/name.py'}
    assert named and all((ROOT / 'configs' / name).is_file() for name in named)


def test_folders_of_configs_are_all_listed() -> None:
    folders = {f.parent.name for f in (ROOT / 'configs').glob('[a-z]*/*.py')}
    listed = re.findall(r'^\| `configs/(\w+)/`', TEXTS[DOCS / 'recipes.md'], re.M)
    assert set(listed) == folders


def test_every_hook_is_listed_under_its_name() -> None:
    text = TEXTS[DOCS / 'hooks.md']
    rows = dict(re.findall(r'^\| `(\w+Hook)` \| (.*?) \|', text, re.MULTILINE))
    own = {
        name
        for name, hook in HOOKS.module_dict.items()
        if hook.__module__.startswith(mkd_det.hooks.__name__)
    }
    assert set(rows) == own - {'DistillHook'}
    for name, cfg in runtime.DEFAULT_HOOKS.items():
        assert rows[cfg['type']] == f'`{name}`'
    assert all(f'{name}\n' in text for name in own)


def test_every_room_is_told_in_the_design_in_its_order() -> None:
    text = TEXTS[DOCS / 'design.md'].partition('## Rooms')[2].partition('\n## ')[0]
    assert tuple(re.findall(r'^\| `([\w.]+)` \|', text, re.MULTILINE)) == ORDER


def test_new_paths_of_the_changelog_can_be_imported() -> None:
    text = TEXTS[ROOT / 'CHANGELOG.md']
    rows = re.findall(r'^\| `(mkd_det[\w.]*)` \| `(mkd_det[\w.]*)` \|', text, re.M)
    assert rows
    for _, new in rows:
        module, _, name = new.rpartition('.')
        found = hasattr(importlib.import_module(module), name)
        assert found or importlib.import_module(new), new


def test_readme_is_short() -> None:
    assert (ROOT / 'README.md').stat().st_size <= 12_000


def test_no_page_names_a_path_of_a_machine() -> None:
    for page, text in TEXTS.items():
        assert not re.search(r'(?<![\w.:/])/(work|home|root|tmp|mnt)/', text), page


def test_distiller_is_what_the_config_page_is_about() -> None:
    assert MODELS.get('Distiller') is Distiller
