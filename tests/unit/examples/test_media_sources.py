"""Sources as cameras, phones, studios and broadcasters make them: what the media example makes of each, or refuses.

All are made by ffmpeg, last a second or two, and show their frames' numbers as bar codes.
"""

import json
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from examples.media.join import join
from examples.media.plan import plan
from examples.media.source import Unusable
from examples.media.transcode import transcode
from tests.unit.examples.test_media import AAC, BITS, H264, X264, ffmpeg, frames_of, make_video, run

FRAMES = 36
HEVC = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error:keyint=12"]
WIDE_GAMUT = "setparams=color_primaries=bt2020:colorspace=bt2020nc:color_trc="
PICTURE = ("-frames:v", 1)

Make = Callable[[Path, Path], Path]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("film") / "film.mp4", X264, frames=FRAMES)


def made(name: str, *options: Any, copied: bool = False) -> Make:
    """A source made of the film by one ffmpeg."""

    def make(film: Path, directory: Path) -> Path:
        ffmpeg("-i", film, *(["-c", "copy"] if copied else []), *options, directory / name)
        return directory / name

    return make


def with_sound(name: str, source: str, *codec: Any) -> Make:
    sound = ["-f", "lavfi", "-i", f"{source}:d=1.44", "-map", "0:v", "-map", "1:a", "-c:v", "copy"]
    return made(name, *sound, *(codec or ("-c:a", "aac")))


def shape_of(path: Path) -> dict[str, Any]:
    """What players are told of a rendition."""
    with av.open(str(path)) as container:
        video, sounds = container.streams.video[0], container.streams.audio
        frame = next(container.decode(video))
        return {
            "size": (video.width, video.height, video.sample_aspect_ratio, frame.format.name),
            "sound": [(one.codec_context.layout.name, one.rate) for one in sounds],
            "light": (int(frame.color_trc), int(frame.colorspace)),
        }


SIZE = (80, 48, Fraction(1), "yuv420p")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(made("ten.mp4", "-pix_fmt", "yuv420p10le", *HEVC), {}, id="10 bit"),
        pytest.param(made("alpha.mov", "-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"), {}, id="transparent"),
        pytest.param(
            made("wide.mp4", "-vf", "setsar=4/3", *X264), {"size": (106, 48, Fraction(1), "yuv420p")}, id="anamorphic"
        ),
        *(
            pytest.param(
                made(f"{name}.mp4", "-vf", f"{WIDE_GAMUT}{name}", "-pix_fmt", "yuv420p10le", *HEVC),
                {"light": (1, 1)},
                id=f"HDR, {name}",
            )
            for name in ("smpte2084", "arib-std-b67")
        ),
        pytest.param(made("moving.gif"), {}, id="an animated GIF"),
        pytest.param(made("mpeg.ts", "-c:v", "mpeg2video", "-bf", 2, "-g", 12), {}, id="MPEG-2"),
        pytest.param(with_sound("mono.flv", "sine=440:r=44100"), {"sound": [("mono", 44100)]}, id="mono, FLV"),
        *(
            pytest.param(
                with_sound(f"{layout}.mkv", f"anullsrc=cl={layout}:r=48000", "-c:a", "pcm_s16le"),
                {"sound": [(standard, 48000)]},
                id=f"{layout} sound",
            )
            for layout, standard in {"stereo": "stereo", "5.1": "5.1", "7.1": "7.1"}.items()
        ),
        pytest.param(
            with_sound("side.mp4", "anullsrc=cl=5.1(side):r=48000", "-c:a", "ac3"),
            {"sound": [("5.1", 48000)]},
            id="AC-3",
        ),
        pytest.param(
            with_sound("quad.mov", "anullsrc=cl=quad:r=48000", "-c:a", "pcm_s16le"),
            {"sound": [("5.1", 48000)]},
            id="quad",
        ),
        pytest.param(
            with_sound("fast.mkv", "sine=440:r=192000", "-c:a", "flac"), {"sound": [("mono", 48000)]}, id="192 kHz"
        ),
        pytest.param(with_sound("x.webm", "sine=440:r=48000", "-c:v", "libvpx-vp9", "-c:a", "libopus"), {}, id="WebM"),
    ],
)
def test_what_is_handled(film: Path, tmp_path: Path, make: Make, expected: dict[str, Any]) -> None:
    source = make(film, tmp_path)
    rendition = run(source, tmp_path, H264, AAC)["h264"]
    assert [number for number, _ in frames_of(rendition)] == list(range(FRAMES))
    assert [time for _, time in frames_of(rendition)] == [time for _, time in frames_of(source)]
    shape = shape_of(rendition)
    assert shape["size"] == expected.get("size", SIZE)
    assert {name: shape[name] for name in expected} == expected


