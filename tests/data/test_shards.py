"""Tar shards: written from real files, read frame for frame, in an order that loses nothing, damaged in every way."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmae_video.data import (
    ClipDataset,
    DrawSampler,
    Entry,
    UnreadableVideo,
    make_loader,
    read_frames,
    read_manifest,
    video_info,
)
from diffmae_video.data.packed import packed_path, parse_packed, shard_of
from diffmae_video.data.shard_index import SCANNED_INDEX, ShardError
from diffmae_video.data.shards import UNFINISHED, ShardOrder, read_shards, shard_order

DATASETS = Path(__file__).parents[2] / "datasets"


@pytest.fixture(scope="module")
def writer():
    """The script as a module; its folder stays off the path, and its names out of the way of other tests."""
    names = {"write_shards", "shard_writing"}
    sys.path.insert(0, str(DATASETS))
    try:
        import write_shards

        yield write_shards
    finally:
        sys.path.remove(str(DATASETS))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def media(tmp_path_factory, numbered_videos, images) -> Path:
    """A list of 30 files: videos of every codec and images, some several times under other names; labels 0 to 29."""
    folder = tmp_path_factory.mktemp("media")
    files = [*numbered_videos.values(), *images.values()]
    lines = []
    for number, file in zip(range(30), itertools.cycle(files)):
        name = f"number {number}.{file.suffix.lstrip('.')}"
        shutil.copy(file, folder / name)
        lines.append(f"{name},{number}\n")
    (folder / "train.csv").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def shards(writer, media, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "set"
    assert writer.main(["--input", str(media), "--output", str(folder), "--max-count", "4"]) == 0
    return folder


@pytest.fixture
def copied(shards, tmp_path) -> Path:
    """Shards to damage."""
    return Path(shutil.copytree(shards, tmp_path / "copied"))


def originals(media: Path) -> dict[int, str]:
    return {entry.label: entry.path for entry in read_manifest(media)}


# ------------------------------------------------------------------------------------------------------------- reading


def test_every_file_is_there_once_with_its_label_and_frames(shards, media, numbers_of):
    entries = read_manifest(shards)
    paths = originals(media)
    assert sorted(entry.label for entry in entries) == list(range(30))
    assert [entry.label for entry in entries] != list(range(30)), "packed in the order of the list"
    assert len({shard_of(entry.path) for entry in entries}) == 8
    for entry in entries:
        path = paths[entry.label]
        assert Path(entry.path).suffix == Path(path).suffix
        info = video_info(entry.path)
        assert info == video_info(path)
        numbers = sorted({0, info.frames // 3, info.frames - 1})
        for backend in ("auto", "pyav"):
            frames = read_frames(entry.path, numbers, backend)
            assert np.array_equal(frames, read_frames(path, numbers, backend))
        if info.frames == 90:
            assert numbers_of(frames) == numbers


def test_decord_reads_from_memory_what_it_reads_from_a_file(shards, media):
    paths, compared = originals(media), 0
    for entry in read_manifest(shards):
        try:
            expected = read_frames(paths[entry.label], [3, 50], "decord")
        except (UnreadableVideo, IndexError):
            continue
        assert np.array_equal(read_frames(entry.path, [3, 50], "decord"), expected)
        compared += 1
    assert compared >= 6


def test_packed_paths():
    path = packed_path("/data/a.tar", 512, 7, "folder/clip.mp4")
    assert path == "/data/a.tar@512+7/folder/clip.mp4"
    assert parse_packed(path) == ("/data/a.tar", 512, 7, "folder/clip.mp4")
    assert packed_path("a.tar", 512, 7, "../../etc/x.jpg") == "a.tar@512+7/etc/x.jpg"
    assert parse_packed("/data/a.tar") is parse_packed("/data/a.mp4") is parse_packed("/data/a.tar@1/b.mp4") is None
    assert shard_of(path) == "/data/a.tar" and shard_of("/data/a.mp4") == ""


def test_one_folder_per_split_or_splits_in_the_names(copied, tmp_path):
    (tmp_path / "both").mkdir()
    shutil.copytree(copied, tmp_path / "both" / "train")
    assert len(read_manifest(tmp_path / "both", "train")) == 30
    named = tmp_path / "named"
    named.mkdir()
    for number, name in enumerate(["set-train-000000.tar", "set-train-000001.tar", "set-validation-000000.tar"]):
        shutil.copy(copied / f"shard-00000{number}.tar", named / name)
    assert len(read_manifest(named, "train")) == 8 and len(read_manifest(named, "val")) == 4
    with pytest.raises(FileNotFoundError, match="'test'"):
        read_manifest(named, "test")
    assert len(read_manifest(named / "set-train-000000.tar")) == 4


# ------------------------------------------------------------------------------------------------------------- writing


def write(writer, source: Path, output: Path, *more: str) -> int:
    return writer.main(["--input", str(source), "--output", str(output), "--max-count", "4", *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.tar")}


def test_the_output_depends_on_the_arguments_alone(writer, shards, media, tmp_path, capsys):
    assert write(writer, media, tmp_path / "again", "--threads", "2") == 0
    assert contents(tmp_path / "again") == contents(shards)
    assert write(writer, media, tmp_path / "other", "--shuffle", "1") == 0
    assert contents(tmp_path / "other") != contents(shards)
    assert write(writer, media, tmp_path / "list", "--shuffle", "none", "--prefix", "abc") == 0
    assert [entry.label for entry in read_manifest(tmp_path / "list")] == list(range(30))
    assert (tmp_path / "list" / "abc-000007.tar").exists()
    assert write(writer, media, tmp_path / "again") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_size_limits(writer, media, tmp_path):
    assert write(writer, media, tmp_path / "small", "--max-size", "60K", "--max-count", "100") == 0
    index = json.loads((tmp_path / "small" / "index.json").read_text())
    assert len(index["shards"]) > 3
    for shard in index["shards"]:
        assert sum(shard["bytes"]) <= 60 << 10 or len(shard["bytes"]) == 1
        assert (tmp_path / "small" / shard["name"]).stat().st_size == shard["size"]


def test_shards_can_be_packed_anew(writer, shards, media, tmp_path):
    assert write(writer, shards, tmp_path / "anew", "--max-count", "11") == 0
    paths = originals(media)
    for entry in read_manifest(tmp_path / "anew"):
        packed = parse_packed(entry.path)
        with open(packed.shard, "rb") as shard:
            shard.seek(packed.offset)
            assert shard.read(packed.size) == Path(paths[entry.label]).read_bytes()


def test_files_that_cannot_be_read_are_named_and_left_out(writer, media, damaged_videos, tmp_path, capsys):
    good = originals(media)
    bad = ["missing.mp4", damaged_videos["empty.mp4"], damaged_videos["folder.mp4"]]
    undecodable = [damaged_videos["zeros.mp4"], damaged_videos["cut_short.mp4"], damaged_videos["picture.jpg"]]
    files = [good[0], bad[0], bad[1], good[3], *undecodable, bad[2]]
    (tmp_path / "list.csv").write_text("".join(f"{file},{number}\n" for number, file in enumerate(files)))
    assert write(writer, tmp_path / "list.csv", tmp_path / "plain") == 0
    errors = capsys.readouterr().err
    assert all(f"left out: {file}" in errors.replace(f"{tmp_path}/", "") for file in bad)
    assert sorted(entry.label for entry in read_manifest(tmp_path / "plain")) == [0, 3, 4, 5, 6]
    assert len(json.loads((tmp_path / "plain" / "index.json").read_text())["left_out"]) == 3

    assert write(writer, tmp_path / "list.csv", tmp_path / "verified", "--verify") == 0
    errors = capsys.readouterr().err
    assert all(str(file) in errors for file in undecodable)
    assert sorted(entry.label for entry in read_manifest(tmp_path / "verified")) == [0, 3]

    (tmp_path / "bad.csv").write_text("".join(f"{file}\n" for file in bad))
    assert write(writer, tmp_path / "bad.csv", tmp_path / "nothing") == 2
    assert "none of the 3 files" in capsys.readouterr().err


def test_unlabelled_files_have_no_label_member(writer, media, tmp_path):
    (tmp_path / "list.csv").write_text("".join(f"{path}\n" for path in originals(media).values()))
    assert write(writer, tmp_path / "list.csv", tmp_path / "out") == 0
    assert {entry.label for entry in read_manifest(tmp_path / "out")} == {-1}
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert not [name for name in tar.getnames() if name.endswith(".cls")]


def test_an_interrupted_command_goes_on_where_it_was(writer, shards, media, tmp_path, monkeypatch):
    output, whole = tmp_path / "out", writer.write_shard

    def interrupted(file, *arguments):
        if file.name == "shard-000003.tar":
            raise KeyboardInterrupt
        return whole(file, *arguments)

    monkeypatch.setattr(writer, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(writer, media, output)
    assert (output / UNFINISHED).exists() and len(contents(output)) == 3
    with pytest.raises(ShardError, match="unfinished"):
        read_manifest(output)
    assert writer.main(["--check", str(output)]) == 2
    first = {file.name: file.stat().st_mtime_ns for file in output.glob("*.tar")}
    monkeypatch.setattr(writer, "write_shard", whole)
    assert write(writer, media, output) == 0
    assert contents(output) == contents(shards)
    assert all((output / name).stat().st_mtime_ns == time for name, time in first.items())
    assert {file.name for file in output.iterdir()} == {"index.json", *contents(output)}


def test_a_lost_shard_is_written_again_and_no_other(writer, copied, media):
    before = contents(copied)
    (copied / "shard-000005.tar").unlink()
    first = {file.name: file.stat().st_mtime_ns for file in copied.glob("*.tar")}
    assert write(writer, media, copied) == 0
    assert contents(copied) == before
    assert all((copied / name).stat().st_mtime_ns == time for name, time in first.items())


def test_shards_of_another_list_are_never_mixed_or_overwritten(writer, copied, media, capsys):
    before = contents(copied)
    for more in (["--shuffle", "3"], ["--max-count", "7"], ["--prefix", "other"]):
        assert write(writer, media, copied, *more) == 2
        assert "another list or other arguments" in capsys.readouterr().err
    (copied / "index.json").unlink()
    assert write(writer, media, copied) == 2
    assert contents(copied) == before


def test_check(writer, copied, capsys):
    assert writer.main(["--check", str(copied)]) == 0
    assert "30 files in 8 shards are as written" in capsys.readouterr().out
    entry = parse_packed(read_manifest(copied)[9].path)
    with open(entry.shard, "r+b") as shard:
        shard.seek(entry.offset + entry.size // 2)
        byte = shard.read(1)[0]
        shard.seek(-1, os.SEEK_CUR)
        shard.write(bytes([byte ^ 16]))
    (copied / "shard-000006.tar").unlink()
    (copied / "stranger.tar").write_bytes(b"")
    assert writer.main(["--check", str(copied)]) == 1
    report = capsys.readouterr().out
    assert report.count("is damaged") == 1 and f"{entry.name} is damaged" in report
    assert "shard-000006.tar: is missing, with 4 files" in report and "stranger.tar: not in the index" in report
    assert writer.main(["--check", str(copied / "nowhere")]) == 2


# -------------------------------------------------------------------------------------------------------------- damage


def clips(entries: list[Entry], **options) -> ClipDataset:
    return ClipDataset(entries, **({"num_frames": 2, "sampling_rate": 4, "crop_size": 16, "seed": 3} | options))


def test_a_missing_shard_is_named_at_the_start(copied):
    (copied / "shard-000002.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 8 shards .* shard-000002\.tar"):
        read_manifest(copied)


def test_a_truncated_shard_costs_only_the_samples_after_the_cut(copied, caplog):
    whole = read_manifest(copied)
    shard = copied / "shard-000001.tar"
    cut = parse_packed(whole[6].path)  # the third sample of the second shard
    os.truncate(shard, cut.offset + cut.size // 2)
    with caplog.at_level(logging.WARNING):
        entries = read_manifest(copied)
    assert "shard-000001.tar is truncated" in caplog.text and "2 of its 4 samples" in caplog.text
    assert entries == whole
    lost = {entries[6].path, entries[7].path}
    batches = itertools.islice(make_loader(clips(entries), DrawSampler(30, 5), num_workers=0), 6)
    failures = {path for batch in batches for path, _ in batch.failures}
    assert failures == lost
    with pytest.raises(UnreadableVideo, match="truncated"):
        clips(entries, train=False)[(0, 6)]


def test_a_shard_that_disappears_or_is_replaced_is_noticed_when_read(copied):
    entries = read_manifest(copied)
    dataset = clips(entries)
    shutil.copy(copied / "shard-000001.tar", copied / "shard-000000.tar")
    assert "replaced after indexing" in dataset[(0, 1)].failures[0][1]
    (copied / "shard-000000.tar").unlink()
    assert "no such shard" in dataset[(1, 0)].failures[0][1] or "no such video" in dataset[(1, 0)].failures[0][1]


def test_wrong_indices(copied, tmp_path):
    (copied / "stranger.tar").write_bytes(bytes(1024))
    with pytest.raises(ShardError, match=r"does not list: stranger\.tar"):
        read_manifest(copied)
    (copied / "stranger.tar").unlink()
    with open(copied / "shard-000004.tar", "ab") as shard:
        shard.write(bytes(512))
    with pytest.raises(ShardError, match=r"not the shards .* shard-000004\.tar"):
        read_manifest(copied)
    text = (copied / "index.json").read_text()
    other_format, other_columns = text.replace('"format":1', '"format":9'), text.replace('"label":[', '"lab":[')
    for wrong in (text[: len(text) // 2], other_format, other_columns):
        (copied / "index.json").write_text(wrong)
        with pytest.raises(ShardError, match=r"index\.json"):
            read_manifest(copied)


# --------------------------------------------------------------------------------------------- shards made by others


def make_tar(file: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def test_members_with_hostile_names_are_read_but_never_extracted(images, tmp_path):
    content = images["png"].read_bytes()
    (tmp_path / "deep" / "set").mkdir(parents=True)
    long = "long/" * 60 + "name.png"
    names = ["../../outside.png", "/absolute.png", "./here.png", long, "with space@9+9/x.png"]
    make_tar(tmp_path / "deep" / "set" / "a.tar", [(name, content) for name in names])
    with tarfile.open(tmp_path / "deep" / "set" / "a.tar", "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    entries = read_manifest(tmp_path / "deep" / "set")
    assert len(entries) == len(names)
    expected = read_frames(images["png"], [0])
    assert all(np.array_equal(read_frames(entry.path, [0]), expected) for entry in entries)
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == ["deep/set/a.tar", f"deep/set/{SCANNED_INDEX}"]


def test_shards_without_an_index_are_scanned_once(images, tmp_path, monkeypatch):
    folder, cache = tmp_path / "set", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    png, jpg = images["png"].read_bytes(), images["jpg"].read_bytes()
    two = [("1.jpg", jpg), ("1.cls", b"7\n"), ("2.cls", b"8"), ("2.seg.png", png), ("2.txt", b"x")]
    four = [("dir.d/3.JPEG", jpg), ("dir.d/3.json", b"{}"), ("dir.d/4.cls", b"?"), ("dir.d/4.PNG", png)]
    make_tar(folder / "b.tar", two)
    make_tar(folder / "a.tar", four)
    entries = read_manifest(folder)
    assert [entry.label for entry in entries] == [-1, -1, 7, 8]
    assert all(read_frames(entry.path, [0]).shape == (1, 64, 96, 3) for entry in entries)

    import diffmae_video.data.shard_index as module

    scanned = []
    scan = module.scan_shard
    monkeypatch.setattr(module, "scan_shard", lambda file: scanned.append(file.name) or scan(file))
    assert read_manifest(folder) == entries and not scanned
    make_tar(folder / "c.tar", [("5.jpg", jpg)])
    assert len(read_manifest(folder)) == 5 and scanned == ["c.tar"]
    (folder / SCANNED_INDEX).write_text("{")
    assert len(read_manifest(folder)) == 5 and len(scanned) == 4

    def refuse(file, *arguments, **more):
        if file.parent == folder:
            raise PermissionError(13, "Permission denied")
        return write_index(file, *arguments, **more)

    write_index = module.write_index
    monkeypatch.setattr(module, "write_index", refuse)
    (folder / SCANNED_INDEX).unlink()
    assert len(read_manifest(folder)) == 5 and len(scanned) == 7
    assert len(read_manifest(folder)) == 5 and len(scanned) == 7, "not found in the cache"
    assert len(list(cache.rglob("*.json"))) == 1


def test_files_that_are_no_shards(images, tmp_path, caplog):
    (tmp_path / "text.tar").write_text("no tar\n" * 200)
    with pytest.raises(ShardError, match="not an uncompressed tar"):
        read_manifest(tmp_path)
    make_tar(tmp_path / "text.tar", [("note.txt", b"nothing to see")])
    with pytest.raises(ShardError, match="hold no video or image"):
        read_shards(tmp_path)
    content = images["png"].read_bytes()
    tar = make_tar(tmp_path / "text.tar", [(f"{number}.png", content) for number in range(4)])
    step = 512 + -(-len(content) // 512) * 512  # one header and one file
    for size, left in ((2 * step, 2), (2 * step + 300, 2), (2 * step + 512, 2), (2 * step + 600, 2), (4 * step, 4)):
        make_tar(tar, [(f"{number}.png", content) for number in range(4)])
        os.truncate(tar, size)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert len(read_shards(tmp_path)) == left
        assert f"is damaged after {left} samples" in caplog.text
    make_tar(tar, [(f"{number}.png", content) for number in range(4)])
    with open(tar, "r+b") as file:
        file.seek(step)
        file.write(b"\xff" * 512)
    with caplog.at_level(logging.WARNING):
        assert len(read_shards(tmp_path)) == 1


def test_webdataset_reads_our_shards(shards, media):
    webdataset = pytest.importorskip("webdataset")
    paths = originals(media)
    urls = sorted(str(file) for file in shards.glob("*.tar"))
    found = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        (ext,) = [key for key in sample if not key.startswith("__") and key != "cls"]
        found[int(sample["cls"])] = sample[ext]
    assert found == {label: Path(path).read_bytes() for label, path in paths.items()}


def test_we_read_the_shards_of_webdataset(images, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    content = images["jpg"].read_bytes()
    with webdataset.ShardWriter(str(tmp_path / "w-%04d.tar"), maxcount=3, verbose=0) as sink:
        for number in range(8):
            sink.write({"__key__": f"n01/img_{number}", "jpg": content, "cls": number, "json": {"a": 1}})
    entries = read_manifest(tmp_path)
    assert [entry.label for entry in entries] == list(range(8))
    assert all(np.array_equal(read_frames(entry.path, [0]), read_frames(images["jpg"], [0])) for entry in entries)


# --------------------------------------------------------------------------------------------------------------- order

SIZES = [5, 1, 9, 4, 4, 7, 2]  # samples of seven shards: 32


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_order_visits_everything_once_and_few_shards_at_a_time(window):
    order = ShardOrder(SIZES, seed=5, window=window)
    shard = np.repeat(np.arange(len(SIZES)), SIZES)
    for epoch in range(3):
        places = order(epoch).numpy()
        assert sorted(places) == list(range(sum(SIZES)))
        visited = shard[places]
        spans = [(np.flatnonzero(visited == s)[0], np.flatnonzero(visited == s)[-1]) for s in range(len(SIZES))]
        open_at = [sum(first <= place <= last for first, last in spans) for place in range(len(visited))]
        assert max(open_at) <= min(window, len(SIZES))
        assert torch.equal(order(epoch), ShardOrder(SIZES, seed=5, window=window)(epoch))
    assert not torch.equal(order(0), order(1))
    assert not torch.equal(order(0), ShardOrder(SIZES, seed=6, window=window)(0))


def test_order_mixes_samples_within_the_window():
    places = ShardOrder([50, 50], seed=0, window=2)(0)
    assert 15 < (places[:50] < 50).sum() < 35
    with pytest.raises(ValueError, match="window of 0"):
        ShardOrder([3], seed=0, window=0)


def drawn(order, steps, rank=0, world_size=1, start_step=0, **options):
    sampler = DrawSampler(32, 12, rank=rank, world_size=world_size, start_draw=12 * start_step, order=order, **options)
    return list(itertools.islice(sampler, steps * options.get("micro_batches", 1)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_ranks_share_an_epoch_and_resume_with_another_number_of_them(world_size):
    """8 steps of 12 are exactly 3 epochs; after 3 steps, in the middle of the second, the number of ranks changes."""
    order = ShardOrder(SIZES, seed=1, window=2)
    before = [pair for rank in range(2) for batch in drawn(order, 3, rank, 2) for pair in batch]
    after = [pair for rank in range(world_size) for batch in drawn(order, 5, rank, world_size, 3) for pair in batch]
    pairs = sorted(before + after)
    assert [draw for draw, _ in pairs] == list(range(96))
    for epoch in range(3):
        assert [index for _, index in pairs[32 * epoch : 32 * epoch + 32]] == order(epoch).tolist()


def test_loader_gives_every_sample_once_per_epoch_whatever_the_workers(shards):
    entries = read_manifest(shards)
    dataset = clips(entries)
    order = shard_order(dataset, seed=3, window=2)
    reference = None
    for workers in (0, 2):
        loader = make_loader(dataset, DrawSampler(30, 5, seed=3, order=order), workers)
        batches = list(itertools.islice(loader, 12))
        paths = [path for batch in batches for path in batch.paths]
        assert not [failure for batch in batches for failure in batch.failures]
        for epoch in (paths[:30], paths[30:]):
            assert sorted(epoch) == sorted(entry.path for entry in entries)
            runs = [shard_of(path) for path in epoch]
            assert len({*runs[:6]}) <= 2, "more shards than the window are read at a time"
        pixels = torch.cat([batch.clips for batch in batches])
        assert reference is None or torch.equal(pixels, reference)
        reference = pixels
    rest = make_loader(dataset, DrawSampler(30, 5, seed=3, start_draw=35, order=order), 1)
    assert torch.equal(torch.cat([batch.clips for batch in itertools.islice(rest, 5)]), reference[35:])


def test_order_of_ordinary_files_is_left_alone(shards, media):
    plain = read_manifest(media)
    assert shard_order(clips(plain), seed=0, window=2) is None
    mixed = shard_order(clips(plain + read_manifest(shards)), seed=0, window=2)
    assert sorted(mixed(0).tolist()) == list(range(60))


def test_a_config_that_points_at_shards_just_works(shards, media):
    from diffmae_video.build import build_dataset, build_loader
    from diffmae_video.config import load_config

    overrides = ["DATA.PATH_TO_DATA_DIR", str(shards), "DATA.NUM_FRAMES", "2", "DATA.CROP_SIZE", "32"]
    overrides += [
        "SOLVER.BATCH_SIZE",
        "6",
        "MASK.RATIO",
        "0.5",
        "DATA_LOADER.NUM_WORKERS",
        "0",
        "DATA.SHARD_SHUFFLE_WINDOW",
        "2",
    ]
    cfg = load_config([], overrides)
    loader = build_loader(cfg, build_dataset(cfg, "train"))
    labels = torch.cat([batch.labels for batch in itertools.islice(loader, 5)])
    assert sorted(labels.tolist()) == list(range(30))
    order = shard_order(build_dataset(cfg, "train"), seed=cfg.SEED, window=2)(0)
    assert labels.tolist() == [read_manifest(shards)[place].label for place in order]
