"""Where a video is cut: for a rendition its segments between keyframes, for the audio its tracks, each whole.

A segment is all frames from one keyframe up to the next one at which a segment begins, in the order in which they are
shown. So the leading pictures of an open GOP, which are stored after a keyframe but shown before it, belong to the
segment before: there what they refer to is decoded as well.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

from av.container import InputContainer

from .source import Picture, Unusable, check_overlap, opened, packets_of, picture_of, sound_of, start_of, video_of

_RENDITION = {"codec", "name", "height", "crf", "preset"}
_FIELDS = {"h264": _RENDITION, "av1": _RENDITION, "aac": {"codec", "kilobits"}}

_SEEK_TO_PTS = 0x4000000  # AVFMT_SEEK_TO_PTS: a seek by the time shown ends at a keyframe not after it
_MARGIN_SECONDS = Fraction(1, 2)  # how much earlier to seek in other formats


def plan(
    input: Path, output: Path, video: Path, segment_seconds: float = 10.0, stream: int | None = None
) -> list[dict[str, Any]]:
    """The pieces that make up what the input asks for: a rendition of the video, or its audio.

    `stream` is the number of the video stream, where there are several. Raises Unusable.
    """
    make = json.loads(input.read_text())
    fields = _FIELDS.get(make.get("codec"))
    if make.keys() != fields:
        raise Unusable(f"can't make {make}: a codec and its fields are {_FIELDS}")
    with opened(video) as container:
        film = video_of(container, stream)
        if "name" not in make:
            return [{"make": make, **track} for track in sound_of(container)]
        picture = picture_of(video, film.index)
        size = _size(picture, int(make["height"]))
        return [
            {"make": make, **size, **piece} for piece in _segments(container, film, picture, Fraction(segment_seconds))
        ]


def _size(picture: Picture, height: int) -> dict[str, Any]:
    """The rendition's size in square pixels: even, and never larger than the source."""
    height = max(2, min(height, picture.height) // 2 * 2)
    width = max(2, int(height * picture.shape / 2 + Fraction(1, 2)) * 2)
    return {"width": width, "height": height, "interlaced": picture.is_interlaced, "hdr": picture.hdr}


def _segments(container: InputContainer, stream: Any, picture: Picture, seconds: Fraction) -> Iterator[dict[str, Any]]:
    """Segments of at least `seconds`, but for the last one."""
    base = Fraction(stream.time_base.numerator, stream.time_base.denominator)
    times, keys = _frames(container, stream, picture.first)
    borders = _borders(times, keys, seconds / base)
    shift = min(times[0], start_of(container) // base)
    margin = 0 if container.format.flags & _SEEK_TO_PTS else _MARGIN_SECONDS
    for first, end in zip(borders, [*borders[1:], None], strict=True):
        yield {
            "stream": stream.index,
            "at": str((first - shift) * base),
            "base": str(base),
            "first": first,
            "end": end,
            "frames": (len(times) if end is None else bisect_left(times, end)) - bisect_left(times, first),
            "seek": ceil((first * base - margin) * 10**6) / 10**6 if first > borders[0] else None,
        }


def _frames(container: InputContainer, stream: Any, first: int) -> tuple[list[int], list[int]]:
    """When each frame from the first one on is shown, and each keyframe; nothing is decoded for it.

    Where one recording was appended to another, and repeats what that showed, the frames of the first one stay.
    """
    times, keys = [], []
    shown, end, decoded = first - 1, first - 1, None  # up to the joint, up to now, and the last decoding time
    for packet in packets_of(container, stream):
        if packet.is_discard:  # a frame that an edit list cuts away does not belong to the video
            continue
        if packet.pts is None:
            raise Unusable("the video has frames without a time; copy it into another container first")
        if packet.dts is not None and decoded is not None and packet.dts < decoded:
            check_overlap("the video", end * stream.time_base, packet.pts * stream.time_base)
            shown = end
        decoded = packet.dts
        if packet.pts > shown:
            times.append(packet.pts)
            end = max(end, packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    return sorted(set(times)), sorted(keys)


def _borders(times: list[int], keys: list[int], length: Fraction) -> list[int]:
    """The time of each segment's first frame."""
    borders = times[:1]
    for key in keys:
        if key - borders[-1] >= length:
            borders.append(key)
    return borders
