"""The raw data: `python examples/media/data.py DIR [--seconds N] [--height N]` writes two videos, always the same.

film.mp4     a film as a camera or a studio delivers it: NTSC's frame rate, B-frames and open GOPs, two audio tracks
screen.mkv   a screen recording: frames only when something moves, so of no constant rate, and no sound
"""

import argparse
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg

_FILM_RATE, _SCREEN_RATE = "30000/1001", "60"

# A new frame in about one of three ticks, none at all in the last quarter of every fourth second.
_MOVES = r"select='lt(mod(n*n,11),4)*not(between(mod(n,240),180,239))'"

# Tones that rise, so that no moment sounds like another; the second is heard in one language of two.
_AUDIO = (
    "aevalsrc=exprs='0.4*sin(2*PI*t*(300+20*t))|0.4*sin(2*PI*t*(350+20*t))':sample_rate=48000",
    "aevalsrc=exprs='0.4*sin(2*PI*t*(500+30*t))*lt(mod(t,1),0.7)':sample_rate=44100",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=int, default=20, help="how long the film is; the recording is half of it")
    parser.add_argument("--height", type=int, default=360, help="in pixels, 16 to 9")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    write_film(options.directory / "film.mp4", options.seconds, options.height)
    write_screen(options.directory / "screen.mkv", options.seconds / 2, options.height)


def write_film(path: Path, seconds: float, height: int) -> None:
    audio = [argument for source in _AUDIO for argument in ("-f", "lavfi", "-i", f"{source}:duration={seconds}")]
    _ffmpeg(
        *["-f", "lavfi", "-i", f"{_picture(height, _FILM_RATE, seconds)},{_grain()}", *audio],
        *["-map", "0:v", "-map", "1:a", "-map", "2:a", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1"],
        *["language=deu", "-c:a", "aac", *_h264("open-gop=1:keyint=60:bframes=3:b-adapt=0:scenecut=0")],
        path,
    )
    _show(path)


def write_screen(path: Path, seconds: float, height: int) -> None:
    _ffmpeg(
        *["-f", "lavfi", "-i", f"{_picture(height, _SCREEN_RATE, seconds)},{_MOVES}", "-fps_mode", "passthrough"],
        *_h264("keyint=40:bframes=2"),
        path,
    )
    _show(path)


def _picture(height: int, rate: str, seconds: float) -> str:
    return f"testsrc2=size={height * 16 // 9 // 2 * 2}x{height}:rate={rate}:duration={seconds}"


def _grain() -> str:
    return "noise=all_seed=1895:alls=3:allf=t,format=yuv420p"


def _h264(params: str) -> list[str]:
    return ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-threads", "1", "-x264-params", params]


def _ffmpeg(*arguments: Any) -> None:
    *options, path = arguments
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", *options, "-bitexact", path]
    subprocess.run(list(map(str, command)), check=True)


def _show(path: Path) -> None:
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
