"""Compressed objects: all of their records, or an error that names the object and the place."""

import bz2
import gzip
import lzma
from collections.abc import Callable

import pytest
import zstandard

from piecework.errors import ApiError
from tests.cases.conftest import DATA, CaseGrid, Spec

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
READERS = pytest.mark.parametrize("reader", ["case-same-jsonl", "case-sql-jsonl"])
TEXT = b"".join(b'{"n":%d}\n' % number for number in range(500))


def refusals(grid: CaseGrid, prefix: str, reader: str) -> list[str]:
    """Why each object under the prefix, in order, is invalid for good."""
    stage: Spec = {"processor": reader, "tolerated_failures": 100}
    tasks = grid.run({"type": "objects", "prefix": prefix}, stage).tasks
    errors = [task["error"] for task in tasks]
    assert [(task["state"], task["attempt"]) for task in tasks] == [("failed", 1)] * len(tasks)
    assert {error["type"] for error in errors if error} == {"input_invalid"}
    return [error["message"] for error in errors if error]


@READERS
@pytest.mark.parametrize("type", ["objects", "lines"])
def test_zstd_truncated_records(grid: CaseGrid, type: str, reader: str) -> None:
    prefix = grid.put_case("zstd-truncated-records")
    uri = prefix + "events.jsonl.zst"
    lines: Spec = {"type": "lines", "uri": uri, "format": "jsonl"}
    size = (DATA / "zstd-truncated-records" / "events.jsonl.zst").stat().st_size
    ended = grid.run(lines if type == "lines" else {"type": "objects", "prefix": prefix}, reader)
    assert (ended.state, ended.error_code, ended.attempts) == ("failed", "input_invalid", 1)
    assert f"{uri}: " in ended.error and f"truncated: it breaks off at its compressed byte {size}" in ended.error


@READERS
def test_a_truncated_object_is_refused_whatever_compressed_it(grid: CaseGrid, reader: str) -> None:
    bodies = {f"a.jsonl{suffix}": compress(TEXT)[:-1] for suffix, compress in COMPRESSIONS.items()}
    prefix = grid.put(bodies)
    for name, error in zip(sorted(bodies), refusals(grid, prefix, reader), strict=True):
        assert error.startswith(f"{prefix}{name}: ")
        assert f"truncated: it breaks off at its compressed byte {len(bodies[name])}" in error


@READERS
def test_members_blanks_and_zeros_follow_each_other(grid: CaseGrid, reader: str) -> None:
    bodies = {
        f"a.jsonl{suffix}": compress(b'{"n":1}\n') + compress(b"") + compress(b'{"n":2}\n') + b"\0" * 512 + b"\n"
        for suffix, compress in COMPRESSIONS.items()
    }
    ended = grid.run({"type": "objects", "prefix": grid.put(bodies)}, reader)
    assert ended.records() == [{"n": 1}, {"n": 2}] * len(COMPRESSIONS)


@READERS
def test_what_else_follows_is_told(grid: CaseGrid, reader: str) -> None:
    streams = {f"a.jsonl{suffix}": compress(TEXT) for suffix, compress in COMPRESSIONS.items()}
    prefix = grid.put({name: stream + b'{"n":500}\n' for name, stream in streams.items()})
    for name, error in zip(sorted(streams), refusals(grid, prefix, reader), strict=True):
        assert error.startswith(f"{prefix}{name}: ")
        assert f"stream at its compressed byte {len(streams[name])}" in error


@READERS
def test_gzip_not_by_name(grid: CaseGrid, reader: str) -> None:
    prefix = grid.put_case("gzip-not-by-name")
    records = gzip.decompress((DATA / "gzip-not-by-name" / "in.jsonl").read_bytes()).count(b"\n")
    ended = grid.run({"type": "objects", "prefix": prefix}, reader)
    assert (ended.state, len(ended.records()), ended.rejects()) == ("succeeded", records, [])
    with pytest.raises(ApiError, match="begins like gzip, not like lines: set compression: gzip"):
        grid.run({"type": "lines", "uri": prefix + "in.jsonl", "format": "jsonl"}, reader)


@READERS
def test_the_bytes_tell_the_compression(grid: CaseGrid, reader: str) -> None:
    bodies = {f"plain-{suffix[1:]}.jsonl": compress(TEXT) for suffix, compress in COMPRESSIONS.items()}
    bodies |= {f"wrong{number}.jsonl.gz": COMPRESSIONS[suffix](TEXT) for number, suffix in enumerate((".bz2", ".zst"))}
    ended = grid.run({"type": "objects", "prefix": grid.put(bodies), "objects_per_task": 4}, reader)
    assert ended.records() == [{"n": number} for number in range(500)] * 6


@READERS
def test_a_name_that_says_compressed_of_text_is_told(grid: CaseGrid, reader: str) -> None:
    prefix = grid.put({"a.jsonl.gz": TEXT})
    [error] = refusals(grid, prefix, reader)
    assert error.startswith(f"{prefix}a.jsonl.gz: ") and "this is not gzip: it begins with the bytes 7b 22" in error


@READERS
def test_zstd_long_window(grid: CaseGrid, reader: str) -> None:
    prefix = grid.put_case("zstd-long-window")
    formats = ("csv", "jsonl")
    lines: list[Spec] = [{"type": "lines", "uri": f"{prefix}dump.{name}.zst", "format": name} for name in formats]
    for source in (lines, {"type": "objects", "prefix": prefix}):
        ended = grid.run(source, reader)
        assert (ended.state, len(ended.records()), ended.rejects()) == ("succeeded", 10_000, [])


@READERS
def test_empty_compressed_objects(grid: CaseGrid, reader: str) -> None:
    prefix = grid.put_case("empty-compressed-objects")
    ended = grid.run({"type": "objects", "prefix": prefix + "in/"}, reader)
    assert (ended.state, ended.records(), ended.rejects()) == ("succeeded", [{"id": 1}], [])
