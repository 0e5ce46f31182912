"""Writes the members of a chain as configs that can be read and run by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config

from ...config_files.reading import add_custom_imports, load_config
from ...errors import prefix_errors
from ...plan.recipes import apply_recipe, repeat_recipe
from ...training.runtime import DEFAULT_HOOKS
from ...training.student_config import student_config
from ..runs.training_configs import (
    adapt_hooks_to_iterations,
    limit_checkpoints,
    write_config,
)
from .chain import RECIPE, Chain, ChainMember
from .chain_file import READING_KEYS


def member_config(
    member: ChainMember, students: Mapping[str, tuple[str, str]], chain: Chain
) -> Config:
    r"""Return the complete config that trains a member.

    The loss of a member with n guides g is

    .. math:: L = n (1 - \lambda) L_\mathrm{task} + \lambda \sum_g KD(g, S)

    where KD are the recipe's terms and the losses of its adapters. In Son et al. n is
    the number of assistants and the teacher; their published code leaves n out and has
    :math:`\lambda = 1`.

    Args:
        member: The member.
        students: Config and weights of the plain model of each member, by name.
        chain: The chain, for the settings of the guides.
    """
    with prefix_errors(f'chain: {member.name}'):
        cfg = load_config(member.cfg, dict(member.options), '`options`')
    cfg = Config(cfg.to_dict())
    cfg.pop('recipe', None)
    adapt_hooks_to_iterations(cfg)
    limit_checkpoints(cfg)
    if not member.guides:
        _drop_distillation_hooks(cfg)
        return cfg
    guides = {
        name: dict(
            cfg=students[name][0],
            checkpoint=students[name][1],
            **{k: v for k, v in chain[name].teacher.items() if k not in READING_KEYS},
        )
        for name in member.guides
    }
    factor = len(guides) if member.ce_scale else 1
    cfg.model = apply_recipe(
        cfg.model,
        guides,
        repeat_recipe(member.recipe, member.guides, member.lam, RECIPE),
        sampling=dict(member.sampling),
        task_weight=(1 - member.lam) * factor,
    )
    add_custom_imports(cfg, 'mkd_det', *chain.imports)
    return cfg


def _drop_distillation_hooks(cfg: Config) -> None:
    """Drop options that switch off hooks which a plain training does not have."""
    if cfg.get('default_hooks'):
        cfg.default_hooks = {
            name: hook
            for name, hook in cfg.default_hooks.items()
            if hook is not None or name not in DEFAULT_HOOKS
        }


def student_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Return config and weights of a member's plain model in a chain's folder."""
    return folder / 'students' / f'{name}.py', folder / 'students' / f'{name}.pth'


def config_file(folder: Path, name: str) -> Path:
    """Return the config of a member's training in a chain's folder."""
    return folder / 'configs' / f'{name}.py'


def write_member_configs(chain: Chain, folder: Path) -> dict[str, Config]:
    """Write the config of each member's training, and that of its plain model.

    Args:
        chain: The chain.
        folder: Folder of the chain.

    Returns:
        The configs of the trainings by name; of given members, configs of a test.
    """
    students: dict[str, tuple[str, str]] = {}
    configs: dict[str, Config] = {}
    for member in chain.members:
        cfg = member_config(member, students, chain)
        cfg.work_dir = str(folder / member.name)
        if member.checkpoint is not None:
            # Tested on what a training would be validated on.
            cfg.test_dataloader = cfg.get('val_dataloader')
            cfg.test_evaluator = cfg.get('val_evaluator')
            cfg.test_cfg = dict(type='TestLoop')
        config, weights = student_files(folder, member.name)
        write_config(config, student_config(cfg))
        write_config(config_file(folder, member.name), cfg)
        students[member.name] = str(config), str(weights)
        configs[member.name] = cfg
    return configs
