"""The lists in which datasets are published, and folders without lists."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter

import pytest

from diffmae_video.config.validation import CHOICES
from diffmae_video.config.validation import ORIENTED_FORMATS as ORIENTED_IN_CONFIG
from diffmae_video.data import FORMATS, NO_LABEL, ORIENTED_FORMATS, Entry, detect_format, read_manifest
from diffmae_video.data.manifests.labels import read_label_map


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def relative(entries, root):
    return [(os.path.relpath(entry.path, root), entry.label) for entry in entries]


def test_the_config_offers_the_formats_that_exist():
    assert set(CHOICES["DATA.FORMAT"]) == set(FORMATS)
    assert set(ORIENTED_FORMATS) == ORIENTED_IN_CONFIG
    with pytest.raises(ValueError, match="choose one of auto, list"):
        read_manifest(".", format="tfrecord")


# ------------------------------------------------------------------------------------------------------------ kinetics

HEADER = "label,youtube_id,time_start,time_end,split\n"
ROWS = 'abseiling,AAAAAAAAAAA,0,10,train\n"passing, a ball",-BBBBBBBBB_,417,427,train\nyoga,CCCCCCCCCCC,3,13,train\n'
VIDEOS = ["AAAAAAAAAAA_000000_000010", "-BBBBBBBBB__000417_000427", "CCCCCCCCCCC_000003_000013"]
LABELS = "id,name\n0,abseiling\n1,passing, a ball\n7,yoga\n"


@pytest.mark.parametrize("header", [HEADER, ""])
@pytest.mark.parametrize("layout", ["train/{}.mp4", "{}.mkv", "train/some_class/{}.mp4", "train/{}/000001.jpg"])
def test_official_kinetics_list(tmp_path, header, layout):
    (tmp_path / "train.csv").write_text(header + ROWS)
    (tmp_path / "labels_to_id.csv").write_text(LABELS)
    touch(tmp_path, *(layout.format(video) for video in VIDEOS))
    assert detect_format(tmp_path) == "kinetics"
    entries = read_manifest(tmp_path)
    assert [entry.label for entry in entries] == [0, 1, 7]
    assert [os.path.basename(os.path.splitext(entry.path)[0]) for entry in entries] == VIDEOS
    assert all(os.path.exists(entry.path) for entry in entries)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(tmp_path / layout.split("/")[0].format(VIDEOS[0]), moved)
    found = read_manifest(tmp_path, path_prefix=str(moved))
    assert found and all(entry.path.startswith(str(moved)) for entry in found)


def test_kinetics_videos_that_nobody_has(tmp_path, caplog):
    (tmp_path / "train.csv").write_text(HEADER + ROWS)
    (tmp_path / "names.csv").write_text(LABELS)
    options = {"labels": str(tmp_path / "names.csv")}
    with pytest.raises(ValueError, match=r"none of the 3 videos .* names such as AAAAAAAAAAA_000000_000010\.mp4"):
        read_manifest(tmp_path, **options)
    touch(tmp_path, f"train/{VIDEOS[2]}.mp4", "train/unknown_000000_000010.mp4")
    assert relative(read_manifest(tmp_path, **options), tmp_path) == [(f"train/{VIDEOS[2]}.mp4", 7)]
    assert "2 of 3 videos are not in" in caplog.text
    kept = read_manifest(tmp_path, keep_missing=True, **options)
    assert [entry.label for entry in kept] == [0, 1, 7] and kept[0].path.endswith(f"train/{VIDEOS[0]}.mp4")


def test_kinetics_class_numbers(tmp_path):
    (tmp_path / "train.csv").write_text(HEADER + ROWS)
    touch(tmp_path, *(f"{video}.mp4" for video in VIDEOS))
    with pytest.raises(ValueError, match="names 3 classes, not all of 400, 600 or 700"):
        read_manifest(tmp_path)
    (tmp_path / "few.txt").write_text("0 abseiling\n1 yoga\n")
    with pytest.raises(ValueError, match=r"few\.txt has no class 'passing, a ball'"):
        read_manifest(tmp_path, labels=str(tmp_path / "few.txt"))
    names = [f"class {number:03}" for number in range(600)]
    lines = [f"{name},{number:011},0,10,train\n" for number, name in enumerate(names)]
    (tmp_path / "train.csv").write_text(HEADER + "".join(reversed(lines)))
    touch(tmp_path, *(f"train/{number:011}_000000_000010.mp4" for number in range(600)))
    assert [entry.label for entry in read_manifest(tmp_path)] == list(reversed(range(600)))


def test_kinetics_test_list_without_labels_and_one_file_with_all_splits(tmp_path):
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nAAAAAAAAAAA,0,10,test\n")
    touch(tmp_path, f"test/{VIDEOS[0]}.mp4")
    assert relative(read_manifest(tmp_path, "test"), tmp_path) == [(f"test/{VIDEOS[0]}.mp4", NO_LABEL)]
    (tmp_path / "all.csv").write_text(HEADER + ROWS.replace("13,train", "13,validate"))
    (tmp_path / "labels_to_id.csv").write_text(LABELS)
    touch(tmp_path, *(f"all/{video}.mp4" for video in VIDEOS))
    entries = read_manifest(tmp_path / "all.csv", "val", path_prefix=str(tmp_path / "all"))
    assert relative(entries, tmp_path) == [(f"all/{VIDEOS[2]}.mp4", 7)]
    with pytest.raises(ValueError, match=r"all\.csv:3: .* is no line of an official Kinetics list"):
        (tmp_path / "all.csv").write_text(HEADER + "yoga,AAAAAAAAAAA,0,10,train\nyoga,,0,10,train\n")
        read_manifest(tmp_path / "all.csv")


# ---------------------------------------------------------------------------------------------- Something-Something V2

TEMPLATES = {"Holding something": "0", "Pushing something from left to right": "1"}
ITEMS = [
    {"id": "78687", "label": "holding a potato", "template": "Holding [something]", "placeholders": ["a potato"]},
    {"id": "9", "label": "pushing a cup", "template": "Pushing [something] from left to right"},
]


def official_ssv2(root, prefix="", folder="."):
    (root / folder).mkdir(exist_ok=True)
    for name, content in (("labels", TEMPLATES), ("train", ITEMS), ("validation", ITEMS[1:]), ("test", [{"id": "5"}])):
        (root / folder / f"{prefix}{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
@pytest.mark.parametrize("folder", [".", "labels"])
@pytest.mark.parametrize("videos", ["videos/{}.webm", "20bn-something-something-v2/{}.webm", "{}.mp4"])
def test_official_ssv2_lists(tmp_path, prefix, folder, videos):
    official_ssv2(tmp_path, prefix, folder)
    touch(tmp_path, *(videos.format(number) for number in (78687, 9, 5)))
    assert detect_format(tmp_path) == "ssv2"
    assert relative(read_manifest(tmp_path), tmp_path) == [(videos.format(78687), 0), (videos.format(9), 1)]
    assert relative(read_manifest(tmp_path, "val"), tmp_path) == [(videos.format(9), 1)]
    assert relative(read_manifest(tmp_path, "test"), tmp_path) == [(videos.format(5), NO_LABEL)]


def test_ssv2_elsewhere_missing_and_as_frames(tmp_path):
    official_ssv2(tmp_path)
    assert relative(read_manifest(tmp_path), tmp_path) == [("78687.webm", 0), ("9.webm", 1)], "missing: kept, and named"
    touch(tmp_path, "frames/78687/000001.jpg", "frames/9/000001.jpg")
    assert relative(read_manifest(tmp_path), tmp_path) == [("frames/78687", 0), ("frames/9", 1)]
    assert read_manifest(tmp_path, path_prefix="/data/ssv2")[0] == Entry("/data/ssv2/78687.webm", 0)
    (tmp_path / "test-answers.csv").write_text("5;Holding something\n")
    assert read_manifest(tmp_path, "test")[0].label == 0
    with pytest.raises(ValueError, match="has no class 'Holding something'"):
        (tmp_path / "labels.json").write_text(json.dumps({"Pushing something": "0"}))
        read_manifest(tmp_path)
    (tmp_path / "labels.json").unlink()
    assert {entry.label for entry in read_manifest(tmp_path)} == {NO_LABEL}
    with pytest.raises(ValueError, match="no Something-Something list"):
        (tmp_path / "train.json").write_text('{"a": 1}')
        read_manifest(tmp_path)
    (tmp_path / "train.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"found: .*validation\.json, .*test\.json"):
        read_manifest(tmp_path)


# -------------------------------------------------------------------------------------------------- UCF101 and HMDB51


def official_ucf101(folder):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\n101 YoYo\n")
    lines = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "YoYo/v_YoYo_g09_c01.avi 101"]
    (folder / "trainlist01.txt").write_text("\n".join(lines))
    (folder / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\r\n")
    (folder / "trainlist02.txt").write_text("Archery/v_Archery_g01_c01.avi 2\n")


@pytest.mark.parametrize("lists", [".", "ucfTrainTestlist"])
@pytest.mark.parametrize("shape", ["UCF-101/{folder}/{stem}.avi", "{stem}.avi", "{folder}/{stem}.mp4"])
def test_ucf101_splits(tmp_path, lists, shape):
    official_ucf101(tmp_path / lists)
    stems = {"v_ApplyEyeMakeup_g08_c01": 0, "v_YoYo_g09_c01": 100, "v_Archery_g01_c01": 1}
    paths = {stem: shape.format(folder=stem.split("_")[1], stem=stem) for stem in stems}
    touch(tmp_path, *paths.values())
    assert detect_format(tmp_path) == "ucf101"
    wanted = [(path, stems[stem]) for stem, path in paths.items()]
    assert relative(read_manifest(tmp_path), tmp_path) == wanted[:2]
    assert relative(read_manifest(tmp_path, "val"), tmp_path) == wanted[2:]
    assert relative(read_manifest(tmp_path, fold=2), tmp_path) == wanted[2:]
    with pytest.raises(FileNotFoundError, match=r"trainlist03\.txt does not exist"):
        read_manifest(tmp_path, fold=3)


def test_ucf101_errors(tmp_path):
    official_ucf101(tmp_path)
    with pytest.raises(ValueError, match="is one of the lists of ucf101: give their folder"):
        read_manifest(tmp_path / "trainlist01.txt")
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g01_c01.avi 3\n")  # not its number
    with pytest.raises(ValueError, match=r"trainlist01\.txt:1"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("lists", [".", "testTrainMulti_7030_splits"])
def test_hmdb51_splits(tmp_path, lists):
    (tmp_path / lists).mkdir(exist_ok=True)
    for name in ("brush_hair", "wave"):
        text = f"a {name}.avi 1 \nb#[_{name}.avi 2 \nc_{name}.avi 0 \n"
        (tmp_path / lists / f"{name}_test_split1.txt").write_text(text)
    touch(tmp_path, "hmdb51_org/brush_hair/a brush_hair.avi", "hmdb51_org/wave/b#[_wave.avi")
    assert detect_format(tmp_path) == "hmdb51"
    train = relative(read_manifest(tmp_path), tmp_path)
    assert train == [("hmdb51_org/brush_hair/a brush_hair.avi", 0), ("hmdb51_org/wave/a wave.avi", 1)]
    assert relative(read_manifest(tmp_path, "test"), tmp_path)[1] == ("hmdb51_org/wave/b#[_wave.avi", 1)
    with pytest.raises(FileNotFoundError, match="test_split2"):
        read_manifest(tmp_path, fold=2)
    with pytest.raises(ValueError, match="expected a file name and 0, 1 or 2"):
        (tmp_path / lists / "wave_test_split1.txt").write_text("a.avi 3\n")
        read_manifest(tmp_path)


# ------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_per_class(tmp_path):
    touch(tmp_path, "train/dog/n_1.JPEG", "train/cat/n_10.JPEG", "train/cat/n_7.JPEG", "val/dog/n_3.JPEG")
    assert detect_format(tmp_path) == "class_folders"
    assert relative(read_manifest(tmp_path), tmp_path / "train") == [
        ("cat/n_10.JPEG", 0), ("cat/n_7.JPEG", 0), ("dog/n_1.JPEG", 1),
    ]  # fmt: skip
    assert relative(read_manifest(tmp_path, "val", format="class_folders"), tmp_path) == [("val/dog/n_3.JPEG", 1)]
    with pytest.raises(FileNotFoundError, match="has no folder test, only train, val"):
        read_manifest(tmp_path, "test")
    (tmp_path / "names.json").write_text('{"cat": 5, "dog": 3, "cow": 1}')
    labels = [entry.label for entry in read_manifest(tmp_path, labels=str(tmp_path / "names.json"))]
    assert labels == [5, 5, 3]
    touch(tmp_path, "val/fish/n_1.JPEG")
    with pytest.raises(ValueError, match="has no class 'fish'"):
        read_manifest(tmp_path, "val")


def test_folders_that_are_no_classes(tmp_path):
    touch(tmp_path, "one/a.mp4")
    assert relative(read_manifest(tmp_path), tmp_path) == [("one/a.mp4", NO_LABEL)], "a single class is none"
    touch(tmp_path, "train/a.mp4", "train/b/c.mp4", "val/d.mp4")
    assert relative(read_manifest(tmp_path), tmp_path) == [("train/a.mp4", NO_LABEL), ("train/b/c.mp4", NO_LABEL)]
    assert relative(read_manifest(tmp_path, "val"), tmp_path) == [("val/d.mp4", NO_LABEL)]


def test_numbered_images_are_not_guessed_at(tmp_path):
    names = [f"{video}/img_{number:05}.jpg" for video in ("a", "b") for number in range(1, 5)]
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match='"frames".*"class_frames".*"class_folders".*"folder"'):
        read_manifest(tmp_path)
    assert relative(read_manifest(tmp_path, format="frames"), tmp_path) == [("a", NO_LABEL), ("b", NO_LABEL)]
    assert len(read_manifest(tmp_path, format="folder")) == 8
    assert [entry.label for entry in read_manifest(tmp_path, format="class_folders")] == [0] * 4 + [1] * 4
    for name in ("a", "b"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        shutil.move(tmp_path / name, tmp_path / "classes" / name / "video")
    with pytest.raises(ValueError, match="numbered images"):
        detect_format(tmp_path / "classes")
    found = read_manifest(tmp_path / "classes", format="class_frames")
    assert relative(found, tmp_path / "classes") == [("a/video", 0), ("b/video", 1)]


def test_frame_list(tmp_path):
    (tmp_path / "train.csv").write_text("12_a 0 50 19\n7 0 47 141\n")
    assert detect_format(tmp_path) == "frame_list"
    assert relative(read_manifest(tmp_path), tmp_path) == [("12_a", 19), ("7", 141)]
    touch(tmp_path, "7.webm")
    assert relative(read_manifest(tmp_path), tmp_path) == [("12_a.webm", 19), ("7.webm", 141)]
    with pytest.raises(ValueError, match=r"train\.csv:2: '7 5 47 141'"):
        (tmp_path / "train.csv").write_text("12_a 0 50 19\n7 5 47 141\n")
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["id,name\n0,a b\n1,c\n", "0 a b\n1 c", "#0 a b\r\n#1 c\r\n", "name,id\na b,0\nc,1\n", "a b\nc\n", '0,"a b"\n1,c'],
)
def test_label_maps(tmp_path, text):
    (tmp_path / "map.csv").write_text(text)
    assert read_label_map(tmp_path / "map.csv") == {"a b": 0, "c": 1}


@pytest.mark.parametrize("text", ["0 a\n0 b\n", "0 a\n1 a\n", "", '{"a": "x"}', "0 a\nb\n2 c\n"])
def test_bad_label_maps(tmp_path, text):
    file = tmp_path / ("map.json" if text.startswith("{") else "map.txt")
    file.write_text(text)
    with pytest.raises(ValueError, match="map"):
        read_label_map(file)


# ------------------------------------------------------------------------------------------------------------ real data


def test_every_published_list_at_hand(research_data, tmp_path):
    lists = research_data / "annotations"
    kinetics, ssv2 = lists / "kinetics400", lists / "ssv2"
    official = kinetics / "val_label_youtubeid_start_end.csv"
    with open(official, newline="") as file:
        rows = list(csv.reader(file))
    touch(tmp_path, *(f"{row[1]}_{int(row[2]):06}_{int(row[3]):06}.mp4" for row in rows[::3]))
    labels = str(kinetics / "labels_to_id.csv")
    entries = read_manifest(official, "val", str(tmp_path), labels=labels)
    assert len(entries) == len(rows[::3]) and {entry.label for entry in entries} == set(range(400))
    assert entries == read_manifest(official, "val", str(tmp_path)), "the same as in alphabetical order"
    with pytest.raises(ValueError, match="has no class 'waxing legs'"):  # it has a class "label" in its place
        read_manifest(official, "val", str(tmp_path), labels=str(kinetics / "map-k400-class.csv"))

    names = read_label_map(kinetics / "labels_to_id.csv")
    processed = read_manifest(kinetics / "valid_processed_clipname_0_last_label.txt")
    clips = {os.path.basename(entry.path): entry.label for entry in processed}
    assert len(clips) == 19_877 and set(clips.values()) == set(range(400))
    labelled = {f"{row[1]}_{int(row[2]):06}_{int(row[3]):06}": names[row[0]] for row in rows}
    shared = [name for name in clips if name in labelled]
    assert len(shared) > 10_000 and all(clips[name] == labelled[name] for name in shared)

    for name, count in (("train", 168_913), ("validation", 24_777)):
        entries = read_manifest(ssv2 / f"{name}-processed_id_0_last_label.txt")
        assert len(entries) == count and {entry.label for entry in entries} == set(range(174))
    subset = read_manifest(ssv2 / "template_to_video_ids_subset.json")
    assert len(subset) > 1000 and len({entry.path for entry in subset}) == len(subset)


def test_small_image_set_and_class_folders_at_hand(research_data):
    assert detect_format(research_data / "cifar10-small") == "class_folders"
    train, test = (read_manifest(research_data / "cifar10-small", split) for split in ("train", "test"))
    assert Counter(entry.label for entry in train) == dict.fromkeys(range(10), 300)
    assert Counter(entry.label for entry in test) == dict.fromkeys(range(10), 60)
    assert detect_format(research_data / "ut-interaction") == "class_folders"
    assert len(read_manifest(research_data / "ut-interaction")) == 96
