"""A detector labels images: thresholds, classes, interruptions, broken files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO

import tiny
from mkd_det.cli import main
from mkd_det.errors import ConfigError, DataError, MkdError
from mkd_det.experiments.labelling import detect
from mkd_det.experiments.labelling.classes import choose_classes
from mkd_det.experiments.labelling.run import LabelSettings, _fingerprint, label
from mkd_det.experiments.labelling.thresholds import score_at_precision, thresholds_at


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('label')
    tiny.write_coco(root / 'data', images=5)
    tiny.write_checkpoint(tiny.gfl(4, 8), root / 'model.pth')
    return root


def config(root: Path) -> Config:
    model = tiny.gfl(4, 8)
    model['test_cfg']['score_thr'] = 0.0
    return tiny.runner_cfg(model, root / 'data', root / 'run')


def run(root: Path, out: Path, images: Any = None, **settings: Any) -> Any:
    given = LabelSettings(**{'score_thr': 0.0, **settings})
    images = str(root / 'data/images') if images is None else images
    return label(config(root), str(root / 'model.pth'), images, out, given)


@pytest.fixture(autouse=True)
def keep_every_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights have low scores."""
    monkeypatch.setattr(detect, 'LEAST_SCORE', 0.0)


def test_labels_are_those_of_the_model(root: Path, tmp_path: Path) -> None:
    found = run(root, tmp_path / 'labels.json')
    truth = COCO(str(tmp_path / 'labels.json'))
    assert found.images == 5 and sum(found.boxes.values()) == len(truth.anns) > 0
    assert [c['name'] for c in truth.cats.values()] == list(tiny.CLASSES)
    detector = detect.Detector(config(root), str(root / 'model.pth'))
    path = str(root / 'data/images/002.png')
    (alone,) = detector.detect([path])
    (index,) = [i for i, one in truth.imgs.items() if one['file_name'] == '002.png']
    ours = [a['bbox'] for a in truth.imgToAnns[index]]
    assert np.allclose(sorted(ours), sorted(map(list, alone.boxes)), atol=0.05)


def test_a_threshold_drops_boxes(root: Path, tmp_path: Path) -> None:
    whole = run(root, tmp_path / 'a.json')
    content = json.loads((tmp_path / 'a.json').read_text())
    middle = float(np.median([a['score'] for a in content['annotations']]))
    fewer = run(root, tmp_path / 'b.json', score_thr=middle)
    assert 0 < sum(fewer.boxes.values()) < sum(whole.boxes.values())


def test_an_interrupted_run_continues(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(root, tmp_path / 'whole.json', batch_size=2)
    seen: list[str] = []
    plain = detect.Detector.detect

    def stops(self: Any, paths: Any) -> Any:
        seen.extend(paths)
        if len(seen) > 4:
            raise KeyboardInterrupt
        return plain(self, paths)

    monkeypatch.setattr(detect.Detector, 'detect', stops)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / 'cut.json', batch_size=2)
    (kept,) = (tmp_path / 'cut.json.parts').rglob('*.jsonl')
    kept.write_bytes(kept.read_bytes() + b'{"path": "cut in the mi')
    seen.clear()
    monkeypatch.setattr(
        detect.Detector, 'detect', lambda s, p: seen.extend(p) or plain(s, p)
    )
    again = run(root, tmp_path / 'cut.json', batch_size=2)
    assert len(seen) == 1 and again == whole
    contents = [
        json.loads((tmp_path / f'{n}.json').read_text()) for n in ('whole', 'cut')
    ]
    assert contents[0]['annotations'] == contents[1]['annotations']


def test_images_that_cannot_be_read_are_listed(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / 'data/images', tmp_path / 'images')
    (tmp_path / 'images/broken.png').write_bytes(b'none')
    found = run(root, tmp_path / 'labels.json', images=str(tmp_path / 'images'))
    assert found.images == 5
    assert list(found.failed) == [str(tmp_path / 'images/broken.png')]
    listed = json.loads((tmp_path / 'labels.json.failed.json').read_text())
    assert listed == found.failed


def test_repaired_and_replaced_images_are_labelled_again(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / 'data/images', tmp_path / 'images')
    broken, other = tmp_path / 'images/000.png', tmp_path / 'images/001.png'
    whole, out = broken.read_bytes(), tmp_path / 'labels.json'
    broken.write_bytes(b'none')
    assert run(root, out, images=str(tmp_path / 'images')).images == 4
    before = json.loads(out.read_text())
    broken.write_bytes(whole)
    with Image.open(other) as image:
        image.resize((50, 40)).save(other)
    found = run(root, out, images=str(tmp_path / 'images'))
    assert found.images == 5 and not found.failed
    after = json.loads(out.read_text())
    assert not Path(f'{out}.failed.json').exists()
    sizes = {one['file_name']: one['width'] for one in after['images']}
    assert sizes['001.png'] == 50
    assert len(before['images']) == 4 and sizes['000.png'] != 0


