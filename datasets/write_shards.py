"""Pack the files of a list into tar shards (WebDataset layout) with an index; see datasets/shards.md.

    python datasets/write_shards.py --input /data/k400 --split train --output /data/k400_shards/train
    python datasets/write_shards.py --check /data/k400_shards/train

The output is a function of the list, the files and the arguments. An interrupted command continues where it was when
it is given again: finished shards are not rewritten. Files that cannot be read are named, left out, and listed in the
index; ``--verify`` also leaves out those that do not decode. Exit codes: 0 done; 1 --check found damage; 2 an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from shard_writing import LeftOut, Source, plan_digest, write_shard

from diffmae_video.data import Entry, read_manifest
from diffmae_video.data.packed import media_state, parse_packed
from diffmae_video.data.shard_index import INDEX, Shard, ShardError, read_index, scan_shard, write_index, write_json
from diffmae_video.data.shards import UNFINISHED

LARGEST_FILE = 8 << 30  # bytes: what the size field of a tar header holds
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


# ---------------------------------------------------------------------------------------------------------------- plan


def survey(entries: Sequence[Entry], threads: int) -> tuple[list[Source], list[LeftOut]]:
    """The files that can be packed, by a look at their size, and those that cannot."""

    def look(numbered: tuple[int, Entry]) -> Source | LeftOut:
        number, (path, label) = numbered
        try:
            if parse_packed(path) is None and not stat.S_ISREG(os.stat(path).st_mode):
                return LeftOut(path, "is no file; shards hold single files")
            size = media_state(path)[1]
        except FileNotFoundError:
            return LeftOut(path, "is missing")
        except OSError as error:
            return LeftOut(path, error.strerror or str(error))
        if not 0 < size < LARGEST_FILE:
            return LeftOut(path, "is empty" if size == 0 else "is too large for a tar shard (8 GiB or more)")
        return Source(number, path, label, size)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(look, enumerate(entries)))
    return [f for f in found if isinstance(f, Source)], [f for f in found if isinstance(f, LeftOut)]


def cut(sources: list[Source], max_size: int, max_count: int) -> Iterator[list[Source]]:
    """The sources in runs of at most ``max_count`` and, but for single files that are larger, ``max_size`` bytes."""
    run: list[Source] = []
    size = 0
    for source in sources:
        if run and (len(run) == max_count or size + source.size > max_size):
            yield run
            run, size = [], 0
        run.append(source)
        size += source.size
    if run:
        yield run


# ------------------------------------------------------------------------------------------------------------- writing


def finished_shards(folder: Path, plans: dict[str, str]) -> dict[str, Shard]:
    """What an earlier run of the same command finished, by name.

    Raises:
        ShardError: the folder holds shards of another list or other arguments.
    """
    known = {shard.name: shard for shard in read_index(folder / INDEX)} if (folder / INDEX).is_file() else {}
    for file in folder.glob(record_of("*.tar")):
        shard = Shard(**json.loads(file.read_text()))
        known[shard.name] = shard
    other = [name for name, shard in known.items() if plans.get(name) != shard.plan]
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.tar")}
    if not (folder / UNFINISHED).exists():
        other += sizes.keys() - known.keys()
    if other:
        raise ShardError(
            f"{folder} holds shards of another list or other arguments ({min(other)}), or files of the list have "
            "changed since: give a new folder as --output, or remove these shards"
        )
    return {name: shard for name, shard in known.items() if sizes.get(name) == shard.size}


def record_of(name: str) -> str:
    """Beside a finished shard, until all are: what the index will say of it."""
    return f"{name}.json"


def write_set(options: argparse.Namespace) -> int:
    """Write all shards of ``--input`` that are not written yet, then the index; returns the exit code."""
    folder: Path = options.output
    entries = read_manifest(options.input, options.split, options.path_prefix)
    sources, left_out = survey(entries, options.threads)
    if options.shuffle is not None:
        order = np.random.default_rng(options.shuffle).permutation(len(sources))
        sources = [sources[place] for place in order]
    runs = {
        f"{options.prefix}-{number:06d}.tar": run
        for number, run in enumerate(cut(sources, options.max_size, options.max_count))
    }
    folder.mkdir(parents=True, exist_ok=True)
    done = finished_shards(folder, {name: plan_digest(run) for name, run in runs.items()})
    if (folder / INDEX).is_file() and len(done) == len(runs):
        print(f"{folder} already holds these {len(runs)} shards; nothing to do")
        return 0
    (folder / UNFINISHED).touch()
    for name, shard in done.items():
        write_json(folder / record_of(name), asdict(shard))
    (folder / INDEX).unlink(missing_ok=True)
    if done:
        print(f"{len(done)} of {len(runs)} shards are finished already")
    write_missing(folder, runs, done, options)
    return finish(folder, [done[name] for name in runs], left_out, len(entries))


def write_missing(
    folder: Path, runs: dict[str, list[Source]], done: dict[str, Shard], options: argparse.Namespace
) -> None:
    """Write the shards that ``done`` lacks, and enter them."""
    started = time.perf_counter()
    sizes = {name: sum(source.size for source in run) for name, run in runs.items() if name not in done}
    total, written = sum(sizes.values()), 0
    for name, size in sizes.items():
        done[name] = shard = write_shard(folder / name, runs[name], options.threads, options.verify)
        write_json(folder / record_of(name), asdict(shard))
        written += size
        rate = written / (time.perf_counter() - started)
        print(
            f"{name}: {len(shard)} files, {shard.size / 1e6:.1f} MB | {len(done)} of {len(runs)} shards, "
            f"{rate / 1e6:.0f} MB/s, {(total - written) / rate:.0f} s left",
            flush=True,
        )


def finish(folder: Path, shards: list[Shard], left_out: list[LeftOut], listed: int) -> int:
    """Report, write the index, remove what was needed to go on."""
    left_out = left_out + [LeftOut(*item) for shard in shards for item in shard.left_out]
    for item in left_out:
        print(f"left out: {item.path}: {item.reason}", file=sys.stderr)
    packed = sum(len(shard) for shard in shards)
    if not packed:
        raise ShardError(f"none of the {listed} files of the list can be read")
    write_index(folder / INDEX, shards, samples=packed, left_out=left_out)
    for shard in shards:
        (folder / record_of(shard.name)).unlink(missing_ok=True)
    (folder / UNFINISHED).unlink()
    size = sum(shard.size for shard in shards)
    print(f"{folder}: {packed} of {listed} files in {len(shards)} shards, {size / 1e9:.2f} GB")
    print(f"{len(left_out)} files were left out")
    return 0


# ------------------------------------------------------------------------------------------------------------ checking


def check_set(folder: Path, threads: int) -> int:
    """Read every shard whole and compare it with the index; returns the exit code."""
    if (folder / UNFINISHED).exists():
        raise ShardError(f"{folder} is unfinished: give the command that writes it again")
    if (folder / INDEX).is_file():
        shards = read_index(folder / INDEX)
    else:
        shards = [scan_shard(file) for file in sorted(folder.glob("*.tar"))]
        if not shards:
            raise ShardError(f"{folder} holds no shards: there is neither {INDEX} nor any *.tar")
        print(f"{folder} has no {INDEX}: only the structure of the {len(shards)} tar files is checked")
    listed = {shard.name for shard in shards}
    problems = [f"{file.name}: not in the index" for file in sorted(folder.glob("*.tar")) if file.name not in listed]
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(lambda shard: list(damage(folder, shard)), shards):
            problems += found
    print("\n".join(problems) or f"{folder}: {sum(map(len, shards))} files in {len(shards)} shards are as written")
    return 1 if problems else 0


def damage(folder: Path, shard: Shard) -> Iterator[str]:
    """What is wrong with one shard, and which of its samples are lost."""
    try:
        size = (folder / shard.name).stat().st_size
        with open(folder / shard.name, "rb") as file:
            if not shard.sha256 or hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                return
            yield f"{shard.name}: differs from what was written ({size} bytes, {shard.size} expected)"
            for number, crc32 in enumerate(shard.crc32):
                content = os.pread(file.fileno(), shard.bytes[number], shard.offset[number])
                if zlib.crc32(content) != crc32:
                    yield f"{shard.name}: {shard.file_name(number)} is damaged"
    except FileNotFoundError:
        yield f"{shard.name}: is missing, with {len(shard)} files"
    except OSError as error:
        yield f"{shard.name}: {error.strerror or error}"


# ---------------------------------------------------------------------------------------------------------------- main


def size_in_bytes(text: str) -> int:
    """500M, 1G, 2000000"""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.upper())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected for instance 500M or 1G")
    return int(float(match[1]) * UNITS[match[2]])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="what DATA.PATH_TO_DATA_DIR may be: a list, a folder, shards")
    parser.add_argument("--split", default="train", help="which list of a folder (default train)")
    parser.add_argument("--path-prefix", default="", help="put before relative paths, as DATA.PATH_PREFIX")
    parser.add_argument("--output", type=Path, help="folder of the shards, one per split; made if it does not exist")
    parser.add_argument("--prefix", default="shard", help="shards are named <prefix>-000000.tar (default shard)")
    parser.add_argument(
        "--shuffle",
        type=lambda text: None if text == "none" else int(text),
        default=0,
        metavar="SEED",
        help='seed of the order in which files are packed, "none" for that of the list (default 0)',
    )
    parser.add_argument("--max-size", type=size_in_bytes, default=UNITS["G"], help="of a shard (default 1G)")
    parser.add_argument("--max-count", type=int, default=10_000, help="files in a shard (default 10000)")
    parser.add_argument("--threads", type=int, default=8, help="files read at once (default 8)")
    parser.add_argument(
        "--verify", action="store_true", help="open every file with a decoder, leave out the unreadable"
    )
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="compare a folder of shards with its index")
    options = parser.parse_args(arguments)
    if options.check is None and (options.input is None or options.output is None):
        parser.error("give --input and --output, or --check")
    if options.max_count < 1 or options.threads < 1 or (options.shuffle or 0) < 0:
        parser.error("expected --max-count and --threads of at least 1, and a --shuffle seed of at least 0")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", options.prefix):
        parser.error(f"--prefix {options.prefix!r}: expected letters, digits, - and _")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        return check_set(options.check, options.threads) if options.check else write_set(options)
    except (ShardError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
