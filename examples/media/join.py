"""The pieces as whole videos: every rendition's segments one after the other, every audio track beside them.

Nothing is encoded again. Each packet gets the time that its piece was cut at, so that joining rounds nothing.
"""

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

_KEPT = ("language", "title")  # what is known of a track


_SOUND_SECONDS = Fraction(1, 20)  # that a track may be longer or shorter than planned


@dataclass(frozen=True)
class Piece:
    """An encoded piece, when its first frame or sample is shown, and how much of it was planned."""

    path: Path
    at: Fraction
    time_base: Fraction
    frames: int
    seconds: Fraction

    def packets(self) -> Iterator[Packet]:
        """Its packets in order, at their times in the whole."""
        with av.open(str(self.path)) as container:
            shift = round(self.at / self.time_base)
            for packet in container.demux():
                if packet.size:
                    packet.pts += shift
                    packet.dts += shift
                    yield packet


def join(input: Path, output: Path, **renditions: Path) -> None:
    """Write each rendition to the path of its name; to `output`, what they are."""
    segments, tracks = _pieces(input)
    if undeclared := segments.keys() - renditions.keys():
        raise ValueError(f"the processor's outputs lack {', '.join(sorted(undeclared))}")
    for name in segments:
        _write(renditions[name], segments[name], tracks)
        _check(renditions[name], segments[name], tracks)
    output.write_text(json.dumps({name: _describe(renditions[name]) for name in segments}, indent=2) + "\n")


def _pieces(directory: Path) -> tuple[dict[str, list[Piece]], list[Piece]]:
    """The segments of each rendition in order, and the audio tracks: the files are in the order of the plan."""
    segments, tracks = defaultdict(list), []
    for path in sorted(directory.iterdir()):
        with av.open(str(path)) as container:
            label = json.loads(container.metadata["comment"])
            base = container.streams[0].time_base
            piece = Piece(path, Fraction(label["at"]), base, label.get("frames", 0), Fraction(label.get("seconds", 0)))
        (segments[label["name"]] if label["name"] else tracks).append(piece)
    return segments, tracks


def _write(path: Path, segments: list[Piece], tracks: list[Piece]) -> None:
    """Packets go out in the order of their decoding times, so that no stream waits in memory for another."""
    timescale = segments[0].time_base.denominator
    common = math.lcm(timescale, *(track.time_base.denominator for track in tracks))
    options = {
        "movflags": "+faststart",
        "movie_timescale": str(common if common < 2**31 else timescale),  # of the times at which streams begin
    }
    with av.open(str(path), "w", format="mp4", options=options) as whole:
        streams = [_into(_add_stream(whole, segments), _video(segments))]
        streams += [_into(_add_stream(whole, [track]), track.packets()) for track in tracks]
        for packet in heapq.merge(*streams, key=lambda packet: packet.dts * packet.time_base):
            whole.mux_one(packet)


def _add_stream(whole: OutputContainer, pieces: list[Piece]) -> Stream:
    """A stream like that of the pieces, which must be encoded alike: a decoder reads the parameters only once."""
    headers = set()
    for piece in pieces:
        with av.open(str(piece.path)) as container:
            like = container.streams[0]
            headers.add(bytes(like.codec_context.extradata or b""))
            if len(headers) > 1:
                raise ValueError(f"{piece.path.name} was encoded with other settings than the segments before it")
            if piece is pieces[0]:
                stream = whole.add_stream_from_template(like, opaque=True)  # opaque: it needs no encoder
                stream.time_base = like.time_base
                stream.metadata.update({key: like.metadata[key] for key in _KEPT if key in like.metadata})
    return stream


def _into(stream: Stream, packets: Iterator[Packet]) -> Iterator[Packet]:
    for packet in packets:
        packet.stream = stream
        yield packet


def _video(segments: list[Piece]) -> Iterator[Packet]:
    """The packets with decoding times and durations of the whole: a segment's own know nothing of the one before."""
    order = [packet.pts for segment in segments for packet in segment.packets()]
    times = sorted(order)
    rank = {time: number for number, time in enumerate(times)}
    if len(rank) < len(times):
        raise ValueError("two frames have the same time")
    delay = max(number - rank[time] for number, time in enumerate(order))  # frames that are decoded ahead of their turn
    for number, packet in enumerate(packet for segment in segments for packet in segment.packets()):
        following = rank[packet.pts] + 1
        if following < len(times):
            packet.duration = times[following] - packet.pts
        packet.dts = times[number - delay] if number >= delay else times[0] - (times[delay] - times[number])
        yield packet


def _check(path: Path, segments: list[Piece], tracks: list[Piece]) -> None:
    """Raises ValueError if the file lacks a frame or some sound, or has more than was planned."""
    with av.open(str(path)) as container:
        frames, planned = container.streams.video[0].frames, sum(piece.frames for piece in segments)
        if frames != planned:
            raise ValueError(f"{path.name} has {frames} frames, {planned} were planned")
        for number, (stream, track) in enumerate(zip(container.streams.audio, tracks, strict=True), start=1):
            if abs(_seconds(stream) - track.seconds) > _SOUND_SECONDS:
                said = f"{float(_seconds(stream)):.3f} s, {float(track.seconds):.3f} s were planned"
                raise ValueError(f"audio track {number} of {path.name} has {said}")


def _seconds(stream: Stream) -> Fraction:
    return Fraction(stream.duration or 0) * stream.time_base


def _describe(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        return {
            "file": path.name,
            "codec": video.codec_context.codec.canonical_name,
            "width": video.width,
            "height": video.height,
            "frames": video.frames,
            "seconds": float(Fraction(container.duration, av.time_base)),
            "audio_tracks": len(container.streams.audio),
            "audio_seconds": [float(_seconds(stream)) for stream in container.streams.audio],
            "bytes": path.stat().st_size,
        }
