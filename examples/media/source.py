"""What a file holds, and whether all of it can be handled: what can't is refused by name before any work.

Cover art, thumbnails, subtitles and data do not belong to a film. A file whose end is missing, or whose clock runs
backwards, would become a film that lacks something.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

_LAYOUTS = {"mono": 1, "stereo": 2, "3.0": 3, "4.0": 4, "5.0": 5, "5.1": 6, "7.1": 8}  # of AAC, as players know it
_USUAL = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}  # where a file does not say which channel is where
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)  # of AAC, in hertz

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_IMAGE_BRANDS = {"avif", "heic", "heix", "mif1"}
_HDR = {16: "smpte2084", 18: "arib-std-b67"}  # transfer characteristics of H.273: PQ and HLG
_OVERLAP_SECONDS = 1  # that a recording may repeat of the one that it was appended to
_JITTER_SECONDS = Fraction(1, 30)  # that the time of a frame of sound may be off
_SAYS_DURATION = ("matroska", "asf", "flv")


class Unusable(ValueError):
    """The file can't be transcoded, however often it is tried; the message says what is in its way."""

    input_invalid = True


@dataclass(frozen=True)
class Picture:
    """How the video is shown, upright, and what has to be done for that."""

    first: int  # the time of the first frame that can be decoded
    shape: Fraction  # width by height
    height: int  # in pixels
    is_interlaced: bool
    hdr: str | None


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """The file. Raises Unusable if it is not one of audio or video, or if its end is missing."""
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise Unusable(f"the input can't be read as video: {error.strerror} (is its end missing?)") from None
    with container:
        brand = container.metadata.get("major_brand", "")
        if container.format.name.endswith("_pipe") or container.format.name == "image2" or brand in _IMAGE_BRANDS:
            raise Unusable(f"the input is an image ({brand or container.format.name}), not a video")
        size = path.stat().st_size
        for stream in container.streams:
            if any(entry.pos + entry.size > size for entry in stream.index_entries):
                raise Unusable(f"the input is cut off: its index names bytes beyond its end at {size}")
        yield container


def video_of(container: InputContainer, wanted: int | None) -> Any:
    """The one video stream, or the wanted one of several. Raises Unusable."""
    videos = {one.index: one for one in container.streams.video if not one.disposition & _PICTURES}
    if not videos:
        raise Unusable("the input has no video stream")
    if wanted is None and len(videos) > 1:
        sizes = ", ".join(f"{index} ({one.width}x{one.height})" for index, one in videos.items())
        raise Unusable(f"the input has {len(videos)} video streams: {sizes}; say which by the param stream")
    if wanted is not None and wanted not in videos:
        raise Unusable(f"stream {wanted} of the input is not a video; these are: {', '.join(map(str, videos))}")
    return next(iter(videos.values())) if wanted is None else videos[wanted]


def packets_of(container: InputContainer, *streams: Stream) -> Iterator[Packet]:
    """The packets of these streams. Raises Unusable where the file breaks off."""
    wanted, end, pause = {stream.index for stream in streams}, Fraction(0), Fraction(1, 4)
    last: dict[int, Fraction] = {}
    try:
        for packet in container.demux():
            at = packet.dts if packet.pts is None else packet.pts
            if packet.size and at is not None:
                time = at * packet.time_base
                end = max(end, time + (packet.duration or 0) * packet.time_base)
                if packet.stream.type in ("video", "audio"):
                    pause = max(pause, time - last.get(packet.stream_index, time))
                    last[packet.stream_index] = time
            if packet.size and packet.stream_index in wanted:
                yield packet
    except av.error.FFmpegError as error:
        raise Unusable(f"the input can't be read after {float(end):.3f} s: {error.strerror}") from None
    if end + pause < (said := _end_by_header(container)):  # of the last frame the duration may be unknown
        raise Unusable(f"the input is cut off: it is {float(said):.3f} s long, but ends after {float(end):.3f} s")


def _end_by_header(container: InputContainer) -> Fraction:
    """When the file ends by what its header says; 0 if that says nothing."""
    if container.format.name == "avi":
        return max((one.frames * one.time_base for one in container.streams.video), default=Fraction(0))
    if container.format.name.startswith(_SAYS_DURATION):
        return Fraction(container.duration or 0, av.time_base) + start_of(container)
    return Fraction(0)


def frames_of(container: InputContainer, *streams: Any) -> Iterator[tuple[int, list[Any]]]:
    """The number of the stream and the frames of each packet, none if it is damaged. Raises Unusable."""
    is_stream_of_packs = container.format.name in ("mpegts", "mpeg")  # they state a time for the first packet of each
    for packet in packets_of(container, *streams):
        if is_stream_of_packs and packet.pos is None and packet.stream.type == "audio":
            packet.pts = packet.dts = None  # a guess, and a wrong one where the rate has changed
        yield packet.stream_index, _decoded(packet.stream, packet)
    for stream in streams:
        if last := _decoded(stream, None):  # those that waited for others
            yield stream.index, last


