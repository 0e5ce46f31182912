"""Steps of a training under DDP in several processes, to see whether they work."""

from __future__ import annotations

import os
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import distributed, multiprocessing

from ...checkpoints.mmengine_loader import use_our_reader
from ...errors import MkdError
from ...io.quiet import ignore_library_warnings
from ...training.runtime import build_model

STEPS, SECONDS = 2, 120
# How processes start: threads of torch do not survive a fork.
START = 'spawn'


def try_ranks(cfg: Config, count: int, folder: Path) -> str:
    """Train some steps in several processes on the CPU.

    Args:
        cfg: The config of the training, with dataloaders without workers.
        count: How many.
        folder: Temporary folder through which they find each other.

    Returns:
        What is wrong; '' if nothing is.
    """
    results = folder / 'ranks'
    results.mkdir()
    threads = max(torch.get_num_threads() // count, 1)
    context = multiprocessing.start_processes(
        _work, (cfg, count, results, threads), count, join=False, start_method=START
    )
    while not context.join(timeout=1, grace_period=5):
        pass
    problems = [path.read_text() for path in sorted(results.glob('*.txt'))]
    return next((text for text in problems if text), '')


def _work(rank: int, cfg: Config, count: int, folder: Path, threads: int) -> None:
    """Train in one process, and write what is wrong into a file."""
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    torch.set_num_threads(threads)
    ignore_library_warnings()
    use_our_reader()
    with open(os.devnull, 'w') as nothing:
        os.dup2(nothing.fileno(), 1)
    problem = ''
    try:
        distributed.init_process_group(
            'gloo',
            init_method=f'file://{folder}/meeting',
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=SECONDS),
        )
        problem = _train(cfg)
    except MkdError as error:
        problem = error.message
    except Exception as error:
        problem = f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
    finally:
        (folder / f'{rank}.txt').write_text(problem)
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _train(cfg: Config) -> str:
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    wrapped = MMDistributedDataParallel(
        model.train(), device_ids=None, broadcast_buffers=False
    )
    optimizer = build_optim_wrapper(wrapped, cfg.optim_wrapper)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    for batch in islice(loader, STEPS):
        losses = wrapped.train_step(batch, optimizer)
        broken = [n for n, v in losses.items() if not torch.isfinite(v).all()]
        if broken:
            return f'{broken[0]} is not finite'
    return _unequal(model)


def _unequal(model: torch.nn.Module) -> str:
    """Return what differs between the ranks."""
    for name, parameter in model.named_parameters():
        first = parameter.detach().clone()
        distributed.broadcast(first, 0)
        same = torch.tensor(float(torch.equal(first, parameter.detach())))
        distributed.all_reduce(same, distributed.ReduceOp.MIN)
        if not same:
            return f'{name} is not the same on all ranks'
    return ''
