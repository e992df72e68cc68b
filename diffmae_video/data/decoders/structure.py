"""Recognise damage between the frames of an mkv, webm or avi file.

Where the chain of its elements is broken, a demuxer searches for the next place that looks like one and goes on from
there: frames are missing in the middle and nobody says so. The elements of a sound file follow each other without a
gap, so walking from header to header finds the break (the pictures themselves are not read: a few ms for a film).
Damage inside a picture is for the decoder to find. In mp4 and mov files the table of contents says where every frame
is, so none gets lost that way.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from diffmae_video.data.decoders.truncation import EBML_HEADER, MATROSKA_SEGMENT

MATROSKA_CLUSTER = b"\x1f\x43\xb6\x75"
LONGEST_HEADER = 12  # of an EBML element: 4 bytes name, 8 bytes length
AVI_CONTAINERS = (b"RIFF", b"LIST")


def broken_at(file: BinaryIO, size: int) -> int | None:
    """The byte at which the chain of elements breaks; None where it does not, or the format does not tell.

    Args:
        file: opened for reading in binary mode.
        size: length of the file, bytes.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] == EBML_HEADER:
        return _broken_matroska(file)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _broken_avi(file, size)
    return None


def _broken_matroska(file: BinaryIO) -> int | None:
    header = _element(file, 0)
    segment = _element(file, header[1]) if header else None
    if segment is None or segment[0] != MATROSKA_SEGMENT or segment[2]:
        return None  # another kind of file, or one written as a stream, whose length is unknown
    ends = [segment[1]]
    position = segment[3]
    while ends:
        if position == ends[-1]:
            ends.pop()
            continue
        element = _element(file, position)
        if element is None or (not element[2] and element[1] > ends[-1]):
            return position
        name, end, length_unknown, content = element
        if length_unknown:
            return None
        if name == MATROSKA_CLUSTER:
            ends.append(end)
            position = content
        else:
            position = end
    return None


def _element(file: BinaryIO, position: int) -> tuple[bytes, int, bool, int] | None:
    """(name, end, whether its length is unknown, start of its content) of an EBML element; None: there is none."""
    file.seek(position)
    data = file.read(LONGEST_HEADER)
    name_width = 9 - data[0].bit_length() if data else 9
    if name_width > 4 or len(data) <= name_width:
        return None
    length_width = 9 - data[name_width].bit_length()
    content = name_width + length_width
    if length_width > 8 or len(data) < content:
        return None
    all_ones = (1 << (7 * length_width)) - 1
    length = int.from_bytes(data[name_width:content], "big") & all_ones
    return data[:name_width], position + content + length, length == all_ones, position + content


def _broken_avi(file: BinaryIO, size: int) -> int | None:
    """RIFF chunks lie side by side, the frames in the list ``movi`` (and lists in it); lengths are made even."""
    ends = [size]
    position = 0
    while ends:
        # A last chunk may lack its padding, and what follows the last RIFF is nobody's business.
        if position >= ends[-1] - 1:
            position = ends.pop()
            position += position & 1
            continue
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return None
        name, length = struct.unpack("<4sI", header)
        if not ends[1:] and name != b"RIFF":
            return None
        end = position + 8 + length
        if not all(32 <= byte < 127 for byte in name) or end > ends[-1] + 1:
            return position
        if name in AVI_CONTAINERS:
            ends.append(end)
            position += 12
        else:
            position = end + (end & 1)
    return None
