"""The records of an XML document as dicts: what becomes of attributes, children, text, names; what is refused."""

from pathlib import Path
from typing import Any

import pytest

from services.contract.task_error import Malformed, TaskError
from services.inputs.xml.read import XmlRecords, parse_record


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ("<r/>", {}),
        ("<r></r>", {}),
        ("<r>text</r>", {"#text": "text"}),
        ('<r id="1"/>', {"@id": "1"}),
        ('<r id="1"> x </r>', {"@id": "1", "#text": " x "}),
        ("<r> <a>1</a>\n<b> 2 </b> </r>", {"a": "1", "b": " 2 "}),
        ("<r><a/><b></b></r>", {"a": "", "b": ""}),
        ('<r><a x="1"/></r>', {"a": {"@x": "1"}}),
        ('<r><a x="1">t</a></r>', {"a": {"@x": "1", "#text": "t"}}),
        ("<r><a><b>1</b></a></r>", {"a": {"b": "1"}}),
        ("<r><a>1</a><b/><a>2</a><a/></r>", {"a": ["1", "2", ""], "b": ""}),
        ("<r>one <a>1</a> two</r>", {"a": "1", "#text": "one  two"}),
        ("<r><a>x&amp;<![CDATA[<y>]]>&#x41;&lt;<!-- no -->z<?no?></a></r>", {"a": "x&<y>A<z"}),
        ("<r><a>1\r\n2</a></r>", {"a": "1\n2"}),
        ("<r><r>1</r></r>", {"r": "1"}),
        ('<r xmlns:q="urn:q" xmlns="urn:d" q:x="1"><q:a>1</q:a><a/></r>', {"@q:x": "1", "q:a": "1", "a": ""}),
        ('<r xml:lang="de"><ü>ö</ü></r>', {"@xml:lang": "de", "ü": "ö"}),
    ],
)
def test_a_record_is_a_dict(record: str, fields: dict[str, Any]) -> None:
    assert parse_record(record.encode()) == fields


def test_what_is_named_a_list_is_one() -> None:
    lists = frozenset({"a", "q:b"})

    assert parse_record(b"<r><a>1</a><c><a/></c></r>", lists=lists) == {"a": ["1"], "c": {"a": [""]}}
    assert parse_record(b"<r><q:b/></r>", b'<list xmlns:q="urn:q">', lists) == {"q:b": [""]}
    assert parse_record(b"<r><b/></r>", lists=lists) == {"b": ""}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b"<r><a></b></r>", "mismatched tag at byte 8 of the record"),
        (b"<r>1 < 2</r>", "not well-formed (invalid token) at byte 6 of the record"),
        (b"<r>&nbsp;</r>", "undefined entity at byte 3 of the record"),
        (b"<r><q:a/></r>", "unbound prefix at byte 3 of the record"),
        (b'<r a="1" a="2"/>', "duplicate attribute at byte 9 of the record"),
        (b"<r>\xff</r>", "not well-formed (invalid token) at byte 3 of the record"),
        (b"<r>&#0;</r>", "reference to invalid character number at byte 3 of the record"),
        (b"<a>" * 201 + b"</a>" * 201, "more than 200 elements within each other"),
    ],
)
def test_a_record_that_is_not_well_formed_is_refused(record: bytes, why: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse_record(record, b'<list xmlns:c="urn:c">')
    assert why in str(refused.value)


def test_nothing_that_a_document_refers_to_is_fetched_or_expanded(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = tmp_path / "in.xml"
    for subset in (f'<!ENTITY x SYSTEM "file://{secret}">', '<!ENTITY x "xx"><!ENTITY y "&x;&x;">'):
        path.write_text(f"<!DOCTYPE list [{subset}]><list><r>&x;</r></list>")
        with pytest.raises(TaskError, match="a DTD within the document"):
            list(XmlRecords(path, "r").raws())

    path.write_text(f'<!DOCTYPE list SYSTEM "file://{secret}"><list><r>&x;</r></list>')
    reader = XmlRecords(path, "r")
    with pytest.raises(Malformed, match="undefined entity"):
        list(map(reader.parse, reader.raws()))


def test_a_record_tells_where_it_is_and_how_it_was(tmp_path: Path) -> None:
    path = tmp_path / "in.xml"
    path.write_text("<list>ü\n<r>1</r>\n<r>ö")

    reader = XmlRecords(path, "r")
    records = reader.raws()
    first = next(records)

    assert (reader.offset(first), reader.show(first), reader.parse(first)) == (9, "<r>1</r>", {"#text": "1"})
    with pytest.raises(TaskError, match="byte 18: the record <r> is not closed") as broken:
        next(records)
    assert (broken.value.type, broken.value.retryable) == ("input_invalid", False)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "in.xml").touch()

    assert list(XmlRecords(tmp_path / "in.xml", "r").raws()) == []