def _decoded(stream: Any, packet: Packet | None) -> list[Any]:
    try:
        return list(stream.codec_context.decode(packet)) if stream.codec_context else []
    except av.error.FFmpegError:
        return []


def picture_of(path: Path, index: int) -> Picture:
    """What the first frame shows. Raises Unusable if none can be decoded."""
    with opened(path) as container:
        stream = container.streams.video[[one.index for one in container.streams.video].index(index)]
        frame = next((frame for _, frames in frames_of(container, stream) for frame in frames), None)
        if frame is not None and frame.pts is None:
            raise Unusable("the video has frames without a time; copy it into another container first")
        if frame is None:
            raise Unusable(f"no frame of the video (stream {index}, {_codec(stream)}) can be decoded")
        shape, height = Fraction(frame.width, frame.height) * Fraction(stream.sample_aspect_ratio or 1), frame.height
        if frame.rotation % 180:
            shape, height = 1 / shape, frame.width
        return Picture(frame.pts, shape, height, bool(frame.interlaced_frame), _HDR.get(int(frame.color_trc)))


def sound_of(container: InputContainer) -> Iterator[dict[str, Any]]:
    """Each audio track that has sound: how it is encoded, when it begins, and how long it is heard. Raises Unusable."""
    tracks = {track.index: _Track(number, track) for number, track in enumerate(container.streams.audio, start=1)}
    for index, frames in frames_of(container, *container.streams.audio) if tracks else ():
        tracks[index].is_empty = False
        for frame in frames:
            tracks[index].add(frame)
    for track in tracks.values():
        yield from track.pieces(start_of(container))


def check_overlap(name: str, end: Fraction, at: Fraction) -> None:
    """Raises Unusable if what comes at `at` repeats more than a joint may, after what ends at `end`."""
    if at < end - _OVERLAP_SECONDS:
        raise Unusable(
            f"the clock of {name} jumps from {float(end):.3f} s to {float(at):.3f} s: cut the file in two there"
        )


def start_of(container: InputContainer) -> Fraction:
    """The time that players show as zero."""
    return Fraction(container.start_time or 0, av.time_base)


class Clock:
    """When each frame of a track is heard: right after the one before, unless it says another time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begin = self.end = self._next = Fraction(0)
        self.has_begun = False

    def place(self, frame: Any) -> Fraction:
        """The time at which the frame begins. Raises Unusable if the clock runs backwards."""
        at = self._next if frame.pts is None else frame.pts * frame.time_base
        if not self.has_begun:
            self.has_begun = True
            self.begin = self.end = self._next = at
        if abs(at - self._next) < _JITTER_SECONDS:
            at = self._next
        check_overlap(self.name, self.end, at)
        self._next = at + Fraction(frame.samples, frame.sample_rate)
        self.end = max(self.end, self._next)
        return at


class _Track:
    """What is heard of an audio track, whose layout and rate may change on its way."""

    def __init__(self, number: int, stream: Any) -> None:
        self._name = f"audio track {number}"
        self._stream = stream
        self._clock = Clock(self._name)
        self._channels: dict[str, int] = {}  # by the name of the layout
        self._rates: set[int] = set()
        self.is_empty = True

    def add(self, frame: Any) -> None:
        self._clock.place(frame)
        if frame.layout.name not in self._channels:
            self._channels[frame.layout.name] = self._known(frame.layout.nb_channels, frame.layout.name)
        self._rates.add(frame.sample_rate)

    def _known(self, channels: int, layout: str) -> int:
        if channels > _LAYOUTS["7.1"]:
            raise Unusable(f"{self._name} has {channels} channels ({layout}), and AAC has at most 8")
        if layout == f"{channels} channels" and channels not in _USUAL:
            raise Unusable(f"{self._name} has {channels} channels, and the file does not say which of them is where")
        return channels

    def pieces(self, start: Fraction) -> Iterator[dict[str, Any]]:
        """The track, unless it is empty. Raises Unusable."""
        if not self._channels:
            if not self.is_empty:
                raise Unusable(f"the sound of {self._name} ({_codec(self._stream)}) can't be decoded")
            return
        layout = max((_standard(name, count) for name, count in self._channels.items()), key=list(_LAYOUTS).index)
        rate = max(self._rates)
        yield {
            "stream": self._stream.index,
            "at": str(max(Fraction(0), self._clock.begin - start)),
            "seconds": str(self._clock.end - self._clock.begin),
            "layout": layout,
            "rate": rate if rate in _RATES else 48000,
        }


def _standard(layout: str, channels: int) -> str:
    """The layout in AAC that has a place for each channel."""
    is_named = channels > 2 and layout != f"{channels} channels"
    name = layout.removesuffix("(side)") if is_named else _USUAL[channels]
    return name if name in _LAYOUTS else "5.1" if channels < _LAYOUTS["5.1"] else "7.1"


def _codec(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context else "of an unknown codec"
