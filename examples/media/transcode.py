"""One piece of a video: the frames of a segment, encoded by ffmpeg, or an audio track."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg

from . import sound
from .source import Unusable

_SOUND_SECONDS = Fraction(1, 20)  # that a track may be longer or shorter than planned


def transcode(input: Path, output: Path, video: Path, threads: int = 1) -> dict[str, Any]:
    """Encode the piece that the input describes, from time 0; what it is and where it belongs is in its metadata.

    Raises Unusable if it is not what was planned: a frame or some sound is lost.
    """
    piece = json.loads(input.read_text())
    label = {"name": piece["make"].get("name"), "at": piece["at"], "stream": piece["stream"]}
    if "first" not in piece:
        return label | _audio(piece, video, output, label)
    label["frames"] = piece["frames"]
    _ffmpeg(
        *["-threads", threads, "-copyts", *_seek(piece), "-i", video, "-map", f"0:{piece['stream']}"],
        *["-map_chapters", -1, "-filter_threads", threads, "-vf", ",".join(_filters(piece))],
        *["-fps_mode", "passthrough", "-enc_time_base", "demux", *_encoder(piece["make"], threads)],
        *["-metadata", f"comment={json.dumps(label)}", "-write_tmcd", 0, "-f", "mp4", output],
    )
    frames = _count_packets(output)
    if frames != piece["frames"]:
        raise Unusable(f"the segment has {frames} frames, {piece['frames']} were planned")
    return label


def _audio(piece: dict[str, Any], video: Path, output: Path, label: dict[str, Any]) -> dict[str, Any]:
    planned = Fraction(piece["seconds"])
    label = label | {"seconds": piece["seconds"]}
    seconds = sound.encode(video, output, piece, json.dumps(label))
    if abs(seconds - planned) > _SOUND_SECONDS:
        raise Unusable(f"the sound has {float(seconds):.3f} s, {float(planned):.3f} s were planned")
    return label


def _seek(piece: dict[str, Any]) -> list[Any]:
    """Seeking only has to end before the segment: its frames are told by their own time stamps."""
    return [] if piece["seek"] is None else ["-noaccurate_seek", "-seek_timestamp", 1, "-ss", f"{piece['seek']:.6f}"]


def _filters(piece: dict[str, Any]) -> list[str]:
    """Which frames there are, in whole units of the stream's time base, and what they look like.

    The time stamps go unchanged through filters, encoder and container. The size is the same for all segments, also
    where the source changes its own: then the picture is fitted into it.
    """
    end = "" if piece["end"] is None else f":end_pts={piece['end']}"
    width, height = piece["width"], piece["height"]
    fits, is_wider = f"lt(abs(dar*{height}/{width}-1),0.02)", f"gt(dar*{height},{width})"
    return [
        *([f"bwdif=mode=send_frame:deint=interlaced,settb={piece['base']}"] if piece["interlaced"] else []),
        f"trim=start_pts={piece['first']}{end}",
        "select='isnan(prev_selected_pts)+gt(pts,prev_selected_pts)'",  # where recordings overlap, the first one stays
        f"setpts=PTS-({piece['first']})",
        f"scale=w='if({fits}+{is_wider},{width},max(2,round({height}*dar/2)*2))'"
        f":h='if({fits},{height},if({is_wider},max(2,round({width}/dar/2)*2),{height}))'",
        *([_sdr(piece["hdr"])] if piece["hdr"] else []),
        f"pad={width}:{height}:trunc((ow-iw)/4)*2:trunc((oh-ih)/4)*2",
        "setsar=1",
        "format=yuv420p",
    ]


def _sdr(transfer: str) -> str:
    """HDR as players without it show it: its light is mapped to BT.709."""
    read = f"zscale=tin={transfer}:pin=bt2020:min=bt2020nc:t=linear:npl=100"
    return f"{read},format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p"


def _encoder(make: dict[str, Any], threads: int) -> list[Any]:
    quality = ["-crf", int(make["crf"]), "-preset", make["preset"]]
    match make["codec"]:
        case "h264":
            return ["-c:v", "libx264", *quality, "-threads", threads]
        case "av1":
            return ["-c:v", "libsvtav1", *quality, "-svtav1-params", f"lp={threads}"]
        case unknown:
            raise ValueError(f"no codec {unknown!r}: there are h264 and av1")


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
        videos = container.streams.video
        return sum(packet.size > 0 for packet in container.demux(videos)) if videos else 0
