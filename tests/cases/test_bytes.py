"""What a file is, its bytes tell: its name is a hint, and what is not data beside it is left out."""

import io
import itertools

import fastavro
import pyarrow
import pyarrow.ipc
import pytest

from piecework.errors import ApiError
from tests.cases.conftest import CaseGrid, Spec
from tests.cases.test_compression import READERS, read_by_all, refusals

FOUR_MARKERS = "4 marker objects were left out, such as _SUCCESS, .crc and .DS_Store; `markers: true` takes them"
IDS = [{"id": str(number)} for number in (1, 2, 3)]


def test_avro_snappy(grid: CaseGrid) -> None:
    uri = grid.put_case("avro-snappy") + "snappy.avro"
    for records in read_by_all(grid, {"type": "avro", "uri": uri}):
        assert [record["id"] for record in records] == [1, 2, 3]


def test_every_avro_codec(grid: CaseGrid) -> None:
    """As parts, and whole."""
    schema = fastavro.parse_schema({"type": "record", "name": "r", "fields": [{"name": "id", "type": "int"}]})
    written = [{"id": number} for number in range(50)]
    bodies = {}
    for codec in ("null", "deflate", "snappy", "zstandard", "bzip2", "xz"):
        sink = io.BytesIO()
        fastavro.writer(sink, schema, written, codec=codec, sync_interval=20)
        bodies[f"{codec}.avro"] = sink.getvalue()
    prefix = grid.put(bodies)
    parts: list[Spec] = [{"type": "avro", "uri": prefix + name, "part_bytes": 200} for name in sorted(bodies)]
    for records in read_by_all(grid, parts, {"type": "objects", "prefix": prefix}):
        assert records == written * 6


def test_bom_in_the_middle(grid: CaseGrid) -> None:
    prefix = grid.put_case("bom-in-the-middle")
    csv: Spec = {"type": "lines", "uri": prefix + "joined.csv", "format": "csv"}
    jsonl: Spec = {"type": "lines", "uri": prefix + "joined.jsonl", "format": "jsonl"}
    for records in read_by_all(grid, csv, {**csv, "part_bytes": 1}):
        assert [record["id"] for record in records] == ["1", "2", "3"]
    for records in read_by_all(grid, jsonl, {**jsonl, "part_bytes": 1}):
        assert records == [{"id": 1}, {"id": 2}, {"id": 3}]
    objects: Spec = {"type": "objects", "prefix": prefix, "include": "?.csv"}
    for records in read_by_all(grid, objects, {**objects, "objects_per_task": 2}):
        assert records == [{"id": "1", "name": "a"}, {"id": "2", "name": "b"}]


def test_bom_in_the_middle_of_what_is_joined(grid: CaseGrid) -> None:
    prefix = grid.put_case("bom-in-the-middle")
    lines: list[Spec] = [{"type": "lines", "uri": f"{prefix}{name}.csv", "format": "csv"} for name in "ab"]
    ended = grid.run(lines, "case-copy", merge={"type": "concat"})
    assert ended.files["result"] == b"id,name\n1,a\n2,b\n"
    objects: Spec = {"type": "objects", "prefix": prefix, "include": "?.csv"}
    ended = grid.run(objects, "case-copy", merge={"type": "concat"})
    assert ended.files["result"] == b"\xef\xbb\xbfid,name\n1,a\nid,name\n2,b\n"


@pytest.mark.parametrize("delimiter", [";", None])
def test_csv_sep_line(grid: CaseGrid, delimiter: str | None) -> None:
    prefix = grid.put_case("csv-sep-line")
    lines: Spec = {"type": "lines", "uri": prefix + "in.csv", "format": "csv", "delimiter": delimiter}
    cut: Spec = {**lines, "part_bytes": 1}
    objects: Spec = {"type": "objects", "prefix": prefix}
    for records in read_by_all(grid, lines, cut, {**cut, "multiline": True}, objects):
        assert records == [{"id": "1", "name": "ann"}, {"id": "2", "name": "bob"}]


def test_jsonl_utf16_without_bom(grid: CaseGrid) -> None:
    prefix = grid.put_case("jsonl-utf16-without-bom")
    with pytest.raises(ApiError, match=r"in\.jsonl begins like UTF-16 text, not like lines.*convert it to UTF-8"):
        grid.run({"type": "lines", "uri": prefix + "in.jsonl", "format": "jsonl"}, "case-same-jsonl")
    for [error] in refusals(grid, prefix, *READERS):
        assert error.startswith(f"{prefix}in.jsonl: begins like UTF-16 text, not like jsonl")


