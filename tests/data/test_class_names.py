from __future__ import annotations

import json

import pytest

from diffmae_video.data import read_class_names, read_manifest


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_class_folders(tmp_path):
    touch(tmp_path, "train/run/a.mp4", "train/jump/a.mp4", "train/sit/a.mp4", "val/run/b.mp4")
    names = read_class_names(tmp_path)
    assert names == ["jump", "run", "sit"]
    (entry,) = read_manifest(tmp_path, "val", format="class_folders")
    assert names[entry.label] == "run"
    assert read_class_names(tmp_path, "class_folders", num_classes=5) == ["jump", "run", "sit", "3", "4"]
    with pytest.raises(ValueError, match="2 classes, but its list names class 2: sit"):
        read_class_names(tmp_path, num_classes=2)


def test_a_file_of_names_goes_first(tmp_path):
    touch(tmp_path, "train/run/a.mp4", "train/jump/a.mp4")
    (tmp_path / "names.txt").write_text("0 run\n2 jump\n")
    assert read_class_names(tmp_path, labels=str(tmp_path / "names.txt")) == ["run", "1", "jump"]


def test_plain_lists_have_numbers(sample_videos, tmp_path):
    assert read_class_names(sample_videos, "auto", num_classes=2) == ["0", "1"]
    assert read_class_names(sample_videos) == []
    (tmp_path / "names.json").write_text('["right", "down"]')
    assert read_class_names(sample_videos, labels=str(tmp_path / "names.json")) == ["right", "down"]


def test_a_set_that_has_only_a_test_list(sample_videos, tmp_path):
    (tmp_path / "val.csv").write_text((sample_videos / "val.csv").read_text())
    assert read_class_names(tmp_path, num_classes=2) == ["0", "1"]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_class_names(tmp_path / "gone")


def test_kinetics(tmp_path):
    rows = "".join(f"class {number:03},AAAAAAAAAAA,{number},{number + 10},train\n" for number in reversed(range(400)))
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end,split\n" + rows)
    assert read_class_names(tmp_path) == [f"class {number:03}" for number in range(400)]
    assert read_class_names(tmp_path / "train.csv", "kinetics")[7] == "class 007"
    (tmp_path / "labels_to_id.csv").write_text("id,name\n1,class 000\n0,class 001\n")
    assert read_class_names(tmp_path) == ["class 001", "class 000"]
    (tmp_path / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match="no train.csv"):
        read_class_names(tmp_path, "kinetics")


def test_ssv2_ucf101_hmdb51(tmp_path):
    ssv2, ucf101, hmdb51 = (tmp_path / name for name in ("ssv2", "ucf101", "hmdb51"))
    touch(ucf101, "trainlist01.txt")
    touch(hmdb51, *(f"{name}_test_split{fold}.txt" for name in ("wave", "clap") for fold in (1, 2)))
    ssv2.mkdir()
    (ssv2 / "train.json").write_text(json.dumps([{"id": "1", "template": "Holding [something]"}]))
    assert read_class_names(ssv2) == []
    (ssv2 / "labels.json").write_text('{"Holding something": "1", "Dropping something": "0"}')
    (ucf101 / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    assert read_class_names(ssv2) == ["Dropping something", "Holding something"]
    assert read_class_names(ucf101) == ["Archery", "Biking"]
    assert read_class_names(hmdb51) == ["clap", "wave"]
    (ssv2 / "train.json").rename(ssv2 / "validation.json")
    assert read_class_names(ssv2) == read_class_names(ssv2, "ssv2") == ["Dropping something", "Holding something"]
    with pytest.raises(ValueError, match="unknown format"):
        read_class_names(ssv2, "tfrecord")