def subtitles(film: Path, directory: Path) -> Path:
    (directory / "s.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    return made("s.mp4", "-i", directory / "s.srt", "-map", 0, "-map", 1, "-c:v", "copy", "-c:s", "mov_text")(
        film, directory
    )


def cover(name: str, *mapped: Any) -> Make:
    def make(film: Path, directory: Path) -> Path:
        ffmpeg("-i", film, *PICTURE, directory / "cover.png")
        options = [*mapped, "-c:v", "copy", f"-disposition:v:{len(mapped) // 2 - 2}", "attached_pic"]
        ffmpeg(
            "-i", film, "-i", directory / "cover.png", "-f", "lavfi", "-i", "sine=440:d=1", *options, directory / name
        )
        return directory / name

    return make


def attached(film: Path, directory: Path) -> Path:
    ffmpeg("-i", film, *PICTURE, directory / "cover.png")
    picture = [
        "-attach",
        directory / "cover.png",
        "-metadata:s:t",
        "mimetype=image/png",
        "-metadata:s:t",
        "filename=cover.png",
    ]
    return made("a.mkv", *picture, copied=True)(film, directory)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(cover("cover.mp4", "-map", "0:v", "-map", "2:a", "-map", "1:v"), id="cover art in MP4"),
        pytest.param(cover("first.mp4", "-map", "1:v", "-map", "0:v"), id="cover art before the film"),
        pytest.param(attached, id="cover art attached to Matroska"),
        pytest.param(subtitles, id="subtitles"),
        pytest.param(made("t.mov", "-timecode", "01:00:00:00", copied=True), id="a timecode"),
    ],
)
def test_what_belongs_to_no_film_is_left_out(film: Path, tmp_path: Path, make: Make) -> None:
    source = make(film, tmp_path)
    with av.open(str(source)) as container:
        assert len(container.streams) > 1
    rendition = run(source, tmp_path, H264, AAC)["h264"]
    assert frames_of(rendition) == frames_of(film)
    with av.open(str(rendition)) as container:
        assert {stream.type for stream in container.streams} <= {"video", "audio"}


def cut(source: Make, share: float) -> Make:
    def make(film: Path, directory: Path) -> Path:
        whole = source(film, directory)
        whole.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
        return whole

    return make


def written(name: str, content: bytes) -> Make:
    def make(film: Path, directory: Path) -> Path:
        (directory / name).write_bytes(content)
        return directory / name

    return make


def twice(film: Path, directory: Path) -> Path:
    once = made("once.ts", copied=True)(film, directory)
    once.write_bytes(once.read_bytes() * 2)
    return once


def unnamed_channels(film: Path, directory: Path) -> Path:
    raw = written("raw", bytes(2 * 3 * 48000))(film, directory)
    sound = ["-f", "s16le", "-ar", 48000, "-channel_layout", "3 channels", "-i", raw, "-map", "0:v", "-map", "1:a"]
    return made("unnamed.mkv", *sound, "-c:v", "copy", "-c:a", "pcm_s16le")(film, directory)


