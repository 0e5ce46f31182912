#!/usr/bin/env python
"""Records what a rebuilding of the package must not change, and compares.

    python scripts/net.py record NET.json
    python scripts/net.py check NET.json

Runs short trainings through tools/train.py and tools/train_chain.py (one thread,
deterministic, teachers at speed 'exact') and keeps every logged loss, a hash of the
final weights and of the predictions. Equal to the last digit, or exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'tests'), str(ROOT)]
os.environ['OMP_NUM_THREADS'] = '1'
PYTHON = sys.executable
RECIPES = 'mkd_det::_base_/recipes'


def digits(folder: Path) -> Path:
    """A small set of drawn digits, made by the package."""
    code = (
        'import importlib, sys\n'
        'digits = importlib.import_module("mkd_det.data.digits")\n'
        'from pathlib import Path\n'
        f'digits.make_digits(Path({str(folder)!r}), train=16, val=6, size=96)\n'
    )
    subprocess.run([PYTHON, '-c', code], check=True, stdout=subprocess.DEVNULL)
    return folder


def detector_data(data: Path) -> dict[str, Any]:
    """Loaders, loops and optimizer of a short training on digits."""
    from mmengine.config import Config

    os.environ['DIGITS_ROOT'] = str(data)
    base = Config.fromfile(ROOT / 'configs/demo/gfl_r18-w48_digits.py').to_dict()
    base.pop('model')
    base['train_cfg'] = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
    base['train_dataloader']['batch_size'] = 4
    base['param_scheduler'] = []
    return common(base)


def common(base: dict[str, Any]) -> dict[str, Any]:
    hooks = dict(base.get('default_hooks') or {})
    hooks['logger'] = dict(type='LoggerHook', interval=1)
    hooks['checkpoint'] = dict(type='CheckpointHook', interval=1)
    hooks['teacher_check'] = None  # random teachers
    base['default_hooks'] = hooks
    base['log_processor'] = dict(type='LogProcessor', window_size=1, by_epoch=True)
    base['randomness'] = dict(seed=3, deterministic=True)
    base['custom_imports'] = dict(imports=['mkd_det'], allow_failed_imports=False)
    return base


def recipe(name: str) -> dict[str, Any]:
    from mmengine.config import Config

    path = ROOT / f'configs/_base_/recipes/{name}.py'
    return Config.fromfile(path).recipe.to_dict()


def distiller(student: dict, teachers: dict, **parts: Any) -> dict[str, Any]:
    for teacher in teachers.values():
        teacher.setdefault('speed', 'exact')
    return dict(
        type='Distiller', student=student, teachers=teachers, probe_size=96, **parts
    )


def cases(folder: Path, data: Path) -> dict[str, dict[str, Any]]:
    import tiny

    from mmdet.utils import register_all_modules

    register_all_modules()
    base = detector_data(data)
    small = tiny.gfl(4, 8, 1, 10)
    wide = tiny.gfl(8, 16, 3, 10)
    digit = tuple(map(str, range(10)))
    files = {
        n: str(tiny.write_checkpoint(wide, folder / f'{n}.pth', s, digit))
        for n, s in (('t', 1), ('a', 2))
    }
    t = dict(cfg=wide, checkpoint=files['t'])
    a = dict(cfg=wide, checkpoint=files['a'])
    made = {'mkd': {**base, 'model': distiller(small, dict(t=t), **recipe('mkd_dense'))}}
    two = recipe('mkd_dense')
    two['terms']['loss_soft_a'] = dict(
        type='SoftOutputKD', student='head', teacher='a.head', weight=1.5
    )
    made['two_teachers'] = {
        **base,
        'model': distiller(
            small,
            dict(t=dict(t), a=a),
            sampling=dict(keep_prob=0.6, seed=5),
            balance=dict(type='GradientShare', shares=0.5, interval=2),
            **two,
        ),
    }
    cross = recipe('crosskd_dense')
    cross['taps']['inner'] = ['bbox_head.cls_convs.0', 'bbox_head.reg_convs.0']
    taught = dict(t, taps=dict(inner=['bbox_head.cls_convs.1', 'bbox_head.reg_convs.1']))
    fits = tiny.gfl(4, 16, 1, 10)
    made['crosskd'] = {**base, 'model': distiller(fits, dict(t=taught), **cross)}
    rcnn, big = tiny.faster_rcnn(4, 8, 10), tiny.faster_rcnn(8, 16, 10)
    file = str(tiny.write_checkpoint(big, folder / 'rcnn.pth', 1, digit))
    made['two_stage'] = {
        **base,
        'model': distiller(
            rcnn, dict(t=dict(cfg=big, checkpoint=file)), **recipe('dkd_two_stage')
        ),
    }
    made['classifier'] = classifier(folder)
    return made


def classifier(folder: Path) -> dict[str, Any]:
    import torch

    import tiny_images

    root = tiny_images.write_folder(folder / 'images', 8)
    losses = [dict(type='CE'), dict(type='BalancedCE', counts=[8] * 3), dict(type='Focal')]
    student = tiny_images.classifier(8, 4)
    student['loss'] = dict(
        type='LossAggregation', losses=losses, weights=[0.4, 0.3, 0.3]
    )
    wide = tiny_images.classifier(8, 8)
    file = folder / 'wide.pth'
    meta = dict(dataset_meta=dict(classes=tiny_images.CLASSES))
    state = tiny_images.build(wide, 1).state_dict()
    torch.save(dict(state_dict=state, meta=meta), file)
    t = dict(cfg=wide, checkpoint=str(file), speed='exact')
    model = distiller(
        student,
        dict(t=t, pruned=dict(prune_of='t', prune=0.5)),
        taps=dict(logits='head'),
        terms=dict(
            loss_dlkd=dict(
                type='DLKD',
                student='logits',
                teacher='t.logits',
                pruned='pruned.logits',
            ),
            loss_aggregation=dict(
                type='LossAggregation',
                student='logits',
                teacher='t.logits',
                losses=losses,
                weights=[0.4, 0.3, 0.3],
                tau=4.0,
            ),
        ),
    )

    def loader(shuffle: bool) -> dict[str, Any]:
        return dict(
            batch_size=6,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
            dataset=tiny_images.folder(root),
            collate_fn=dict(type='pseudo_collate'),
        )

    return common(
        dict(
            default_scope='mmengine',
            model=model,
            train_dataloader=loader(True),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2),
            val_dataloader=loader(False),
            val_cfg=dict(type='ValLoop'),
            val_evaluator=dict(type='ClassAccuracy'),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)
            ),
        )
    )


def write(cfg: dict[str, Any], path: Path) -> Path:
    from mmengine.config import Config

    Config(cfg, format_python_code=False).dump(path)
    return path


def call(*words: Any) -> None:
    done = subprocess.run(
        [PYTHON, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(f'{words} failed:\n{done.stdout[-4000:]}')


def losses_of(folder: Path) -> dict[str, dict[str, float]]:
    """Everything that was logged, by step, but for times."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            kind = 'train' if 'loss' in entry else 'val'
            told = {
                k: v
                for k, v in entry.items()
                if k not in ('time', 'data_time', 'memory', 'iter', 'epoch', 'step')
            }
            found[f'{kind} {entry["step"]}'] = told
    return found