def test_no_image_that_can_be_read_is_an_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/broken.png').write_bytes(b'none')
    config(root).dump(tmp_path / 'model.py')
    out = tmp_path / 'labels.json'
    argv = ['label', str(tmp_path / 'model.py'), str(root / 'model.pth')]
    argv += [str(tmp_path / 'images'), '--out', str(out)]
    assert main(argv) == 2
    assert not out.exists()
    assert main([*argv, '--soft']) == 2
    assert 'broken.png' in Path(f'{out}.failed.json').read_text()


def test_results_are_kept_by_checkpoint(root: Path) -> None:
    cfg = config(root)
    addresses = [f'https://example.com/{name}.pth' for name in 'ab']
    names = [*addresses, str(root / 'model.pth')]
    assert len({_fingerprint(cfg, name) for name in names}) == 3


def test_classes_are_chosen_by_name(root: Path, tmp_path: Path) -> None:
    first, second = tiny.CLASSES[2].upper(), tiny.CLASSES[0]
    found = run(root, tmp_path / 'some.json', classes=(first, second, 'unicorn'))
    whole = run(root, tmp_path / 'all.json')
    assert found.boxes[first] == whole.boxes[tiny.CLASSES[2]]
    assert found.boxes[second] == whole.boxes[tiny.CLASSES[0]]
    assert found.boxes['unicorn'] == 0 and found.unknown == ('unicorn',)
    with pytest.raises(ConfigError):
        run(root, tmp_path / 'none.json', classes=('unicorn',))


def test_a_class_map_gives_other_names(root: Path, tmp_path: Path) -> None:
    first, second, third = tiny.CLASSES
    pairs = {'unicorn': first, 'both': [second, 2], 'nothing': None}
    found = run(root, tmp_path / 'some.json', class_map=pairs)
    whole = run(root, tmp_path / 'all.json')
    assert found.boxes == {
        'unicorn': whole.boxes[first],
        'both': whole.boxes[second] + whole.boxes[third],
        'nothing': 0,
    }
    assert found.unknown == ()
    with pytest.raises(ConfigError, match='no class') as caught:
        run(root, tmp_path / 'none.json', class_map=dict(unicorn='horse'))
    assert list(caught.value.available) == list(tiny.CLASSES)
    for twice in (dict(a=first, b=first), dict(vehicle=first)):
        with pytest.raises(ConfigError, match='as two classes') as caught:
            run(root, tmp_path / 'none.json', class_map=twice, classes=(first,))
        assert '--class-map' in caught.value.fix
    # Thresholds are those of the classes as the validation data calls them.
    sure = run(root, tmp_path / 'sure.json', class_map=pairs, precision=0.0)
    assert sure.boxes == found.boxes and sure.boxes['unicorn'] > 0


def test_a_number_is_a_name_where_a_class_is_called_so() -> None:
    own = [str(number) for number in range(1, 7)]
    chosen = choose_classes(own, (), dict(three=3, last=[6]))
    assert [chosen.name_of(label) for label in range(6)] == [
        *['', '', 'three', '', '', 'last']
    ]
    swapped = choose_classes(['car', 'truck'], (), dict(truck='car', lorry='truck'))
    assert swapped.categories(dict(car=1, truck=2)) == {0: 1, 1: 2}
    chosen = choose_classes(['a', 'b'], (), dict(second=1))
    assert chosen.name_of(1) == 'second' and chosen.unknown == ()


def test_paths_of_a_list_begin_in_its_folder_or_at_the_root(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / 'data/images', tmp_path / 'images')
    (tmp_path / 'list.txt').write_text('images/000.png\nimages/001.png\n')
    listed = str(tmp_path / 'list.txt')
    assert run(root, tmp_path / 'labels.json', images=listed).images == 2
    # One that exists from the current folder keeps all there, also if others do not.
    own = f'{tmp_path}/images/000.png\nimages/001.png\n'
    (tmp_path / 'own.txt').write_text(own)
    found = run(root, tmp_path / 'own.json', images=str(tmp_path / 'own.txt'))
    assert found.images == 1 and list(found.failed) == ['images/001.png']
    (tmp_path / 'lists').mkdir()
    moved = shutil.move(listed, tmp_path / 'lists')
    with pytest.raises(DataError) as caught:
        run(root, tmp_path / 'labels.json', images=str(moved))
    assert '--root' in caught.value.fix
    argv = ['label', str(root / 'model.py'), str(root / 'model.pth'), str(moved)]
    argv += ['--out', str(tmp_path / 'labels.json'), '--root', str(tmp_path)]
    config(root).dump(root / 'model.py')
    assert main(argv) == 0