MP3 = ("-c:a", "libmp3lame")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(
            made("a.mp3", "-f", "lavfi", "-i", "sine=440:d=1", "-map", 1), "the input has no video stream", id="song"
        ),
        pytest.param(
            cover("a.mp3", "-map", "2:a", "-map", "1:v"), "the input has no video stream", id="song with a cover, MP3"
        ),
        pytest.param(
            cover("a.m4a", "-map", "2:a", "-map", "1:v"), "the input has no video stream", id="song with a cover, M4A"
        ),
        pytest.param(
            cover("a.flac", "-map", "2:a", "-map", "1:v"), "the input has no video stream", id="song with a cover, FLAC"
        ),
        *(
            pytest.param(made(name, *PICTURE), f"the input is an image ({format}), not a video", id=name)
            for name, format in {"a.png": "png_pipe", "a.jpg": "jpeg_pipe", "a.webp": "webp_pipe"}.items()
        ),
        pytest.param(
            made("two.mp4", "-map", "0:v", "-map", "0:v", copied=True),
            "the input has 2 video streams: 0 (160x96), 1 (160x96); say which by the param stream",
            id="two videos",
        ),
        pytest.param(
            with_sound("many.mov", "anullsrc=cl=hexadecagonal:r=48000", "-c:a", "pcm_s16le"),
            "audio track 1 has 16 channels (hexadecagonal), and AAC has at most 8",
            id="16 channels",
        ),
        pytest.param(
            unnamed_channels,
            "audio track 1 has 3 channels, and the file does not say which of them is where",
            id="unnamed",
        ),
        pytest.param(
            cut(made("cut.mp4", copied=True), 0.7), "the input can't be read as video", id="MP4 without its index"
        ),
        pytest.param(
            cut(made("cut.mp4", "-movflags", "faststart", copied=True), 0.7),
            "the input is cut off: its index",
            id="cut MP4",
        ),
        pytest.param(
            cut(lambda film, to: make_video(to / "cut.mkv", X264, frames=90), 0.4),
            "the input is cut off: it is 3.600 s long, but ends after 1.",
            id="cut Matroska",
        ),
        *(
            pytest.param(
                cut(made(name, "-c:v", "mpeg4" if name == "cut.avi" else "flv1"), 0.6),
                "the input is cut off: it is 1.",
                id=name,
            )
            for name in ("cut.avi", "cut.flv")
        ),
        pytest.param(
            made("bare.h264", copied=True),
            "the video has frames without a time; copy it into another",
            id="no container",
        ),
        pytest.param(
            twice, "the clock of the video jumps from 2.880 s to 1.480 s: cut the file in two there", id="twice"
        ),
        pytest.param(written("text.mp4", b"hello" * 99), "the input can't be read as video: Invalid data", id="text"),
        pytest.param(written("empty.mp4", b""), "the input can't be read as video", id="empty"),
    ],
)
def test_what_is_refused_before_any_work(film: Path, tmp_path: Path, make: Make, reason: str) -> None:
    source = make(film, tmp_path)
    said = set()
    for item in (H264, AAC):
        (tmp_path / "task.json").write_text(json.dumps(item))
        try:
            plan(tmp_path / "task.json", tmp_path / "none", video=source)
        except Unusable as error:  # what is wrong with the sound does not concern the picture
            said.add(str(error))
            assert error.input_invalid
    assert said and all(reason in one for one in said)


def test_one_of_two_videos_can_be_chosen(film: Path, tmp_path: Path) -> None:
    source = made("two.mp4", "-map", "0:v", "-map", "0:v", copied=True)(film, tmp_path)
    (tmp_path / "task.json").write_text(json.dumps(H264))
    assert {piece["stream"] for piece in plan(tmp_path / "task.json", tmp_path / "none", source, stream=1)} == {1}
    with pytest.raises(Unusable, match="stream 2 of the input is not a video; these are: 0, 1"):
        plan(tmp_path / "task.json", tmp_path / "none", source, stream=2)


def appended(directory: Path, name: str, *parts: Path) -> Path:
    """Files one after the other, whose times go on."""
    (directory / "list.txt").write_text("".join(f"file '{part}'\n" for part in parts))
    ffmpeg("-f", "concat", "-safe", 0, "-i", directory / "list.txt", "-c", "copy", directory / name)
    return directory / name


