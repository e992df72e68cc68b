from __future__ import annotations

import csv
import os

import pytest

from diffmae_video.data import NO_LABEL, Entry, read_manifest


def read(tmp_path, text, **options):
    (tmp_path / "list.csv").write_text(text)
    return read_manifest(tmp_path / "list.csv", **options)


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4 3", "a.mp4", 3),
        ("a.mp4,3", "a.mp4", 3),
        ("a.mp4, 3", "a.mp4", 3),
        ("a.mp4\t3", "a.mp4", 3),
        ("a.mp4;3", "a.mp4", 3),
        ("  a.mp4   3  ", "a.mp4", 3),
        ("my videos/a b.mp4 3", "my videos/a b.mp4", 3),
        ("my videos/a, b.mp4 12", "my videos/a, b.mp4", 12),
        ("my videos/a, b.mp4\t12", "my videos/a, b.mp4", 12),
        ('"my videos/a, 1.mp4",12', "my videos/a, 1.mp4", 12),
        ("'a b.mp4' 0", "a b.mp4", 0),
        ("a.mp4", "a.mp4", NO_LABEL),
        ("a.mp4,", "a.mp4", NO_LABEL),
        ("a.mp4 -1", "a.mp4", NO_LABEL),
        ('"a b.mp4"', "a b.mp4", NO_LABEL),
        ("take 2.mp4", "take 2.mp4", NO_LABEL),
        ("élan/видео.webm 7", "élan/видео.webm", 7),
        ("cat.jpg 1", "cat.jpg", 1),
    ],
)
def test_one_line(tmp_path, line, path, label):
    assert read(tmp_path, line + "\n") == [Entry(str(tmp_path / path), label)]


def test_header_comments_and_empty_lines(tmp_path):
    for header in ("path label", "path,label", "Video_Path\tLabel", '"path";"label"'):
        text = f"\ufeff# made today\n\n{header}\n/data/a.mp4 1\n   \nb.mp4 2\n# end"
        assert read(tmp_path, text) == [Entry("/data/a.mp4", 1), Entry(str(tmp_path / "b.mp4"), 2)]


def test_path_prefix(tmp_path):
    entries = read(tmp_path, "a.mp4 1\n/abs/b.mp4 2\n", path_prefix="/videos")
    assert entries == [Entry("/videos/a.mp4", 1), Entry("/abs/b.mp4", 2)]


@pytest.mark.parametrize("bad", ["abseiling,p1VKQa4N-hg,0,10,validate", "78687 0 50 19", "7", ",3"])
def test_a_bad_line_is_named(tmp_path, bad):
    with pytest.raises(ValueError, match=r"list\.csv:3: .* does not name a file"):
        read(tmp_path, f"a.mp4 1\n\n{bad}\n")


def test_empty_list(tmp_path):
    with pytest.raises(ValueError, match=r"list\.csv lists no video"):
        read(tmp_path, "# nothing\n")


def test_folder_with_splits(sample_videos):
    train, val = read_manifest(sample_videos, "train"), read_manifest(sample_videos, "val")
    assert [entry.label for entry in train] == [0, 1, 0, 1, 0, 1] and len(val) == 2
    assert all(os.path.isfile(entry.path) for entry in train + val)
    with pytest.raises(FileNotFoundError, match=r"has no test\.csv, only train\.csv, val\.csv"):
        read_manifest(sample_videos, "test")


def test_folder_of_media(tmp_path):
    for name in ("b.MP4", "a/z.webm", "a/photo.jpeg", ".hidden.mp4", ".trash/c.mp4", "notes.txt", "a/b/c.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_manifest(tmp_path)
    assert [os.path.relpath(entry.path, tmp_path) for entry in found] == [
        "a/b/c.avi",
        "a/photo.jpeg",
        "a/z.webm",
        "b.MP4",
    ]
    assert {entry.label for entry in found} == {NO_LABEL}


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        read_manifest(tmp_path / "no_such_folder")
    with pytest.raises(ValueError, match="holds no train.csv and no video or image"):
        read_manifest(tmp_path)


def test_a_quarter_million_lines_are_read_without_looking_at_the_files(tmp_path, monkeypatch):
    """That many looks at a network file system would take minutes."""
    (tmp_path / "train.csv").write_text(
        "".join(f"train/class {i % 400}/{i:08}.mp4 {i % 400}\n" for i in range(240_000))
    )
    looks, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda *given, **options: looks.append(given) or stat(*given, **options))
    entries = read_manifest(tmp_path)
    assert len(entries) == 240_000 and entries[401].label == 1
    assert len(looks) < 100


def test_kinetics_and_ssv2_lists(research_data, tmp_path):
    """The field's own lists, in the form that this project reads: every video once, every class in its range."""
    lists = research_data / "annotations"
    with open(lists / "kinetics400" / "labels_to_id.csv", newline="") as file:
        classes = {row["name"]: int(row["id"]) for row in csv.DictReader(file)}
    lines = []
    with open(lists / "kinetics400" / "val_label_youtubeid_start_end.csv", newline="") as file:
        for name, video, start, end, _ in csv.reader(file):
            if name in classes:
                lines.append(f"val/{name}/{video}_{int(start):06}_{int(end):06}.mp4 {classes[name]}\n")
    (tmp_path / "val.csv").write_text("".join(lines))
    entries = read_manifest(tmp_path, "val")
    assert len(entries) == len(lines) > 10_000 and {entry.label for entry in entries} == set(range(400))
    assert all(entry.path.startswith(str(tmp_path / "val")) and entry.path.endswith(".mp4") for entry in entries)

    with open(lists / "ssv2" / "validation-processed_id_0_last_label.txt") as file:
        rows = [line.split() for line in file]
    (tmp_path / "val.csv").write_text("".join(f"{row[0]}.webm,{row[3]}\n" for row in rows))
    entries = read_manifest(tmp_path, "val")
    assert [entry.label for entry in entries] == [int(row[3]) for row in rows]
    assert 0 <= min(entry.label for entry in entries) and max(entry.label for entry in entries) == 173
