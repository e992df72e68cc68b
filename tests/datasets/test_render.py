"""The rendered motion set: real files, balanced labels, splits that keep their word."""

from __future__ import annotations

import csv
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffmae_video.data import read_frames, video_info

DATASETS = Path(__file__).parents[2] / "datasets"


@pytest.fixture(scope="module")
def renderer():
    """The script as a module; its folder stays off the path, and its names out of the way of other tests."""
    before = set(sys.modules)
    sys.path.insert(0, str(DATASETS))
    try:
        import render_motion_set

        yield render_motion_set
    finally:
        sys.path.remove(str(DATASETS))
        for name in {"render_motion_set", "motion_scene"} - before:
            sys.modules.pop(name, None)


ARGUMENTS = ["--clips", "100", "--size", "32", "--frames", "6", "--workers", "2"]


@pytest.fixture(scope="module")
def rendered(renderer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("motion") / "set"
    renderer.main(["--output", str(folder), *ARGUMENTS])
    return folder


def lines(folder: Path, split: str) -> list[tuple[str, int]]:
    pairs = [line.split() for line in (folder / f"{split}.csv").read_text().splitlines()]
    return [(path, int(label)) for path, label in pairs]


def test_lists_are_balanced_and_name_every_file_once(rendered):
    names = [row["name"] for row in csv.DictReader((rendered / "labels.csv").open())]
    assert len(names) == 10
    listed = []
    for split, count in (("train", 80), ("val", 10), ("unseen", 10)):
        entries = lines(rendered, split)
        assert Counter(label for _, label in entries) == dict.fromkeys(range(10), count // 10)
        assert all(Path(path).name.startswith(names[label]) for path, label in entries)
        listed += [path for path, _ in entries]
    files = {str(path.relative_to(rendered)) for path in rendered.rglob("*.mp4")}
    assert len(listed) == len(set(listed)) and set(listed) == files


def test_clips_are_real_videos_that_move(rendered):
    for path, _ in lines(rendered, "train")[:10]:
        info = video_info(rendered / path)
        assert (info.frames, info.width, info.height) == (6, 32, 32)
        first, last = read_frames(rendered / path, [0, 5]).astype(float)
        assert first.std() > 5, "flat"
        assert abs(last - first).mean() > 1, "nothing moves"


def capture(renderer, monkeypatch, arguments: tuple[int, int, int], jobs: slice, clips: int = 100) -> list[np.ndarray]:
    frames: list[np.ndarray] = []
    monkeypatch.setattr(renderer, "write_video", lambda path, video, **_: frames.append(video))
    monkeypatch.setattr(renderer, "_photographs", {})
    for job in renderer.plan(Path("anywhere"), clips, *arguments)[jobs]:
        renderer.render_job(job)
    return frames


def test_a_clip_is_a_function_of_the_arguments(renderer, monkeypatch):
    every_tenth = slice(0, 100, 9)
    once = capture(renderer, monkeypatch, (32, 6, 0), every_tenth)
    again = capture(renderer, monkeypatch, (32, 6, 0), every_tenth)
    other_seed = capture(renderer, monkeypatch, (32, 6, 1), every_tenth)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(once, other_seed, strict=True))


def test_val_paths_are_not_those_of_train(renderer, monkeypatch):
    train = capture(renderer, monkeypatch, (32, 6, 0), slice(0, 20))
    val = capture(renderer, monkeypatch, (32, 6, 0), slice(80, 90))
    assert min(abs(a.astype(float) - b).mean() for a in train for b in val) > 2


def test_unseen_photographs_never_occur_in_train_or_val(renderer, monkeypatch):
    opened = []
    real = renderer.load_photograph
    monkeypatch.setattr(renderer, "load_photograph", lambda source, size: opened.append(source) or real(source, size))
    capture(renderer, monkeypatch, (16, 2, 0), slice(0, 90))
    seen = {source[:2] for source in opened}
    opened.clear()
    capture(renderer, monkeypatch, (16, 2, 0), slice(90, 100))
    unseen = {source[:2] for source in opened}
    assert len(seen) == 5 and len(unseen) == 3 and not seen & unseen


def test_every_split_shows_every_photograph_with_many_classes(renderer):
    for split, photographs, count in (("train", 8, 320), ("val", 8, 40), ("unseen", 3, 40)):
        used = Counter((i // 10 + i) % photographs for i in range(count))
        assert len(used) == photographs and max(used.values()) - min(used.values()) <= 2, split


@pytest.mark.parametrize("pair", range(5))
def test_the_second_class_of_a_pair_is_the_first_backwards(renderer, pair):
    import motion_scene

    names = list(motion_scene.CLASSES)[2 * pair : 2 * pair + 2]
    for seed in range(5):
        first, second = (motion_scene.draw_scene(np.random.default_rng(seed), name, 7, 1.5) for name in names)
        assert np.array_equal(first.camera, second.camera[::-1])
        assert np.array_equal(first.cutout, second.cutout[::-1])


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("pan_right", lambda c, o: c[-1, 0] - c[0, 0]),
        ("pan_down", lambda c, o: c[-1, 1] - c[0, 1]),
        ("zoom_in", lambda c, o: c[0, 2] - c[-1, 2]),
        ("roll_right", lambda c, o: c[-1, 3] - c[0, 3]),
        ("object_right", lambda c, o: (o[-1] - o[0])[0] * np.cos(c[0, 3]) + (o[-1] - o[0])[1] * np.sin(c[0, 3])),
    ],
)
def test_a_class_moves_as_its_name_says_and_views_stay_inside_the_photograph(renderer, name, moves):
    import motion_scene

    for seed in range(30):
        aspect = (1.0, 1.5, 0.8)[seed % 3]
        scene = motion_scene.draw_scene(np.random.default_rng(seed), name, 9, aspect)
        assert moves(scene.camera, scene.cutout) > 0.08
        if not name.startswith("object"):
            assert np.array_equal(scene.cutout, scene.cutout[:1].repeat(9, axis=0))  # lies on the photograph
        x, y, side, angle = scene.camera.T
        reach = side * (abs(np.cos(angle)) + abs(np.sin(angle))) / 2
        for centre, extent in ((x, max(aspect, 1)), (y, max(1 / aspect, 1))):
            assert (centre - reach > -1e-9).all() and (centre + reach < extent + 1e-9).all()


def test_motion_is_that_of_the_label_in_the_pixels(renderer, monkeypatch):
    """Panning right slides the scene left: frame t + 1 looks like frame t shifted by some pixels to the left."""
    for index, (dy, dx) in enumerate([(0, 1), (0, -1), (1, 0), (-1, 0)]):  # of pan_right, _left, _down, _up
        agree = 0
        for frames in capture(renderer, monkeypatch, (48, 12, 0), slice(index, 60, 10)):
            first, later = frames[4].astype(float), frames[7].astype(float)

            def error(sign: int, first=first, later=later, dy=dy, dx=dx) -> float:
                moved = np.roll(first, (-2 * sign * dy, -2 * sign * dx), axis=(0, 1))
                return abs(moved - later)[6:-6, 6:-6].mean()

            agree += error(1) < error(-1)
        assert agree >= 5  # of 6: a tilted camera over a repetitive photograph may fool so simple a measure


def test_a_complete_set_is_left_alone(renderer, rendered, capsys, monkeypatch):
    monkeypatch.setattr(renderer, "clear", lambda output: pytest.fail("a complete set was touched"))
    renderer.main(["--output", str(rendered), *ARGUMENTS])
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["no stamp", "a clip is missing", "other arguments"])
def test_what_is_incomplete_or_different_is_rendered_again(renderer, rendered, tmp_path, damage):
    folder = tmp_path / "set"
    shutil.copytree(rendered, folder)
    clip = folder / lines(folder, "val")[3][0]
    arguments = ARGUMENTS
    if damage == "no stamp":  # as after a kill: the mark of a started run, and a clip that was never finished
        (folder / renderer.STAMP).rename(folder / renderer.STARTED)
        clip.write_bytes(b"half")
    elif damage == "a clip is missing":
        clip.unlink()
    else:
        arguments = [*ARGUMENTS, "--frames", "4"]
    renderer.main(["--output", str(folder), *arguments])
    assert video_info(clip).frames == (4 if damage == "other arguments" else 6)
    assert (folder / renderer.STAMP).exists() and not (folder / renderer.STARTED).exists()


def test_a_foreign_folder_is_not_touched(renderer, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds no motion set"):
        renderer.main(["--output", str(tmp_path), *ARGUMENTS])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_package_is_named(renderer, monkeypatch, tmp_path):
    monkeypatch.setattr(renderer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install scikit-learn"):
        renderer.main(["--output", str(tmp_path / "new"), *ARGUMENTS])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("wrong", [["--clips", "50"], ["--size", "33"], ["--frames", "1"], ["--seed", "-1"]])
def test_arguments_are_checked(renderer, tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        renderer.main(["--output", str(tmp_path / "new"), *wrong])
    assert wrong[0] in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
