"""How long an MP3 file is, and whether all of it is there: decoders read what there is without a word.

An encoder states in the first frame how many frames and bytes there are ("Xing" or "Info"). Where it does not,
libsndfile guesses the length by the first frame, and cuts what is beyond. So frames are walked through here, each of
which says how long it is itself (ISO/IEC 11172-3 and 13818-3, layer III).
"""

from __future__ import annotations

from collections.abc import Iterator

_KBIT = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # MPEG 1, 2, 2.5
_LAYER_3 = 1
_FRAMES, _BYTES = 1, 2  # flags: what is stated
_WITHOUT_CRC, _ROOMY = 0x01, 0x90  # bits of a head; 128 or 80 kbit/s, whose frames hold a statement at every rate


def ends_early(data: bytes) -> bool:
    """Tell whether an MP3 file lacks bytes that its first frame states, or a part of its last frame.

    Of a file that was cut between two frames and states nothing, that cannot be told.
    """
    at = _first_frame(data)
    stated = _stated(data, at).get(_BYTES)
    if stated is not None:
        return stated > len(data) - at
    return any(end > len(data) for _, end in _frames(data, at))


def stating_length(data: bytes) -> bytes:
    """Return an MP3 file whose first frame states how many follow: itself, or with such a frame put before."""
    at = _first_frame(data)
    if _FRAMES in _stated(data, at):
        return data
    frames = list(_frames(data, at))
    if not frames:
        return data
    first = frames[0][0]
    head = data[first : first + 4]
    head = bytes([head[0], head[1] | _WITHOUT_CRC, _ROOMY | (head[2] & 0x0C), head[3]])
    length = _frame_bytes(head)
    assert length is not None
    frame = head + bytes(_side(head)) + b"Xing" + _FRAMES.to_bytes(4, "big") + len(frames).to_bytes(4, "big")
    return data[:first] + frame.ljust(length, b"\0") + data[first:]


def _first_frame(data: bytes) -> int:
    """Return where the frames begin: after an ID3 tag, whose length is written in seven bits a byte."""
    if not data.startswith(b"ID3") or len(data) < 10:
        return 0
    length = sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    return 10 + length + (10 if data[5] & 0x10 else 0)


def _frames(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield where each frame begins and where it says that it ends; what lies between frames is passed over."""
    while at < len(data):
        length = _frame_bytes(data[at : at + 4])
        if length is None:
            at = _next_frame(data, at)
        else:
            yield at, at + length
            at += length


def _next_frame(data: bytes, at: int) -> int:
    """Return where the next frame begins that another one follows: a tag or a picture may hold what looks like one."""
    while (at := data.find(b"\xff", at + 1)) >= 0:
        length = _frame_bytes(data[at : at + 4])
        if length is not None and _frame_bytes(data[at + length : at + length + 4]) is not None:
            return at
    return len(data)


def _frame_bytes(head: bytes) -> int | None:
    """Return how long a frame of layer III is by its four bytes of head; None for anything else."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0 or (head[1] >> 1) & 3 != _LAYER_3:
        return None
    version, kbit, rate = (head[1] >> 3) & 3, head[2] >> 4, (head[2] >> 2) & 3
    if version not in _RATES or not 0 < kbit < 15 or rate == 3:
        return None
    first = version == 3
    return (144 if first else 72) * 1000 * _KBIT[first][kbit] // _RATES[version][rate] + ((head[2] >> 1) & 1)


def _side(head: bytes) -> int:
    """Return how many bytes of a frame say how it is coded: a statement comes after them."""
    mono, first = head[3] >> 6 == 3, (head[1] >> 3) & 3 == 3
    return (17 if mono else 32) if first else (9 if mono else 17)


def _stated(data: bytes, at: int) -> dict[int, int]:
    """Return what the first frame states, by its flag: how many frames, and how many bytes from itself on."""
    head = data[at : at + 4]
    if _frame_bytes(head) is None:
        return {}
    tag = at + 4 + _side(head)
    if data[tag : tag + 4] not in (b"Xing", b"Info"):
        return {}
    flags, place, found = int.from_bytes(data[tag + 4 : tag + 8], "big"), tag + 8, {}
    for flag in (_FRAMES, _BYTES):
        if flags & flag and len(data) >= place + 4:
            found[flag] = int.from_bytes(data[place : place + 4], "big")
            place += 4
    return found