def test_a_share_that_a_kill_has_cut_is_repaired(root: Path, tmp_path: Path) -> None:
    out = tmp_path / 'labels.json'
    whole = run(root, out)
    (kept,) = (tmp_path / 'labels.json.parts').rglob('images.jsonl')
    lines = kept.read_text().splitlines(keepends=True)
    kept.unlink()
    kept.with_name('images.0.jsonl').write_text(lines[0] + lines[1][:20])
    kept.with_name('images.1.jsonl').write_text(lines[2])
    assert run(root, out) == whole


def test_a_score_at_a_precision() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    right = [True, True, False, True, False]
    assert score_at_precision(scores, right, 1.0) == 0.8
    assert score_at_precision(scores, right, 0.75) == 0.6
    assert score_at_precision(scores, right, 0.5) == 0.5
    assert score_at_precision([0.9], [False], 0.5) is None
    assert score_at_precision([], [], 0.5) is None


def test_equal_scores_are_kept_together() -> None:
    right = [True, False, False, False]
    assert score_at_precision([0.9] * 4, right, 0.9) is None
    assert score_at_precision([0.9] * 4, right, 0.25) == 0.9
    assert score_at_precision([0.8, 0.9, 0.8], [True, True, False], 0.9) == 0.9


def test_thresholds_by_class(root: Path) -> None:
    """Perfect boxes of the first class, displaced ones of the second."""
    truth = json.loads((root / 'data/annotations.json').read_text())
    results = []
    for one in truth['annotations']:
        moved = 1000 * (one['category_id'] == 2)
        box = [one['bbox'][0] + moved, *one['bbox'][1:]]
        results.append(
            dict(
                image_id=one['image_id'],
                category_id=one['category_id'],
                bbox=box,
                score=0.4,
            )
        )
    names = dict(enumerate(tiny.CLASSES, 1))
    found = thresholds_at(root / 'data/annotations.json', results, names, 0.9)
    assert found[tiny.CLASSES[0]] == pytest.approx(0.4)
    assert found[tiny.CLASSES[1]] is None


def test_precision_comes_from_validation_data(root: Path, tmp_path: Path) -> None:
    found = run(root, tmp_path / 'labels.json', precision=1.0)
    sure = [name for name, least in found.thresholds.items() if least is None]
    assert all(found.boxes[name] == 0 for name in sure)
    assert found.thresholds.keys() == set(tiny.CLASSES)


@pytest.mark.commands
def test_two_processes_find_the_same(root: Path, tmp_path: Path) -> None:
    one = run(root, tmp_path / 'one.json', score_thr=0.05)
    two = run(root, tmp_path / 'two.json', score_thr=0.05, devices=('cpu', 'cpu'))
    assert one.images == two.images and one.boxes == two.boxes
    (kept,) = (tmp_path / 'two.json.parts').rglob('*.jsonl')
    before = kept.read_text()
    again = run(root, tmp_path / 'two.json', score_thr=0.05, devices=('cpu', 'cpu'))
    assert again == two and kept.read_text() == before  # nothing is done twice


@pytest.mark.parametrize(
    'settings', [dict(score_thr=2.0), dict(precision=-1.0), dict(batch_size=0)]
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LabelSettings(**settings)


def test_nothing_to_label(root: Path, tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    for images, error in (
        (str(tmp_path / 'empty'), DataError),
        (str(tmp_path / 'missing'), MkdError),
    ):
        with pytest.raises(error):
            run(root, tmp_path / 'labels.json', images=images)
    assert not (tmp_path / 'labels.json').exists()


def test_the_command(root: Path, tmp_path: Path) -> None:
    config(root).dump(tmp_path / 'model.py')
    argv = ['label', str(tmp_path / 'model.py'), str(root / 'model.pth')]
    argv += [str(root / 'data/images'), '--out', str(tmp_path / 'labels.json')]
    assert main([*argv, '--score-thr', '0']) == 0
    content = json.loads((tmp_path / 'labels.json').read_text())
    assert len(content['images']) == 5 and content['annotations']
    for wrong in (
        ['--soft', '--score-thr', '0'],
        ['--soft', '--class-map', 'a=b'],
        ['--top-k', '0'],
        ['--precision', '0.9', '--score-thr', '0'],
    ):
        assert main([*argv, *wrong]) == 2
    torch.save({'state_dict': {}}, tmp_path / 'empty.pth')
    argv[2] = str(tmp_path / 'empty.pth')
    assert main(argv) == 2
