"""Labels images softly: what a detector's head says before NMS, to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor
from tqdm import tqdm

from ...errors import ConfigError, HeadKindError, MkdError
from ...heads.base import find_reader
from ...heads.readers.dense import DenseReader
from ...heads.running import run_features
from ...registry import type_name
from ...structures import HeadOutput
from ...taps import Tap, capture
from ...teachers.cache import hash_weights
from ...teachers.stored.grid import Grid
from ...teachers.stored.outputs import HOMOGRAPHY
from ...teachers.stored.store import About, OutputStore, StoredImage, as_half
from .detect import Detector, read_inputs, report_failed, test_pipeline

HEAD = 'bbox_head'


@dataclass(frozen=True)
class SoftSettings:
    """How to label softly.

    Args:
        top_k: Number of rows of the head's output that are kept of an image.
        batch_size: Images in a batch.
        devices: A process for each: 'cpu', 'cuda:0'.

    Raises:
        ConfigError: A value is not possible.
    """

    top_k: int = 500
    batch_size: int = 8
    devices: tuple[str, ...] = ('cpu',)

    def __post_init__(self) -> None:
        for name in ('top_k', 'batch_size'):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f'{name} must be at least 1', actual=getattr(self, name)
                )


@dataclass(frozen=True)
class SoftLabelled:
    """What was labelled.

    Args:
        images: Number of images in the file that were asked for.
        added: Number of those that were not in it before.
        failed: Why images could not be read, by path.
    """

    images: int
    added: int
    failed: dict[str, str]


class SoftLabeller:
    """A detector that says what its head yields.

    Args:
        cfg: Its plain config.
        checkpoint: Its weights.
        top_k: Number of rows that are kept of an image.
        device: Where it runs.

    Attributes:
        about: What a store of its outputs holds.

    Raises:
        HeadKindError: It has no dense head whose boxes can be decoded.
        MkdError: The weights do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str, top_k: int, device: str) -> None:
        detector = Detector(cfg, checkpoint, device)
        self.model: Any = detector.model
        self.head = getattr(self.model, HEAD, None)
        kind = find_reader(self.head)
        reader = kind(self.head) if kind is not None else None
        if not isinstance(reader, DenseReader) or type(reader).beside(HEAD):
            raise HeadKindError(
                f'{type(self.model).__name__} has no head whose rows can be stored',
                expected='a dense head, as those of RetinaNet, GFL or YOLOX',
                actual=type(self.head).__name__,
                fix='hard labels: the same command without --soft',
            )
        self.reader = reader
        pipeline = _with_homography(test_pipeline(cfg))
        self.pipeline = Compose(pipeline)
        self.device, self.top_k = device, top_k
        digest = hashlib.blake2b(digest_size=6)
        hash_weights(digest, self.model)
        self.about = About(
            head=type(self.head).__name__,
            weights=f'weights {digest.hexdigest()}',
            classes=tuple(detector.classes or ()),
            strides=tuple(int(s or 0) for s in reader.level_strides(self.head)),
            top_k=top_k,
            pipeline=hashlib.sha256(repr(pipeline).encode()).hexdigest()[:12],
        )

    def label(
        self, paths: Sequence[str]
    ) -> tuple[dict[str, StoredImage], dict[str, str]]:
        """Return what is to be stored of some images, and why others failed, by path.

        Args:
            paths: The images.
        """
        packed, failed = [], {}
        for index, path in enumerate(paths):
            try:
                packed.append((path, self.pipeline(dict(img_path=path, img_id=index))))
            except Exception as error:  # of a file that is no image, it may be any
                text = error.message if isinstance(error, MkdError) else str(error)
                failed[path] = f'{type(error).__name__}: {text}'
        if not packed:
            return {}, failed
        batch = pseudo_collate([sample for _, sample in packed])
        data = self.model.data_preprocessor(batch, False)
        inputs, samples = data['inputs'], data['data_samples']
        tap = replace(Tap.parse(HEAD), layout=type(self.reader).layout)
        with torch.no_grad(), capture(self.model, {HEAD: tap}) as seen:
            run_features(self.model, inputs, samples)
        levels = seen[HEAD]
        output = self.reader.read(self.head, levels)
        sizes = tuple((part[0].shape[-2], part[0].shape[-1]) for part in levels)
        assert output.priors is not None
        grid = Grid.of([p.cpu() for p in output.priors], sizes, self.about.strides)
        found = {
            path: self._most_confident(output, n, grid, samples[n])
            for n, (path, _) in enumerate(packed)
        }
        return found, failed

    def _most_confident(
        self, output: HeadOutput, n: int, grid: Grid, sample: Any
    ) -> StoredImage:
        """Return the most confident rows of one image."""
        scores = output.scores[n].cpu()
        if self.reader.activation == 'softmax':
            confidence = scores.softmax(-1)[:, :-1].amax(-1)
        else:
            confidence = scores.sigmoid().amax(-1)
        rows = confidence.topk(min(self.top_k, len(confidence))).indices.sort().values
        if output.boxes is None:
            raise HeadKindError(
                f'the boxes of {type(self.head).__name__} cannot be decoded',
                fix='hard labels: the same command without --soft',
            )
        boxes, centres = output.boxes[n].cpu()[rows], grid.centres[rows]
        sides = torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], 1)
        bins = None if output.bins is None else as_half(output.bins[n].cpu()[rows])
        height, width = sample.img_shape[:2]
        return StoredImage(
            rows.int(),
            as_half(scores[rows]),
            as_half(sides / grid.strides[rows][:, None]),
            bins,
            grid.sizes,
            _matrix(sample),
            (int(height), int(width)),
        )