def test_other_encodings_of_every_text_format(grid: CaseGrid) -> None:
    texts = {"a.csv": "id,name\n1,ann\n", "a.jsonl": '{"id": 1}\n', "a.txt": "one\n", "a.json": '{"id": 1}'}
    encodings = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
    bodies = {f"{n}{name}": texts[name].encode(code) for n, code in enumerate(encodings) for name in texts}
    [errors] = refusals(grid, grid.put(bodies), "case-same-jsonl")
    assert len(errors) == len(bodies)
    assert all("begins like UTF-16 text" in error for error in errors[:12])
    assert all("begins like UTF-32 text" in error for error in errors[12:])


def test_spark_marker_objects(grid: CaseGrid) -> None:
    prefix = grid.put_case("spark-marker-objects")
    for ended in grid.run_each([({"type": "objects", "prefix": prefix + "in/"}, reader) for reader in READERS]):
        assert (ended.state, len(ended.records())) == ("succeeded", 3)
        assert ended.job["warnings"] == [f"stage stage-0: {FOUR_MARKERS}"]


def test_markers_are_told_and_can_be_taken(grid: CaseGrid) -> None:
    prefix = grid.put_case("spark-marker-objects") + "in/"
    split = grid.client.preview_split({"type": "objects", "prefix": prefix})
    assert (split["count"], split["exact"], split["notes"]) == (2, True, [FOUR_MARKERS])
    for options, count in (({"markers": True}, 6), ({"include": ["*.parquet", "_*"]}, 4), ({"include": "*.crc"}, 1)):
        split = grid.client.preview_split({"type": "objects", "prefix": prefix, **options})
        assert (split["count"], split["exact"]) == (count, True)


def test_what_is_not_data_is_named_with_the_fix(grid: CaseGrid) -> None:
    prefix = grid.put({"readme": "hello", "a.csv.zip": b"PK\x03\x04" + bytes(40)})
    [errors] = refusals(grid, prefix, "case-same-jsonl")
    assert errors[0].startswith(f"{prefix}a.csv.zip: ") and "It begins like zip: take the files out of it" in errors[0]
    assert errors[1].startswith(f"{prefix}readme: can't tell the record format") and "`exclude` it" in errors[1]


def test_the_bytes_tell_the_format(grid: CaseGrid) -> None:
    table = pyarrow.table({"id": ["1", "2", "3"]})
    bodies: dict[str, bytes] = {}
    for number, begin in enumerate((pyarrow.ipc.new_file, pyarrow.ipc.new_stream)):
        sink = io.BytesIO()
        with begin(sink, table.schema) as writer:
            writer.write_table(table)
        bodies[f"{number}-part"] = bodies[f"{number}.csv"] = sink.getvalue()
    prefix = grid.put(bodies)
    whole: Spec = {"type": "objects", "prefix": prefix}
    assert list(read_by_all(grid, whole, {"type": "arrow", "uri": prefix + "1-part"})) == [IDS * 4] * 2 + [IDS] * 2


def test_a_file_given_as_another_type_is_named(grid: CaseGrid) -> None:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": [1]}), sink)
    bodies = {"Parquet": sink.getvalue(), "zip": b"PK\x03\x04" + bytes(90), "gzip": b"\x1f\x8b\x08" + bytes(90)}
    prefix = grid.put(bodies | {"text": b"id\n1\n"})
    types: list[Spec] = [{"type": "lines"}, {"type": "xml", "record_tag": "r"}]
    types += [{"type": name} for name in ("parquet", "arrow", "orc", "avro")]
    for name, source in itertools.product(bodies, types):
        if source["type"] != name.lower():
            with pytest.raises(ApiError, match=f"{prefix}{name} .*begins? .*like {name}"):
                grid.run({**source, "uri": prefix + name}, "case-same-jsonl")
    for name in ("parquet", "arrow", "orc"):
        with pytest.raises(ApiError, match="It begins like text: use an input of type lines"):
            grid.run({"type": name, "uri": prefix + "text"}, "case-same-jsonl")


def test_a_compression_that_is_not_read_is_told_by_name(grid: CaseGrid) -> None:
    noise = bytes(range(128, 256))
    prefix = grid.put({"a.csv.br": noise, "b.jsonl.lz4": b"\x04\x22\x4d\x18" + noise, "c.txt.Z": b"\x1f\x9d" + noise})
    names = (("a.csv.br", "brotli"), ("b.jsonl.lz4", "lz4"), ("c.txt.Z", r"compress \(.Z\)"))
    [errors] = refusals(grid, prefix, "case-same-jsonl")
    for (name, what), error in zip(names, errors, strict=True):
        with pytest.raises(ApiError, match=f"{name} .*{what}.*compress it as gzip or zstd"):
            grid.run({"type": "lines", "uri": prefix + name}, "case-same-jsonl")
        assert error.startswith(f"{prefix}{name}: ") and "compress it as gzip or zstd" in error