def test_a_picture_that_changes_its_size_is_fitted_into_the_first_one(tmp_path: Path) -> None:
    parts = [
        make_video(tmp_path / f"{number}.ts", X264, frames=FRAMES, size=size)
        for number, size in enumerate(("160x96", "96x160", "320x192"))
    ]
    rendition = run(appended(tmp_path, "all.ts", *parts), tmp_path, H264)["h264"]
    assert shape_of(rendition)["size"] == SIZE
    with av.open(str(rendition)) as container:
        frames = [frame.reformat(format="gray") for frame in container.decode(container.streams.video[0])]
    assert len(frames) == 3 * FRAMES
    for place, frame in enumerate(frames):
        width = 28 if FRAMES <= place < 2 * FRAMES else 80  # 96x160 in a height of 48
        row = bytes(frame.planes[0])[24 * frame.planes[0].line_size :]
        left = (80 - width) // 2
        bits = [row[left + (2 * bit + 1) * width // (2 * BITS)] > 128 for bit in range(BITS)]
        assert sum(shown << bit for bit, shown in enumerate(bits)) == place % FRAMES
        assert max(row[: max(left - 2, 0)], default=0) < 40


def test_interlaced_video_is_shown_without_combs(tmp_path: Path) -> None:
    moving = "color=black:s=160x96:r=50:d=1.44,format=yuv420p,drawbox=w=24:h=96:c=white:t=fill"
    moving = moving.replace("drawbox=", "geq=lum='if(between(X,N*2,N*2+24),235,16)':cb=128:cr=128,null,drawbox=x=-99:")
    flags = ["-vf", "tinterlace=interleave_top,setfield=tff", "-flags", "+ildct+ilme", *X264[:-1], f"{X264[-1]}:tff=1"]
    ffmpeg("-f", "lavfi", "-i", moving, *flags, tmp_path / "fields.ts")
    rendition = run(tmp_path / "fields.ts", tmp_path, H264 | {"height": 96, "crf": 10})["h264"]

    def combs(path: Path) -> list[int]:
        """By how much neighbouring lines differ in the middle of each frame."""
        found = []
        with av.open(str(path)) as container:
            for frame in container.decode(container.streams.video[0]):
                plane = frame.reformat(format="gray").planes[0]
                first, second = (bytes(plane)[n * plane.line_size :][: frame.width] for n in (48, 49))
                found.append(sum(abs(a - b) for a, b in zip(first, second, strict=True)))
        return found

    source, shown = combs(tmp_path / "fields.ts"), combs(rendition)
    assert len(source) == len(shown) == FRAMES
    assert sum(shown[1:-1]) < sum(source[1:-1]) / 4


def pitch_of(path: Path, begin: float, end: float) -> float:
    """The pitch of the first track between two times, in hertz, by how often its sum of channels crosses zero."""
    samples: list[float] = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[0]):
            planes = [memoryview(plane).cast("B").cast("f")[: frame.samples] for plane in frame.planes]
            if begin <= frame.time < end:
                samples += map(sum, zip(*planes, strict=True))
                rate = frame.sample_rate
    crossings = sum(one <= 0 < other for one, other in pairwise(samples))
    return crossings * rate / len(samples)


def seconds_in(path: Path) -> float:
    """How much sound there is, by its samples."""
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(container.streams.audio[0]))


def tone(film: Path, path: Path, hertz: int, layout: str, rate: int) -> Path:
    sound = f"sine={hertz}:r={rate}:d=1.44,aformat=channel_layouts={layout}"
    ffmpeg("-i", film, "-f", "lavfi", "-i", sound, "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "aac", path)
    return path


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (("stereo", 48000), ("5.1", 48000), ("5.1", 48000)),
        (("5.1", 48000), ("mono", 44100), ("5.1", 48000)),
        (("mono", 22050), ("stereo", 48000), ("stereo", 48000)),
    ],
)
def test_sound_that_changes_its_layout_and_rate_goes_on(
    film: Path, tmp_path: Path, first: tuple[str, int], second: tuple[str, int], kept: tuple[str, int]
) -> None:
    parts = [tone(film, tmp_path / "1.ts", 440, *first), tone(film, tmp_path / "2.ts", 880, *second)]
    source = appended(tmp_path, "all.ts", *parts)
    rendition = run(source, tmp_path, H264, AAC)["h264"]
    assert frames_of(rendition) == frames_of(source)
    assert shape_of(rendition)["sound"] == [kept]
    [seconds] = json.loads((tmp_path / "renditions.json").read_text())["h264"]["audio_seconds"]
    assert seconds == pytest.approx(seconds_in(source), abs=0.05)
    assert pitch_of(rendition, 0.2, 1.2) == pytest.approx(440, abs=8)
    assert pitch_of(rendition, 1.9, 2.7) == pytest.approx(880, abs=16)


