"""An audio track as AAC of one layout and one rate, each sound at its time.

A source may change its layout or rate on its way, leave gaps, or repeat what was heard. So its sound is laid on a
timeline of samples: a gap is silence, and what repeats is left out.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from .source import Clock, frames_of, opened

_BLOCK = 1024  # samples
_DELAY = 512  # samples that a resampler may hold back


def encode(video: Path, output: Path, piece: dict[str, Any], comment: str) -> Fraction:
    """Write the track as `piece` says; returns how many seconds of sound it has."""
    with opened(video) as source, av.open(str(output), "w", format="mp4") as target:
        stream = source.streams[piece["stream"]]
        target.metadata["comment"] = comment
        track: Any = target.add_stream("aac", rate=piece["rate"], layout=piece["layout"])
        track.bit_rate = int(piece["make"]["kilobits"]) * 1000
        track.metadata.update({key: stream.metadata[key] for key in ("language", "title") if key in stream.metadata})
        timeline = _Timeline(piece["layout"], piece["rate"])
        for block in timeline.blocks(frame for _, frames in frames_of(source, stream) for frame in frames):
            target.mux(track.encode(block))
        target.mux(track.encode(None))
        return Fraction(timeline.written, piece["rate"])


class _Timeline:
    """Blocks of samples in one format, one after the other."""

    def __init__(self, layout: str, rate: int) -> None:
        self.written = 0  # samples
        self._clock = Clock("the sound")
        self._layout, self._rate = layout, rate
        self._waiting = av.AudioFifo()
        self._repeated = 0  # samples to come that were heard before

    def blocks(self, frames: Iterator[Any]) -> Iterator[Any]:
        resampler: Any = None
        like = None
        for frame in frames:
            kind = frame.format.name, frame.layout.name, frame.sample_rate
            if kind != like:
                self._put(resampler.resample(None) if resampler else [])
                resampler, like = av.AudioResampler("fltp", self._layout, self._rate), kind
            at = self._clock.place(frame)
            yield from self._move_to(round((at - self._clock.begin) * self._rate))
            self._put(resampler.resample(frame))
            yield from self._full_blocks()
        self._put(resampler.resample(None) if resampler else [])
        yield from self._full_blocks()
        if rest := self._waiting.read(0, partial=True):
            yield self._stamped(rest)

    def _move_to(self, position: int) -> Iterator[Any]:
        """Whatever comes next belongs at this sample."""
        gap = position - (self.written + self._waiting.samples - self._repeated)
        if abs(gap) <= _DELAY:
            return
        heard = min(gap, self._repeated)
        self._repeated -= heard
        for start in range(heard, gap, _BLOCK):
            self._waiting.write(_unplaced(self._silence(min(_BLOCK, gap - start))))
            yield from self._full_blocks()

    def _put(self, frames: list[Any]) -> None:
        for frame in frames:
            if skipped := min(self._repeated, frame.samples):
                self._repeated -= skipped
                frame = _without(frame, skipped)
            if frame:
                self._waiting.write(_unplaced(frame))

    def _full_blocks(self) -> Iterator[Any]:
        while block := self._waiting.read(_BLOCK):
            yield self._stamped(block)

    def _stamped(self, block: Any) -> Any:
        block.pts, block.time_base = self.written, Fraction(1, self._rate)
        self.written += block.samples
        return block

    def _silence(self, samples: int) -> Any:
        frame = av.AudioFrame("fltp", self._layout, samples)
        frame.sample_rate = self._rate
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        return frame


def _without(frame: Any, samples: int) -> Any:
    """The rest of the frame after some samples, or None."""
    fifo = av.AudioFifo()
    fifo.write(_unplaced(frame))
    fifo.read(samples)
    return fifo.read(0, partial=True)


def _unplaced(frame: Any) -> Any:
    """The frame, whose place is the number of its first sample."""
    frame.pts, frame.time_base = None, Fraction(1, frame.sample_rate)
    return frame