def hash_of(value: Any) -> str:
    digest = hashlib.sha256()

    def feed(x: Any) -> None:
        import torch

        if isinstance(x, torch.Tensor):
            digest.update(f'{tuple(x.shape)} {x.dtype}'.encode())
            flat = x.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(x, dict):
            for key in sorted(x):
                digest.update(str(key).encode())
                feed(x[key])
        elif isinstance(x, (list, tuple)):
            for item in x:
                feed(item)
        else:
            digest.update(repr(x).encode())

    feed(value)
    return digest.hexdigest()[:24]


def state_of(path: Path) -> dict[str, Any]:
    import torch

    return dict(torch.load(path, map_location='cpu', weights_only=False)['state_dict'])


def predictions(config: Path, checkpoint: Path) -> str:
    """A hash of what the distiller predicts for two batches."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import Runner, load_checkpoint

    import mkd_det  # noqa: F401

    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(checkpoint), map_location='cpu')
    model.eval()
    found = []
    for batch in Runner.build_dataloader(cfg.val_dataloader, seed=0):
        with torch.no_grad():
            for sample in model.test_step(batch):
                if hasattr(sample, 'pred_instances'):
                    p = sample.pred_instances
                    found.append([p.bboxes, p.scores, p.labels])
                else:
                    found.append(sample.get('pred_score'))
    return hash_of(found)


def run_case(folder: Path, name: str, cfg: dict[str, Any]) -> dict[str, Any]:
    config = write(cfg, folder / f'{name}.py')
    work = folder / name
    call('tools/train.py', config, '--work-dir', work)
    last = work / 'epoch_2.pth'
    return dict(
        losses=losses_of(work),
        weights=hash_of(state_of(last)),
        student=hash_of(state_of(work / 'student_last.pth')),
        predict=predictions(config, last),
    )


def run_chain(folder: Path, data: Path) -> dict[str, Any]:
    import tiny

    base = detector_data(data)
    base.pop('custom_imports')
    members = {n: tiny.gfl(c, 8, 1, 10) for n, c in (('w8', 8), ('w6', 6), ('w4', 4))}
    for name, model in members.items():
        write({**base, 'model': model}, folder / f'{name}.py')
    chain = folder / 'chain.py'
    soft = recipe('mkd_dense')
    soft['probe_size'] = 96
    teacher = dict(speed='exact')
    chain.write_text(
        f'recipe = {soft!r}\n'
        f"custom_imports = dict(imports=['mkd_det'], allow_failed_imports=False)\n"
        f"root = dict(name='w8', cfg={str(folder / 'w8.py')!r}, teacher={teacher!r})\n"
        f"stages = [dict(name='w6', cfg={str(folder / 'w6.py')!r}, teacher={teacher!r}),"
        f" dict(name='w4', cfg={str(folder / 'w4.py')!r})]\n"
    )
    work = folder / 'chain_run'
    command = [PYTHON, 'tools/train_chain.py', str(chain), '--work-dir', str(work)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 300
    while not (work / 'w6' / 'epoch_1.pth').exists():
        if process.poll() is not None or time.monotonic() > limit:
            raise SystemExit('the chain ended before it was to be killed')
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    call(*command[1:])
    found: dict[str, Any] = {}
    for name in members:
        found[name] = dict(
            losses=losses_of(work / name),
            weights=hash_of(state_of(work / 'students' / f'{name}.pth')),
        )
    found['predict'] = predictions(
        work / 'students' / 'w4.py', work / 'students' / 'w4.pth'
    )
    return found


def record(only: list[str]) -> dict[str, Any]:
    """Run everything; returns what is kept."""
    folder = Path('/tmp/mkd_net')  # the same path each time: configs name it
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = digits(folder / 'digits')
    found = {}
    for name, cfg in cases(folder, data).items():
        if not only or name in only:
            print(name, flush=True)
            found[name] = run_case(folder, name, cfg)
    if not only or 'chain' in only:
        print('chain', flush=True)
        found['chain'] = run_chain(folder, data)
    return found


def leaves(value: Any, where: str = '') -> dict[str, Any]:
    if not isinstance(value, dict):
        return {where: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= leaves(inner, f'{where}/{key}')
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=['record', 'check'])
    parser.add_argument('file', type=Path)
    parser.add_argument('--only', nargs='+', default=[])
    args = parser.parse_args()
    found = json.loads(json.dumps(record(args.only)))
    if args.what == 'record':
        args.file.write_text(json.dumps(found, indent=1))
        print(len(leaves(found)), 'numbers recorded')
        return 0
    before = json.loads(args.file.read_text())
    if args.only:
        before = {k: v for k, v in before.items() if k in args.only}
    old, new = leaves(before), leaves(found)
    other = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    for key in other[:40]:
        print(key, old.get(key), new.get(key))
    print(f'{len(other)} of {len(old)} differ')
    return int(bool(other))


if __name__ == '__main__':
    raise SystemExit(main())
