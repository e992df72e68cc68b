"""Recognise a file that ends before its container says.

A demuxer reads such a file up to its end without a word: a video that silently lost its second half. Containers
that state no size (MPEG-TS, FLV, streams of unknown length) cannot be checked this way.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

EBML_HEADER = b"\x1a\x45\xdf\xa3"
MATROSKA_SEGMENT = b"\x18\x53\x80\x67"


def missing_bytes(file: BinaryIO, size: int) -> int:
    """How many bytes of its media are missing at the end of an mp4/mov, avi or mkv/webm file; 0 if none or unknown.

    Args:
        file: opened for reading in binary mode.
        size: length of the file, bytes.
    """
    file.seek(0)
    head = file.read(64)
    if head[:4] == b"RIFF" and len(head) >= 8:
        end = 8 + struct.unpack("<I", head[4:8])[0]
    elif head[:4] == EBML_HEADER:
        end = _matroska_end(head)
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        end = _media_box_end(file, size)
    else:
        return 0
    return max(0, end - size)


def _media_box_end(file: BinaryIO, size: int) -> int:
    """End of the last mdat box, which holds the pictures; a tail of another kind may be short without harm."""
    position, end = 0, 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8:  # 0: the box reaches to the end of the file, whatever that is
            return end
        position += length
        if kind == b"mdat":
            end = position
    return end


def _matroska_end(head: bytes) -> int:
    """End of the segment, 0 where its length is unknown."""
    length, width = _element_length(head, 4)
    segment = 4 + width + length
    if head[segment : segment + 4] != MATROSKA_SEGMENT or len(head) < segment + 12:
        return 0
    length, width = _element_length(head, segment + 4)
    unknown = length == (1 << (7 * width)) - 1
    return 0 if unknown else segment + 4 + width + length


def _element_length(data: bytes, position: int) -> tuple[int, int]:
    """(value, bytes used) of an EBML variable-length integer."""
    width = 9 - data[position].bit_length()
    value = int.from_bytes(data[position : position + width], "big")
    return value & ((1 << (7 * width)) - 1), width
