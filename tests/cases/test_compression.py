"""Compressed objects: all of their records, or an error that names the object and the place."""

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator

import pytest
import zstandard

from piecework.errors import ApiError
from tests.cases.conftest import DATA, CaseGrid, Record, Spec

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
READERS = ("case-same-jsonl", "case-sql-jsonl")
TEXT = b"".join(b'{"n":%d}\n' % number for number in range(500))


def refusals(grid: CaseGrid, prefix: str, *readers: str) -> Iterator[list[str]]:
    """Why each object under the prefix, in order, is invalid for good, by each reader."""
    stages: list[Spec] = [{"processor": reader, "tolerated_failures": 100} for reader in readers]
    for ended in grid.run_each([({"type": "objects", "prefix": prefix}, stage) for stage in stages]):
        errors = [task["error"] for task in ended.tasks]
        assert {(task["state"], task["attempt"]) for task in ended.tasks} == {("failed", 1)}
        assert {error["type"] for error in errors if error} == {"input_invalid"}
        yield [error["message"] for error in errors if error]


def read_by_all(grid: CaseGrid, *inputs: Spec | list[Spec]) -> Iterator[list[Record]]:
    """The records of each of the inputs by each reader; there are no rejects."""
    for ended in grid.run_each([(input, reader) for input in inputs for reader in READERS]):
        assert (ended.state, ended.rejects()) == ("succeeded", []), ended.error
        yield ended.records()


def test_zstd_truncated_records(grid: CaseGrid) -> None:
    prefix = grid.put_case("zstd-truncated-records")
    uri = prefix + "events.jsonl.zst"
    size = (DATA / "zstd-truncated-records" / "events.jsonl.zst").stat().st_size
    sources: list[Spec] = [{"type": "lines", "uri": uri, "format": "jsonl"}, {"type": "objects", "prefix": prefix}]
    for ended in grid.run_each([(source, reader) for source in sources for reader in READERS]):
        assert (ended.state, ended.error_code, ended.attempts) == ("failed", "input_invalid", 1)
        assert f"{uri}: " in ended.error and f"truncated: it breaks off at its compressed byte {size}" in ended.error


def test_a_truncated_object_is_refused_whatever_compressed_it(grid: CaseGrid) -> None:
    bodies = {f"a.jsonl{suffix}": compress(TEXT)[:-1] for suffix, compress in COMPRESSIONS.items()}
    prefix = grid.put(bodies)
    for errors in refusals(grid, prefix, *READERS):
        for name, error in zip(sorted(bodies), errors, strict=True):
            assert error.startswith(f"{prefix}{name}: ")
            assert f"truncated: it breaks off at its compressed byte {len(bodies[name])}" in error


def test_members_blanks_and_zeros_follow_each_other(grid: CaseGrid) -> None:
    bodies = {
        f"a.jsonl{suffix}": compress(b'{"n":1}\n') + compress(b"") + compress(b'{"n":2}\n') + b"\0" * 512 + b"\n"
        for suffix, compress in COMPRESSIONS.items()
    }
    for records in read_by_all(grid, {"type": "objects", "prefix": grid.put(bodies)}):
        assert records == [{"n": 1}, {"n": 2}] * len(COMPRESSIONS)


def test_what_else_follows_is_told(grid: CaseGrid) -> None:
    streams = {f"a.jsonl{suffix}": compress(TEXT) for suffix, compress in COMPRESSIONS.items()}
    prefix = grid.put({name: stream + b'{"n":500}\n' for name, stream in streams.items()})
    for errors in refusals(grid, prefix, *READERS):
        for name, error in zip(sorted(streams), errors, strict=True):
            assert error.startswith(f"{prefix}{name}: ")
            assert f"stream at its compressed byte {len(streams[name])}" in error


def test_gzip_not_by_name(grid: CaseGrid) -> None:
    prefix = grid.put_case("gzip-not-by-name")
    count = gzip.decompress((DATA / "gzip-not-by-name" / "in.jsonl").read_bytes()).count(b"\n")
    for records in read_by_all(grid, {"type": "objects", "prefix": prefix}):
        assert len(records) == count
    with pytest.raises(ApiError, match="begins like gzip, not like lines: set compression: gzip"):
        grid.run({"type": "lines", "uri": prefix + "in.jsonl", "format": "jsonl"}, "case-same-jsonl")


def test_the_bytes_tell_the_compression(grid: CaseGrid) -> None:
    bodies = {f"plain-{suffix[1:]}.jsonl": compress(TEXT) for suffix, compress in COMPRESSIONS.items()}
    bodies |= {f"wrong{number}.jsonl.gz": COMPRESSIONS[suffix](TEXT) for number, suffix in enumerate((".bz2", ".zst"))}
    for records in read_by_all(grid, {"type": "objects", "prefix": grid.put(bodies), "objects_per_task": 4}):
        assert records == [{"n": number} for number in range(500)] * 6


def test_a_name_that_says_compressed_of_text_is_told(grid: CaseGrid) -> None:
    prefix = grid.put({"a.jsonl.gz": TEXT})
    for [error] in refusals(grid, prefix, *READERS):
        assert error.startswith(f"{prefix}a.jsonl.gz: ") and "this is not gzip: it begins with the bytes 7b 22" in error
    with pytest.raises(ApiError, match=r"a\.jsonl\.gz is not gzip, .* set compression: none"):
        grid.run({"type": "lines", "uri": prefix + "a.jsonl.gz"}, "case-same-jsonl")


def test_zstd_long_window(grid: CaseGrid) -> None:
    prefix = grid.put_case("zstd-long-window")
    formats = ("csv", "jsonl")
    lines: list[Spec] = [{"type": "lines", "uri": f"{prefix}dump.{name}.zst", "format": name} for name in formats]
    for records in read_by_all(grid, lines, {"type": "objects", "prefix": prefix}):
        assert len(records) == 10_000


def test_empty_compressed_objects(grid: CaseGrid) -> None:
    prefix = grid.put_case("empty-compressed-objects") + "in/"
    lines: list[Spec] = [
        {"type": "lines", "uri": f"{prefix}{name}", "format": "jsonl"}
        for name in ("empty.jsonl.gz", "empty.jsonl.zst", "full.jsonl.gz")
    ]
    for records in read_by_all(grid, lines, {"type": "objects", "prefix": prefix}):
        assert records == [{"id": 1}]
