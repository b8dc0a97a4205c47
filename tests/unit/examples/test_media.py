"""The media example: whatever the source, its frames come out once, in order, each at its time, and so does the sound.

Each frame of the small sources here shows its own number as a bar code.
"""

import json
import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import pytest

from examples.media.join import join
from examples.media.plan import plan
from examples.media.transcode import transcode

BITS = 8
BAR_CODE = f"geq=lum='16+219*mod(floor(N/pow(2,floor(X*{BITS}/W))),2)':cb=128:cr=128"

X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "24", "-x264-params", "b-adapt=0:scenecut=0:bframes=3"]
OPEN_GOP = [*X264[:-1], f"{X264[-1]}:open-gop=1"]
HEVC_OPEN_GOP = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params"]
HEVC_OPEN_GOP += ["keyint=24:min-keyint=24:open-gop=1:bframes=3:b-adapt=0:scenecut=0:log-level=error"]

# No two frames alike in time, and half a second's pause after every 24th; in ticks that no frame rate is made of.
VARIABLE = "settb=1/90001,setpts='(N+0.3*mod(N,3)+12*floor((N+23)/24))*3600'"

H264 = {"name": "h264", "codec": "h264", "height": 48, "crf": 26, "preset": "superfast"}  # with B-frames
AV1 = {"name": "av1", "codec": "av1", "height": 64, "crf": 40, "preset": 10}
AAC = {"codec": "aac", "kilobits": 64}


def ffmpeg(*arguments: Any) -> None:
    quiet = ["-nostdin", "-loglevel", "error", "-y"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *map(str, arguments)], check=True)


def make_video(
    path: Path,
    encoder: list[str],
    frames: int = 90,
    filters: str = "null",
    size: str = "160x96",
    rate: str = "25",
    audio_offsets: tuple[float, ...] = (),
) -> Path:
    """Frames with a bar code each, and tracks of sound that begin at their offsets."""
    sounds, maps = [], ["-map", "0:v"]
    for number, offset in enumerate(audio_offsets):
        sounds += ["-itsoffset", offset, "-f", "lavfi", "-i", f"sine={300 * (number + 1)}:d={frames / 25}"]
        maps += ["-map", f"{number + 1}:a", f"-metadata:s:a:{number}", f"language={('eng', 'deu')[number]}"]
    picture = f"color=gray:s={size}:r={rate},format=yuv420p,{BAR_CODE},{filters}"
    timing = ["-frames:v", frames, "-fps_mode", "passthrough", "-enc_time_base", "filter"]
    ffmpeg("-f", "lavfi", "-i", picture, *sounds, *maps, *timing, *encoder, "-c:a", "aac", path)
    return path


def run(video: Path, directory: Path, *makes: dict[str, Any], segment_seconds: float = 0.75) -> dict[str, Path]:
    """As the grid does: plan, transcode every piece, join; returns the renditions."""
    task, parts = directory / "task.json", directory / "parts"
    parts.mkdir()
    pieces = []
    for make in makes:
        task.write_text(json.dumps(make))
        pieces += plan(task, directory / "none", video=video, segment_seconds=segment_seconds)
    for number, piece in enumerate(pieces):
        task.write_text(json.dumps(piece))
        transcode(task, parts / f"{number:08d}.mp4", video=video)
    renditions = {make["name"]: directory / f"{make['name']}.mp4" for make in makes if "name" in make}
    join(parts, directory / "renditions.json", **renditions)
    return renditions


