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

import av
from av.container import InputContainer

_RENDITION = {"codec", "name", "height", "crf", "preset"}
_FIELDS = {"h264": _RENDITION, "av1": _RENDITION, "aac": {"codec", "kilobits"}}

_SEEK_TO_PTS = 0x4000000  # AVFMT_SEEK_TO_PTS: a seek by the time shown ends at a keyframe not after it
_MARGIN_SECONDS = Fraction(1, 2)  # how much earlier to seek in other formats


def plan(input: Path, output: Path, video: Path, segment_seconds: float = 10.0) -> list[dict[str, Any]]:
    """The pieces that make up what the input asks for: a rendition of the video, or its audio."""
    make = json.loads(input.read_text())
    fields = _FIELDS.get(make.get("codec"))
    if make.keys() != fields:
        raise ValueError(f"can't make {make}: a codec and its fields are {_FIELDS}")
    with av.open(str(video)) as container:
        if not container.streams.video:
            raise ValueError("the input has no video stream")
        pieces = _audio_tracks(container) if "name" not in make else _segments(container, Fraction(segment_seconds))
        return [{"make": make, **piece} for piece in pieces]


def _segments(container: InputContainer, seconds: Fraction) -> Iterator[dict[str, Any]]:
    """Segments of at least `seconds`, but for the last one."""
    stream = container.streams.best("video")
    base = Fraction(stream.time_base.numerator, stream.time_base.denominator)
    times, keys = _frames(container, stream)
    borders = _borders(times, keys, seconds / base)
    shift = min(times[0], _start(container) // base)
    margin = 0 if container.format.flags & _SEEK_TO_PTS else _MARGIN_SECONDS
    for first, end in zip(borders, [*borders[1:], None], strict=True):
        yield {
            "stream": stream.index,
            "at": str((first - shift) * base),
            "first": first,
            "end": end,
            "frames": (len(times) if end is None else bisect_left(times, end)) - bisect_left(times, first),
            "seek": ceil((first * base - margin) * 10**6) / 10**6 if first > borders[0] else None,
        }


def _frames(container: InputContainer, stream: Any) -> tuple[list[int], list[int]]:
    """When each frame is shown, and each keyframe; nothing is decoded for it."""
    times, keys = [], []
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:  # a frame that an edit list cuts away does not belong to the video
            if packet.pts is None:
                raise ValueError("the video has frames without a time; copy it into another container first")
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    return sorted(times), sorted(keys)


def _borders(times: list[int], keys: list[int], length: Fraction) -> list[int]:
    """The time of each segment's first frame."""
    borders = times[:1]
    for key in keys:
        if key - borders[-1] >= length:
            borders.append(key)
    return borders


def _audio_tracks(container: InputContainer) -> list[dict[str, Any]]:
    """The tracks and when each begins; only decoding shows how much of a first packet is heard."""
    begins: dict[int, Fraction] = {}
    tracks = container.streams.audio
    for packet in container.demux(tracks) if tracks else ():
        if packet.stream_index not in begins:
            for frame in packet.decode()[:1]:
                begins[packet.stream_index] = max(Fraction(0), frame.pts * frame.time_base - _start(container))
        if len(begins) == len(tracks):
            break
    return [{"stream": index, "at": str(begins[index])} for index in sorted(begins)]


def _start(container: InputContainer) -> Fraction:
    """The time that players show as zero."""
    return Fraction(container.start_time or 0, av.time_base)
