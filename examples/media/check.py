"""Checks the results: `python examples/media/check.py DATA_DIR RESULTS_DIR`.

Each rendition is compared with its source, and with what one ffmpeg makes of the whole source in a single pass by the
same settings: the frames and their times, how similar they are to the source (SSIM), and when the sound is heard.
"""

import re
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import av
import imageio_ffmpeg
import yaml

SSIM_TOLERANCE = 0.005
FRAME_SSIM_TOLERANCE = 0.02  # of the worst frame: one in another's place is less like it by several times as much

_SAMPLES_PER_SECOND = 8000
_WINDOW = 2000  # samples that are looked for
_REACH = 800  # how far from where they ought to be: 0.1 s
_ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}


def main(data: Path, results: Path) -> None:
    print(f"{'':24}{'frames':>8}{'single':>8}{'SSIM':>9}{'single':>9}{'audio':>7}{'drift':>10}")
    faults = [
        f"{rendition['name']} of {video.name}: {fault}"
        for job in sorted(Path(__file__).parent.glob("job-*.yaml"))
        for video, result, rendition, sound in _renditions(yaml.safe_load(job.read_text()), data, results)
        for fault in check(video, result / f"{rendition['name']}.mp4", rendition, sound)
    ]
    if faults:
        sys.exit("\n".join(faults))
    print("\nChecked: every frame at its time, all sound in its place, and as like the source as from a single pass.")


def _renditions(job: dict[str, Any], data: Path, results: Path) -> Iterator[tuple[Path, Path, dict[str, Any], Any]]:
    makes = job["input"]["items"]
    sound = next(make for make in makes if make["codec"] == "aac")
    for make in makes:
        if make is not sound:
            yield data / job["stages"][0]["inputs"]["video"], results / job["name"], make, sound


def check(video: Path, result: Path, rendition: dict[str, Any], sound: dict[str, Any]) -> Iterator[str]:
    """Print a rendition's line of the table; yields what is wrong with it."""
    with tempfile.TemporaryDirectory() as directory:
        single = encode_in_one_pass(video, Path(directory) / "single.mp4", rendition, sound)
        wanted, found, reference = frame_times(video), frame_times(result), frame_times(single)
        ours, theirs = ssim(result, video, rendition), ssim(single, video, rendition)
    drifts = list(_drifts(video, result))
    frame = min(later - earlier for earlier, later in pairwise(wanted))
    worst = max((abs(drift) for drift in drifts), default=0.0)
    print(
        f"{video.name:12}{rendition['name']:12}{len(found):8}{len(reference):8}{fmean(ours):9.4f}{fmean(theirs):9.4f}"
        f"{len(drifts) // 2:7}{worst * 1000:7.1f} ms",
        flush=True,
    )
    if len(found) != len(reference):
        yield f"{len(found)} frames, {len(reference)} in a single pass"
    if found != wanted:
        at = next((n for n, times in enumerate(zip(found, wanted, strict=False)) if times[0] != times[1]), len(found))
        yield f"{len(found)} frames, {len(wanted)} in the source; from frame {at} on they are not shown at its times"
    if abs(fmean(ours) - fmean(theirs)) > SSIM_TOLERANCE:
        yield f"its SSIM is {fmean(ours):.4f}, that of a single pass {fmean(theirs):.4f}"
    lacks = [theirs - ours for ours, theirs in zip(ours, theirs, strict=False)]
    if max(lacks) > FRAME_SSIM_TOLERANCE:
        yield f"frame {lacks.index(max(lacks))} is less like the source's by {max(lacks):.4f} than in a single pass"
    if worst >= frame:
        yield f"a sound is heard {worst:.3f} s away from its place"
    if (tracks := audio_tracks(result)) != audio_tracks(video):
        yield f"its audio tracks are {tracks}, the source's are {audio_tracks(video)}"


def encode_in_one_pass(video: Path, path: Path, rendition: dict[str, Any], sound: dict[str, Any]) -> Path:
    _ffmpeg(
        *["-i", video, "-map", "0:v:0", "-map", "0:a?", "-vf", f"scale=-2:{rendition['height']},format=yuv420p"],
        *["-fps_mode", "passthrough", "-enc_time_base", "demux", "-c:v", _ENCODERS[rendition["codec"]]],
        *["-crf", rendition["crf"], "-preset", rendition["preset"], "-c:a", "aac", "-b:a", f"{sound['kilobits']}k"],
        path,
    )
    return path


def frame_times(path: Path) -> list[Fraction]:
    """When each frame is shown, counted from the first."""
    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(container.streams.video[0])]
    return [time - times[0] for time in times]


def ssim(path: Path, video: Path, rendition: dict[str, Any]) -> list[float]:
    """How like frame number n of the video, in the rendition's size, frame number n of the file is: 1 is the same."""
    number = "settb=1/25,setpts=N"
    source = f"[1:v]scale=-2:{rendition['height']},format=yuv420p,{number}[source]"
    graph = f"{source};[0:v]{number}[file];[file][source]ssim=stats_file=-"
    lines = _ffmpeg("-i", path, "-i", video, "-lavfi", graph, "-fps_mode", "passthrough", "-f", "null", "-")
    return [float(number) for number in re.findall(rb"All:([0-9.]+)", lines)]


def audio_tracks(path: Path) -> list[str]:
    """Their languages."""
    with av.open(str(path)) as container:
        return [stream.metadata.get("language", "und") for stream in container.streams.audio]


def _drifts(video: Path, result: Path) -> Iterator[float]:
    """Of each track, how many seconds too late the sound near its beginning and near its end is heard."""
    for track, _ in enumerate(audio_tracks(video)):
        source, found = _samples(video, track), _samples(result, track)
        for start in (_REACH, len(source) - _WINDOW - _REACH - _SAMPLES_PER_SECOND // 2):
            yield _lag(source, found, start) / _SAMPLES_PER_SECOND


def _samples(path: Path, track: int) -> Sequence[int]:
    """What is heard from the time of the first frame on."""
    with av.open(str(path)) as container:
        first = next(container.decode(container.streams.video[0]))
        seconds = float(first.pts * first.time_base) - (container.start_time or 0) / av.time_base
    filters = f"aresample={_SAMPLES_PER_SECOND}:async=1:first_pts=0,atrim=start={seconds}"
    output = ["-ac", 1, "-f", "s16le", "-c:a", "pcm_s16le", "-"]
    return array("h", _ffmpeg("-i", path, "-map", f"0:a:{track}", "-af", filters, *output))


def _lag(source: Sequence[int], found: Sequence[int], start: int) -> int:
    """By how many samples the source's sound from `start` on is later in the other: where the two are most alike."""
    window = source[start : start + _WINDOW]

    def difference(lag: int) -> int:
        return sum((a - b) ** 2 for a, b in zip(window, found[start + lag :], strict=False))

    return min(range(-_REACH, _REACH + 1), key=difference)


def _ffmpeg(*arguments: Any) -> bytes:
    """Run ffmpeg; returns what it wrote to its standard output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr.decode(errors='replace')}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
