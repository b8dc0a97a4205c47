"""Joining parts of text: no two records become one."""

import pytest

from tests.cases.conftest import CaseGrid
from tests.cases.test_compression import COMPRESSIONS

JOINED = {
    "jsonl": (["a.jsonl", "b.jsonl"], ['{"n":1}', '{"n":2}', '{"n":3}', '{"n":4}']),
    "csv": (["a.csv", "b.csv"], ["id,name", "1,ann", "2,bob", "3,cy", "4,dee"]),
    "text": (["one.txt", "two.txt"], ["100", "200"]),
}


@pytest.mark.parametrize("format", JOINED)
def test_weld_concat_copy(grid: CaseGrid, format: str) -> None:
    names, lines = JOINED[format]
    prefix = grid.put_case("weld-concat-copy")
    sources = [{"type": "lines", "uri": prefix + name, "format": format} for name in names]
    ended = grid.run(sources, "case-copy", merge={"type": "concat"})
    assert (ended.state, ended.lines()) == ("succeeded", lines)


def test_a_text_by_its_bytes_keeps_its_lines(grid: CaseGrid) -> None:
    """The outputs have no suffix: whether they hold lines is seen in all of them."""
    prefix = grid.put({"a": "1", "b": "", "c": "2\n", "d": "3", "e": "4"})
    ended = grid.run({"type": "objects", "prefix": prefix}, "case-copy", merge={"type": "concat"})
    assert ended.files["result"] == b"1\n2\n3\n4"
    ended = grid.run(
        {"type": "objects", "prefix": prefix, "objects_per_task": 3}, "case-copy", merge={"type": "concat"}
    )
    assert ended.files["result"] == b"1\n2\n3\n4"


def test_no_byte_of_other_outputs_is_touched(grid: CaseGrid) -> None:
    pieces = {"a": b"text", "b": bytes(range(256)), "c": b"text"}
    for suffix in ("", ".bin", ".parquet"):
        prefix = grid.put({name + suffix: piece for name, piece in pieces.items()})
        ended = grid.run({"type": "objects", "prefix": prefix}, "case-copy", merge={"type": "concat"})
        assert ended.files["result"] == b"".join(pieces.values())


def test_the_merge_says_whether_outputs_are_lines(grid: CaseGrid) -> None:
    prefix = grid.put({"a.vcf": b"\x01a", "b.vcf": b"b"})
    texts = grid.put({"a.txt": b"a", "b.txt": b"b"})
    for source, lines, joined in ((prefix, True, b"\x01a\nb"), (texts, False, b"ab")):
        merge = {"type": "concat", "lines": lines}
        ended = grid.run({"type": "objects", "prefix": source}, "case-copy", merge=merge)
        assert ended.files["result"] == joined


UTF_16 = [text.encode("utf-16") for text in ("a\r\nb", "c\n", "a\r\nb\r\nc\n")]


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        ([b"a\r\nb", b"c\r\n"], b"a\r\nb\r\nc\r\n"),
        ([b"a\nb\r", b"c"], b"a\nb\r\nc"),
        ([b"\xef\xbb\xbfa\n", b"\xef\xbb\xbfb", b"\xef\xbb\xbf", b"\xef\xbb\xbfc"], b"\xef\xbb\xbfa\nb\nc"),
        (UTF_16[:2], UTF_16[2]),
    ],
)
def test_line_ends_and_marks_of_texts_joined(grid: CaseGrid, parts: list[bytes], joined: bytes) -> None:
    prefix = grid.put({f"{number}.txt": part for number, part in enumerate(parts)})
    for objects in (1, 10):  # joined by the merge, or by the copy of several files
        source = {"type": "objects", "prefix": prefix, "objects_per_task": objects}
        assert grid.run(source, "case-copy", merge={"type": "concat"}).files["result"] == joined


def test_lines_of_compressed_outputs_stay_lines(grid: CaseGrid) -> None:
    for suffix, compress in COMPRESSIONS.items():
        bodies = {f"{number}.jsonl{suffix}": compress(part) for number, part in enumerate((b"1", b"2\n", b"3"))}
        ended = grid.run({"type": "objects", "prefix": grid.put(bodies)}, "case-copy", merge={"type": "concat"})
        result = grid.put({f"all.jsonl{suffix}": ended.files["result"]})
        records = grid.run({"type": "objects", "prefix": result}, "case-same-jsonl").records()
        assert records == [{"value": 1}, {"value": 2}, {"value": 3}]


def test_a_resplit_keeps_lines(grid: CaseGrid) -> None:
    prefix = grid.put({"a": "1", "b": "2", "c": "3"})
    resplit = {"processor": "case-same-jsonl", "resplit": {"type": "lines", "format": "text"}}
    ended = grid.run({"type": "objects", "prefix": prefix}, "case-copy", resplit)
    assert ended.records() == [{"value": "1"}, {"value": "2"}, {"value": "3"}]


def test_outputs_of_a_command_stay_lines(grid: CaseGrid) -> None:
    """By its name, or by its bytes where that has no suffix; binary numbers stay one after the other."""
    for output, script, joined in (
        ("n.txt", "printf %s {index}", b"0\n1\n2"),
        ("n", "printf %s {index}", b"0\n1\n2"),
        ("n.bin", r"printf '\001\000'", b"\x01\0" * 3),
    ):
        name = f"case-{output.replace('.', '-')}"
        command = ["sh", "-c", f"{script} > {{output}}"]
        grid.client.register_processor(name, {"command": command, "output": output})
        assert grid.run({"type": "range", "count": 3}, name, merge={"type": "concat"}).files["result"] == joined
