"""Claims and videos as real senders have them, through the examples as a user runs them."""

import io
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import yaml

from tests.cases.conftest import DATA, CaseGrid, Ended, Record, read_records

EXAMPLES = Path(__file__).parents[2] / "examples"

# What the claims are priced by: one member, one fee, and nothing to recover.
MEMBERS = """subscriber,person,last,first,birth,sex,start,end,deductible,coinsurance_percent
M00000001,01,TESTER,PAT,1980-01-01,F,2026-01-01,,0.00,20
"""
RECOVERIES = "payee,reference,amount\n"
FEES = "qualifier,code,modifier,start,end,allowed\nHC,99213,,2026-01-01,,60.00\n"


def example_job(name: str, file: str = "job.yaml") -> Any:
    return yaml.safe_load((EXAMPLES / name / file).read_text())


def settle(grid: CaseGrid, claims: bytes, **split: Any) -> Ended:
    """The example's job with one file of claims."""
    grid.push(EXAMPLES / "claims")
    tables: dict[str, bytes | str] = {"fees.csv": FEES, "members.csv": MEMBERS, "recoveries.csv": RECOVERIES}
    job, place = example_job("claims"), grid.put(tables | {"in/claims.x12": claims})
    first, price = job["stages"]
    price["inputs"] = {name: place + uri for name, uri in price["inputs"].items()}
    merge = job["merge"] | {"inputs": {name: place + uri for name, uri in job["merge"]["inputs"].items()}}
    return grid.run({"type": "objects", "prefix": f"{place}in/"}, first | {"params": split}, price, merge=merge)


def table(ended: Ended, name: str) -> list[Record]:
    return read_records(name, ended.files[name])


def case(*names: str) -> bytes:
    return DATA.joinpath(*names).read_bytes()


@pytest.mark.parametrize("part_bytes", [1, 8_388_608])
def test_x12_wrapped_at_80(grid: CaseGrid, part_bytes: int) -> None:
    ended = settle(grid, case("x12-wrapped-at-80", "in.x12"), part_bytes=part_bytes)
    rows = table(ended, "ledger.csv")
    assert {row["claim"]: (row["status"], row["paid"], row["codes"]) for row in rows} == {
        "C1": ("paid", "48.00", "CO-45 PR-2"),
        "C2": ("denied", "0.00", "PR-31"),
    }
    assert table(ended, "rejected.csv") == []


def test_x12_date_with_blanks(grid: CaseGrid) -> None:
    ended = settle(grid, case("x12-date-with-blanks", "in.x12"))
    said = {row["claim"]: row["reason"] for row in table(ended, "rejected.csv")}
    assert said == {
        claim: f"line 1: DTP03 of segment 20 is '{date}' [IK403 8: Invalid Date]"
        for claim, date in {"C1": "2026 1 1", "C2": "20261301", "C3": "+2026101"}.items()
    }
    assert {row["status"] for row in table(ended, "ledger.csv")} == {"rejected"}


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("spaces.x12", ["C1", "C2"]),
        ("ctrl-z.x12", ["C1", "C2"]),
        ("nuls.x12", ["C1", "C2"]),
        ("spaces-between.x12", ["C1", "C2", "C3"]),
    ],
)
def test_x12_something_behind_iea(grid: CaseGrid, name: str, claims: list[str]) -> None:
    ended = settle(grid, case("x12-something-behind-iea", name))
    assert sorted(row["claim"] for row in table(ended, "ledger.csv")) == claims
    assert table(ended, "rejected.csv") == []


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's code, to run in the tests' own environment: a worker need not install ffmpeg for it."""
    directory = tmp_path_factory.mktemp("package") / "media"
    shutil.copytree(
        EXAMPLES / "media", directory, ignore=shutil.ignore_patterns("requirements.*", "*.md", "__pycache__")
    )
    return directory


def transcode(grid: CaseGrid, media: Path, name: str, *place: str) -> Ended:
    """The example's job with one rendition of a video, and its sound."""
    grid.push(media)
    items = [{"name": "h264_180p", "codec": "h264", "height": 72, "crf": 23, "preset": "veryfast"}]
    video = {"video": grid.put({name: case(*place, name)}) + name}
    return grid.run(
        {"type": "items", "items": [*items, {"codec": "aac", "kilobits": 64}]},
        {"processor": "media-plan", "inputs": video, "params": {"segment_seconds": 1}, "fan_out": True},
        {"processor": "media-transcode", "inputs": video},
        merge={"type": "reduce", "processor": "media-join", "fan_in": 10000},
    )


def rendition(ended: Ended) -> bytes:
    assert ended.state == "succeeded", ended.error
    return ended.files["h264_180p.mp4"]


def frames_in(video: bytes, kind: str) -> list[Any]:
    with av.open(io.BytesIO(video)) as container:
        streams = getattr(container.streams, kind)
        return [frame for stream in streams[:1] for frame in container.decode(stream)]


def pitch(frames: list[Any], begin: float, end: float) -> float:
    """By how often the sum of all channels crosses zero from `begin` to `end`, in hertz."""
    samples: list[float] = []
    for frame in frames:
        if begin <= frame.time < end:
            planes = [memoryview(plane).cast("B").cast("f")[: frame.samples] for plane in frame.planes]
            samples += map(sum, zip(*planes, strict=True))
    return sum(one <= 0 < other for one, other in pairwise(samples)) * frames[0].sample_rate / len(samples)


@pytest.mark.parametrize(("name", "seconds", "frames"), [("in.ts", 3.947, 98), ("clean.ts", 3.92, 100)])
def test_media_audio_layout_changes(grid: CaseGrid, media: Path, name: str, seconds: float, frames: int) -> None:
    """Of two frames of in.ts there are two at the same time, where its second half begins."""
    video = rendition(transcode(grid, media, name, "media-audio-layout-changes"))
    assert len(frames_in(video, "video")) == frames
    with av.open(io.BytesIO(video)) as container:
        [track] = container.streams.audio
        assert track.duration is not None and float(track.duration * track.time_base) == pytest.approx(
            seconds, abs=0.01
        )
    sound = frames_in(video, "audio")
    assert sum(frame.samples for frame in sound) / 48000 == pytest.approx(seconds, abs=0.03)
    assert pitch(sound, 0.1, 1.8) == pytest.approx(440, abs=5)
    assert pitch(sound, 2.1, 3.8) == pytest.approx(880, abs=10)


def test_media_cover_art(grid: CaseGrid, media: Path) -> None:
    film = rendition(transcode(grid, media, "film.mp4", "media-cover-art"))
    source = case("media-cover-art", "film.mp4")
    found, expected = frames_in(film, "video"), frames_in(source, "video")
    assert [frame.time for frame in found] == [frame.time for frame in expected]
    assert len(found) == 50 and (found[0].width, found[0].height) == (128, 72)

    song = transcode(grid, media, "song.m4a", "media-cover-art")
    assert (song.state, song.error_code, song.attempts) == ("failed", "input_invalid", 1)
    assert song.error == "Unusable: the input has no video stream"