def test_a_gap_in_the_sound_stays_a_gap(film: Path, tmp_path: Path) -> None:
    gap = ["-af", "aselect='not(between(t,0.5,0.9))'", "-c:a", "pcm_s16le"]
    source = with_sound("gap.mkv", "sine=440:r=48000", *gap)(film, tmp_path)
    rendition = run(source, tmp_path, H264, AAC)["h264"]
    [seconds] = json.loads((tmp_path / "renditions.json").read_text())["h264"]["audio_seconds"]
    assert seconds == pytest.approx(1.44, abs=0.03)
    assert pitch_of(rendition, 0.1, 0.4) == pytest.approx(440, abs=10)
    assert pitch_of(rendition, 0.6, 0.8) < 300
    assert pitch_of(rendition, 1.0, 1.4) == pytest.approx(440, abs=10)


@pytest.mark.parametrize("late", ["sound", "video"])
def test_sound_and_video_begin_when_they_begin(film: Path, tmp_path: Path, late: str) -> None:
    sound, offset = ["-f", "lavfi", "-i", "sine=440:d=1"], ["-itsoffset", 0.4]
    inputs = [*offset, "-i", film, *sound] if late == "video" else ["-i", film, *offset, *sound]
    source = tmp_path / "late.mkv"
    ffmpeg(*inputs, "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "pcm_s16le", source)
    rendition = run(source, tmp_path, H264, AAC)["h264"]
    begins = []
    for number in (0, 1):
        with av.open(str(rendition)) as container:
            begins.append(next(container.decode(container.streams[number])).time)
    assert begins[1] - begins[0] == pytest.approx(0.4 if late == "sound" else -0.4, abs=0.03)


def test_a_recording_that_begins_between_keyframes_begins_with_the_first_that_can_be_shown(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.ts", X264, frames=90).read_bytes()
    begin = len(whole) // 188 // 8 * 188
    (tmp_path / "tuned-in.ts").write_bytes(whole[: 188 * 3] + whole[begin:])
    rendition = run(tmp_path / "tuned-in.ts", tmp_path, H264)["h264"]
    assert [number for number, _ in frames_of(rendition)] == list(range(24, 90))


def test_sound_that_is_lost_on_the_way_is_told(film: Path, tmp_path: Path) -> None:
    """By the task that encodes it, and by the join."""
    source, task, parts = (
        tone(film, tmp_path / "tone.mkv", 440, "mono", 48000),
        tmp_path / "task.json",
        tmp_path / "parts",
    )
    parts.mkdir()
    pieces = []
    for item in (H264, AAC):
        task.write_text(json.dumps(item))
        pieces += plan(task, tmp_path / "none", video=source)
    for number, piece in enumerate(pieces):
        task.write_text(json.dumps(piece))
        transcode(task, parts / f"{number}.mp4", video=source)
    task.write_text(json.dumps(pieces[-1] | {"seconds": "2"}))
    with pytest.raises(Unusable, match=r"the sound has 1\.4.. s, 2\.000 s were planned"):
        transcode(task, tmp_path / "none.mp4", video=source)

    join(parts, tmp_path / "renditions.json", h264=tmp_path / "whole.mp4")
    ffmpeg("-i", parts / f"{number}.mp4", "-t", 0.5, "-c", "copy", "-map_metadata", 0, tmp_path / "short.mp4")
    (tmp_path / "short.mp4").rename(parts / f"{number}.mp4")
    with pytest.raises(ValueError, match=r"audio track 1 of lost\.mp4 has 0\.... s, 1\.4.. s were planned"):
        join(parts, tmp_path / "renditions.json", h264=tmp_path / "lost.mp4")
