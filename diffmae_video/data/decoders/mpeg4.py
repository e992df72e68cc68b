"""Which packets of an MPEG-4 part 2 stream (Xvid, DivX) give a picture, as FFmpeg's decoder takes them.

An avi has one chunk per frame and no presentation times. An encoder with B-frames therefore packs a B-frame into the
chunk of the picture that it refers to, and fills the chunk that this leaves over with a stub: a picture marked as not
coded (N-VOP, some bytes) or a single byte. FFmpeg keeps the packed picture back and shows it in place of the stub:

    packet     I     P+B   stub  P+B   B     stub
    shown      I     P     B     P     B     B      (the decoder then puts them into presentation order)

A stub with nothing kept back gives no picture: an encoder also writes one for a frame that it drops, and cutting a
file leaves them over at its ends. Beside it stands, just as small, a coded picture in which nothing moves; the two
look alike without parsing the stream, and what is then shown is for a decode to say (``MpegPictures.doubtful``).
"""

from __future__ import annotations

import re

PICTURE = b"\x00\x00\x01\xb6"  # start code of a video object plane
LONGEST_STUB = 19  # bytes; FFmpeg's MAX_NVOP_SIZE
# By this mark of the encoder FFmpeg knows packed B-frames; without it, it does not look for a second picture.
PACKED_MARK = re.compile(rb"DivX\d+(Build|b)\d+p")


class MpegPictures:
    """To be shown every packet of a stream, in order.

    Attributes:
        packed: whether some packet held more than one picture.
        doubtful: number of packets, counted as pictures, of which only a decode shows whether they give one.
    """

    def __init__(self, extradata: bytes | None) -> None:
        """extradata: what the container says about the stream; the mark may also stand in the first packet."""
        self.packed = False
        self.doubtful = 0
        self._extradata = extradata or b""
        self._marked: bool | None = None  # None: the first packet is still to come
        self._kept_back = False

    def shows(self, packet: bytes) -> bool:
        """Whether a picture is shown for this packet (its own, or one kept back)."""
        if self._marked is None:
            self._marked = PACKED_MARK.search(self._extradata + packet) is not None
        pictures = packet.count(PICTURE)
        stub = pictures <= 1 and len(packet) <= LONGEST_STUB
        if self._kept_back:
            # One more B-frame is kept back in turn. Anything else is no packing of an encoder.
            one_more = pictures == 1 and not stub and _is_bidirectional(packet)
            if not self._marked or not (pictures == 1 and (stub or one_more)):
                self.doubtful += 1
            self._kept_back = one_more or pictures > 1
        else:
            if not pictures:
                return False
            self.doubtful += stub
            self._kept_back = pictures > 1
        self.packed |= pictures > 1
        return True


def _is_bidirectional(packet: bytes) -> bool:
    kind = packet[packet.index(PICTURE) + len(PICTURE) :][:1]  # its first two bits: I, P, B, S
    return kind != b"" and kind[0] >> 6 == 2