def label_soft(
    cfg: Config,
    checkpoint: str,
    images: str | Sequence[str],
    out: Path,
    settings: SoftSettings | None = None,
    root: str = '',
) -> SoftLabelled:
    """Store what a detector's head says of images, before NMS.

    Images that are in the file already are left as they are, so that an interrupted run
    continues. Images that cannot be read are in `<out>.failed.json`.

    Args:
        cfg: Config of the detector; of a distill config, its student's.
        checkpoint: Its weights.
        images: What to label, see `list_images`.
        out: The file to write.
        settings: How to label.
        root: Where relative paths of a list begin, see `read_inputs`.

    Raises:
        MkdError: The weights do not fit, or there are no images that can be read.
    """
    settings = settings or SoftSettings()
    cfg, paths = read_inputs(cfg, images, root)
    labeller = SoftLabeller(cfg, checkpoint, settings.top_k, settings.devices[0])
    store = OutputStore.create(out, labeller.about)
    known = store.has(paths)
    missing = [path for path in paths if path not in known]
    count = len(settings.devices)
    if count > 1 and missing:
        shares = [missing[rank::count] for rank in range(count)]
        mp.spawn(
            _label_share, (cfg.to_dict(), checkpoint, shares, out, settings), count
        )
        # What is left are images that failed, which are told here.
        now = store.has(missing)
        missing = [path for path in missing if path not in now]
    failed = _label_all(labeller, store, missing, settings.batch_size)
    report_failed(failed, len(paths), Path(f'{out}.failed.json'))
    stored = len(paths) - len(failed)
    return SoftLabelled(stored, stored - len(known), failed)


def _label_all(
    labeller: SoftLabeller, store: OutputStore, paths: Sequence[str], batch_size: int
) -> dict[str, str]:
    """Store what is said of images; return why others failed, by path."""
    failed: dict[str, str] = {}
    with tqdm(total=len(paths), desc='label', disable=None) as bar:
        for start in range(0, len(paths), batch_size):
            some = paths[start : start + batch_size]
            found, wrong = labeller.label(some)
            store.write(found)
            failed |= wrong
            bar.update(len(some))
    return failed


def _label_share(
    rank: int,
    cfg: Mapping[str, Any],
    checkpoint: str,
    shares: Sequence[Sequence[str]],
    out: Path,
    settings: SoftSettings,
) -> None:
    """Label a part of the images, in a process of its own."""
    from mmdet.utils import register_all_modules

    register_all_modules()
    device = settings.devices[rank]
    labeller = SoftLabeller(Config(dict(cfg)), checkpoint, settings.top_k, device)
    _label_all(labeller, OutputStore(out), shares[rank], settings.batch_size)


def _with_homography(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a pipeline whose samples say how their images were transformed."""
    found = [deepcopy(dict(step)) for step in steps]
    for step in found:
        if type_name(step.get('type')) == 'PackDetInputs':
            keys = step.get(
                'meta_keys', ('img_id', 'img_path', 'ori_shape', 'img_shape')
            )
            step['meta_keys'] = (*keys, HOMOGRAPHY)
    return found


def _matrix(sample: Any) -> Tensor:
    matrix = sample.metainfo.get(HOMOGRAPHY)
    if matrix is None:
        # Nothing was resized: pixels of the file are those of the input.
        return torch.eye(3, dtype=torch.float64)
    return torch.as_tensor(matrix).double()
