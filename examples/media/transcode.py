"""One piece of a video, encoded by ffmpeg: the frames of a segment, or an audio track."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg


def transcode(input: Path, output: Path, video: Path, threads: int = 1) -> dict[str, Any]:
    """Encode the piece that the input describes, from time 0; what it is and where it belongs is in its metadata."""
    piece = json.loads(input.read_text())
    is_video = "first" in piece
    read, write = _video(piece, threads) if is_video else _audio(piece)
    label = {"name": piece["make"].get("name"), "at": piece["at"], "stream": piece["stream"]}
    _ffmpeg(
        *["-threads", threads, *read, "-i", video, "-map", f"0:{piece['stream']}", "-map_chapters", -1, *write],
        *["-metadata", f"comment={json.dumps(label)}", "-f", "mp4", output],
    )
    frames = _count_packets(output)
    if is_video and frames != piece["frames"]:
        raise ValueError(f"the segment has {frames} frames, {piece['frames']} were planned")
    return {**label, "frames": frames}


def _video(piece: dict[str, Any], threads: int) -> tuple[list[Any], list[Any]]:
    """Options for the source and for the output.

    Seeking only has to end before the segment; which frames belong to it is decided by their own time stamps, in whole
    units of the stream's time base, and these go unchanged through filters, encoder and container.
    """
    end = "" if piece["end"] is None else f":end_pts={piece['end']}"
    filters = [
        f"trim=start_pts={piece['first']}{end}",
        f"setpts=PTS-({piece['first']})",
        f"scale=w=-2:h=trunc(min({int(piece['make']['height'])}\\,ih)/2)*2",  # even, and never larger than the source
        "format=yuv420p",
    ]
    seek = [] if piece["seek"] is None else ["-noaccurate_seek", "-seek_timestamp", 1, "-ss", f"{piece['seek']:.6f}"]
    timing = ["-fps_mode", "passthrough", "-enc_time_base", "demux"]
    write = ["-filter_threads", threads, "-vf", ",".join(filters), *timing, *_encoder(piece["make"], threads)]
    return ["-copyts", *seek], write


def _encoder(make: dict[str, Any], threads: int) -> list[Any]:
    quality = ["-crf", int(make["crf"]), "-preset", make["preset"]]
    match make["codec"]:
        case "h264":
            return ["-c:v", "libx264", *quality, "-threads", threads]
        case "av1":
            return ["-c:v", "libsvtav1", *quality, "-svtav1-params", f"lp={threads}"]
        case unknown:
            raise ValueError(f"no codec {unknown!r}: there are h264 and av1")


def _audio(piece: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    kilobits = int(piece["make"]["kilobits"])
    return [], ["-af", "asetpts=PTS-STARTPTS", "-c:a", "aac", "-b:a", f"{kilobits}k"]


def _ffmpeg(*arguments: Any) -> None:
    """Run ffmpeg; raises RuntimeError with the last thing it said."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "warning", "-y"]
    done = subprocess.run([*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True, errors="replace")
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"ffmpeg ended with exit code {done.returncode}: {last}")


def _count_packets(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux())