def frames_of(path: Path) -> list[tuple[int, Fraction]]:
    """The number that each frame shows, and when it is shown, counted from the first."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            plane = frame.reformat(format="gray").planes[0]
            row = bytes(plane)[frame.height // 2 * plane.line_size :]
            bits = [row[(2 * bit + 1) * frame.width // (2 * BITS)] > 128 for bit in range(BITS)]
            frames.append((sum(shown << bit for bit, shown in enumerate(bits)), frame.pts * frame.time_base))
    return [(number, time - frames[0][1]) for number, time in frames]


def sound_of(path: Path) -> list[tuple[str, float, float]]:
    """Of each track its language, and when its tone begins and ends, counted from the first frame."""
    with av.open(str(path)) as container:
        languages = [stream.metadata["language"] for stream in container.streams.audio]
        first = next(container.decode(container.streams.video[0])).time
    return [(language, *_tone(path, track, first)) for track, language in enumerate(languages)]


def _tone(path: Path, track: int, first: float) -> tuple[float, float]:
    with av.open(str(path)) as container:
        loud = [
            frame.time + number / frame.sample_rate
            for frame in container.decode(audio=track)
            for number, sample in enumerate(memoryview(frame.planes[0]).cast("B").cast("f")[: frame.samples])
            if abs(sample) > 0.02
        ]
    return loud[0] - first, loud[-1] - first


def segment_count(directory: Path) -> int:
    return len(list((directory / "parts").iterdir()))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("constant.mp4", {"encoder": X264}, id="constant rate"),
        pytest.param("open.mp4", {"encoder": OPEN_GOP, "rate": "30000/1001"}, id="open GOP, NTSC"),
        pytest.param("open.mkv", {"encoder": OPEN_GOP}, id="open GOP, a format without exact seeking"),
        pytest.param("hevc.ts", {"encoder": HEVC_OPEN_GOP}, id="HEVC's open GOP, no index, not from time 0"),
        pytest.param("variable.mp4", {"encoder": X264, "filters": VARIABLE}, id="variable rate"),
        pytest.param("variable.mkv", {"encoder": OPEN_GOP, "filters": VARIABLE}, id="variable rate and open GOP"),
        pytest.param("odd.mp4", {"encoder": X264, "size": "161x47", "filters": "format=yuv444p"}, id="odd size"),
    ],
)
def test_every_frame_once_and_at_its_time(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    video = make_video(tmp_path / name, **options)
    expected = frames_of(video)
    assert len(expected) == 90 and expected == sorted(expected)

    rendition = run(video, tmp_path, H264)["h264"]

    assert segment_count(tmp_path) >= 3
    assert frames_of(rendition) == expected
    with av.open(str(rendition)) as container:
        decoding = [packet.dts for packet in container.demux(video=0) if packet.size]
    assert all(earlier < later for earlier, later in pairwise(decoding))


def test_a_ladder_with_two_audio_tracks(tmp_path: Path) -> None:
    video = make_video(tmp_path / "video.mkv", OPEN_GOP, audio_offsets=(0.0, 0.3))

    renditions = run(video, tmp_path, AV1, H264, AAC)

    for path in renditions.values():
        assert frames_of(path) == frames_of(video)
        for found, expected in zip(sound_of(path), sound_of(video), strict=True):
            assert found == (expected[0], pytest.approx(expected[1], abs=0.003), pytest.approx(expected[2], abs=0.003))
    described = json.loads((tmp_path / "renditions.json").read_text())
    assert {name: (one["codec"], one["frames"], one["audio_tracks"]) for name, one in described.items()} == {
        "av1": ("av1", 90, 2),
        "h264": ("h264", 90, 2),
    }


def test_no_sound_stays_no_sound(tmp_path: Path) -> None:
    rendition = run(make_video(tmp_path / "video.mp4", X264), tmp_path, H264, AAC)["h264"]
    assert sound_of(rendition) == []


def test_fewer_frames_than_a_segment(tmp_path: Path) -> None:
    video = make_video(tmp_path / "video.mp4", X264, frames=2, audio_offsets=(0.0,))
    rendition = run(video, tmp_path, H264, AAC)["h264"]
    assert segment_count(tmp_path) == 2
    assert frames_of(rendition) == frames_of(video)


def test_frames_before_the_cut_of_an_edit_list_stay_away(tmp_path: Path) -> None:
    ffmpeg("-ss", 0.5, "-i", make_video(tmp_path / "all.mp4", X264), "-c", "copy", tmp_path / "cut.mp4")
    rendition = run(tmp_path / "cut.mp4", tmp_path, H264)["h264"]
    assert frames_of(rendition) == frames_of(tmp_path / "cut.mp4")
    assert [number for number, _ in frames_of(rendition)] == list(range(13, 90))


def test_a_video_taken_upright_is_shown_upright(tmp_path: Path) -> None:
    lying = make_video(tmp_path / "lying.mp4", X264)
    ffmpeg("-display_rotation", 90, "-i", lying, "-c", "copy", tmp_path / "upright.mp4")
    rendition = run(tmp_path / "upright.mp4", tmp_path, H264 | {"height": 160})["h264"]
    with av.open(str(rendition)) as container:
        frames = list(container.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height, frames[0].rotation) == (90, 96, 160, 0)


def test_a_lost_frame_fails_the_task(tmp_path: Path) -> None:
    video, task = make_video(tmp_path / "video.mp4", X264), tmp_path / "task.json"
    task.write_text(json.dumps(H264))
    piece = plan(task, tmp_path / "none", video=video, segment_seconds=0.75)[1]
    task.write_text(json.dumps(piece | {"seek": 2.0}))
    with pytest.raises(ValueError, match=r"the segment has .* frames, 24 were planned"):
        transcode(task, tmp_path / "piece.mp4", video=video)


@pytest.mark.parametrize("make", [{"codec": "h266"}, H264 | {"kilobits": 9}, {"codec": "aac"}])
def test_what_cannot_be_made_fails_before_anything_is_encoded(tmp_path: Path, make: dict[str, Any]) -> None:
    (tmp_path / "task.json").write_text(json.dumps(make))
    with pytest.raises(ValueError, match="can't make"):
        plan(tmp_path / "task.json", tmp_path / "none", video=tmp_path / "none.mp4")
