"""Check data and disk before teachers' outputs are cached; report cache hits."""

from __future__ import annotations

import shutil
import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..data.determinism import count_versions, random_transforms
from ..errors import ConfigError
from ..io.random_state import preserved_random_state
from ..structures import tensors_in
from ..training.runtime import get_distiller


@HOOKS.register_module()
class TeacherCacheHook(Hook):
    """Checks the training data for `teachers.<name>.cache`, and logs cache hits.

    The pipeline of the training data must yield the same image every time, or a few
    versions of it (`RandomFlip`), each of which is kept. Size on disk and
    seconds for each epoch are estimated from one image and logged, with the free
    space. After every epoch, the number of images
    found in the cache is logged. Without a cache the hook does nothing.

    Raises:
        ConfigError: The pipeline is random.
    """

    # Before TeacherCheckHook measures the teachers, which takes long.
    priority = 'ABOVE_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Check the pipeline; estimate the cache's size and speed."""
        distiller = get_distiller(runner, 'TeacherCacheHook')
        runners, reads = distiller.teachers.runners, distiller.plan.reads
        used = [n for n, one in runners.items() if one.cache and n in reads]
        if not used:
            return
        dataset: Any = runner.train_dataloader.dataset
        with preserved_random_state():
            found = random_transforms(dataset)
            if found:
                raise ConfigError(
                    f'teachers.{used[0]}: a cache needs images that come again in'
                    ' later epochs',
                    expected='no random transform but RandomFlip',
                    actual='random: ' + ', '.join(found),
                    fix='a train pipeline without them, or no `cache`',
                )
            for name in used:
                self._estimate(runner, distiller, name, dataset)

    def after_train_epoch(self, runner: Runner) -> None:
        """Log how many images were found in the cache."""
        distiller = get_distiller(runner, 'TeacherCacheHook')
        for name, runner_of_teacher in distiller.teachers.runners.items():
            store = runner_of_teacher.store
            if store is not None:
                runner.logger.info(
                    f'teacher cache {name!r}: {store.hits} images found,'
                    f' {store.misses} computed'
                )
                store.hits = store.misses = 0

    def _estimate(
        self, runner: Runner, distiller: Any, name: str, dataset: Any
    ) -> None:
        sample = dataset[0]
        batch = distiller.data_preprocessor(
            dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]), True
        )
        images = distiller.renormalizers[name](batch['inputs'], batch['data_samples'])
        reads = distiller.plan.reads[name]
        samples = batch['data_samples']
        distiller.teachers.run(name, images, reads, samples)  # the entry is there now
        start = time.perf_counter()
        seen = distiller.teachers.run(name, images, reads, samples)
        seconds = time.perf_counter() - start
        cached = distiller.teachers.runners[name]
        each = 2 * sum(t.numel() for t in tensors_in(list(seen.values())))
        versions = count_versions(dataset)
        size = each * len(dataset) * versions
        flips = f', {versions} versions of each by RandomFlip' if versions > 1 else ''
        free = shutil.disk_usage(cached.cache).free
        runner.logger.info(
            f'teacher cache {name!r}: about {each / 2**20:.1f} MB an image,'
            f' {size / 2**30:.2f} GB for {len(dataset)} images{flips}'
            f' ({free / 2**30:.1f} GB free in {cached.cache}); reading them takes about'
            f' {seconds * len(dataset):.0f} s an epoch'
        )
        if size > free:
            runner.logger.warning(
                f'teacher cache {name!r} will not hold all images: the teacher runs for'
                ' the others'
            )
        cached.store.hits = cached.store.misses = 0
