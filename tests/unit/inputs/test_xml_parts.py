"""An XML document in parts: together they hold the records of the whole, or the first wrong cut is found."""

import gzip
import io
import tempfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.dom import minidom

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.contract.task_input import ByteRange
from services.inputs.chunk import SplitError
from services.inputs.cutter import Cut
from services.inputs.places import Places
from services.inputs.spec import XmlInput
from services.inputs.xml import split as xml
from services.inputs.xml.cut import Cutter
from services.inputs.xml.fetch import fetch
from services.inputs.xml.read import STEPS, open_reader

URI = "s3://bucket/in.xml"


class Body(io.BytesIO):
    async def __aenter__(self) -> "Body":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        return super().read(size)


class OneObject:
    """S3 with one object in it."""

    meta = SimpleNamespace(config=SimpleNamespace(read_timeout=20.0))

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.reads: list[tuple[int, int]] = []

    async def head_object(self, **_: str) -> dict[str, Any]:
        return {"ETag": '"1"', "ContentLength": len(self._data)}

    async def get_object(self, *, Range: str, **_: str) -> dict[str, Any]:
        first, last = map(int, Range.removeprefix("bytes=").split("-"))
        self.reads.append((first, last + 1))
        return {"ETag": '"1"', "Body": Body(self._data[first : last + 1])}


async def parts_of(data: bytes, **source: Any) -> list[ByteRange]:
    parts, cursor = [], None
    while True:
        chunk = await xml.split(OneObject(data), XmlInput(type="xml", uri=URI, **source), cursor, 2)
        parts += map(ByteRange.from_json, chunk.inputs)
        if chunk.done:
            return parts
        cursor = chunk.cursor


async def read_part(data: bytes, part: ByteRange) -> list[Any]:
    """The records of a part that has been checked, from the file that a command is given; which is well-formed."""
    with tempfile.TemporaryDirectory() as directory:
        fetched = await fetch(OneObject(data), part, Path(directory))
        for check in fetched.checks:
            STEPS[check["step"]](fetched.path, **check["arguments"])
        reader = open_reader(fetched.path, "xml", fetched.options)
        records = [(reader.parse(raw), reader.offset(raw)) for raw in reader.raws()]
        tag = part.options["record_tag"]
        assert expected(fetched.path.read_bytes(), tag) == [record for record, _ in records]
    assert fetched.source
    starts = [Places(fetched.source).find(offset)["byte"] for _, offset in records]
    assert all(data.startswith(b"<" + tag.encode(), start) for start in starts)
    return [record for record, _ in records]


def expected(data: bytes, tag: str) -> list[Any]:
    """The records of the whole document, by another parser."""
    found: list[Any] = []
    todo: list[Any] = [minidom.parseString(data).documentElement]
    while todo:
        element = todo.pop()
        if element.tagName == tag:
            value = fields(element)
            found.append({"#text": value} if value and isinstance(value, str) else value or {})
        else:
            todo += reversed([node for node in element.childNodes if node.nodeType == node.ELEMENT_NODE])
    return found


def fields(element: Any) -> Any:
    made: dict[str, Any] = {f"@{k}": v for k, v in element.attributes.items() if k.split(":")[0] != "xmlns"}
    children = [node for node in element.childNodes if node.nodeType == node.ELEMENT_NODE]
    for name in dict.fromkeys(child.tagName for child in children):
        values = [fields(child) for child in children if child.tagName == name]
        made[name] = values[0] if len(values) == 1 else values
    kinds = (element.TEXT_NODE, element.CDATA_SECTION_NODE)
    text = "".join(node.data for node in element.childNodes if node.nodeType in kinds)
    if not made:
        return text
    return made | ({"#text": text} if (text.strip(" \t\r\n") if children else text) else {})


NAMES = st.sampled_from(["a", "claims", "claim.x", "b:claim", "b:x"])
TEXTS = st.text(st.sampled_from(list("ab>'\"é \n\t")), max_size=6)
HIDDEN = st.sampled_from(["<claim>", "</claim>", "<claim/>", "<claim a='", "x"])
ESCAPES = st.sampled_from(["&lt;claim&gt;", "&#x3c;claim>", "&amp;", "&apos;claim&quot;", "&#10;"])


@st.composite
def attributes(draw: st.DrawFn) -> str:
    names = draw(st.lists(st.sampled_from(["x", "claim", "b:y"]), unique=True, max_size=2))
    values = [draw(st.sampled_from(["", "1", "claim", "&lt;claim>", "/>", "é"])) for _ in names]
    quotes = [draw(st.sampled_from("'\"")) for _ in names]
    return "".join(f" {name}={quote}{value}{quote}" for name, value, quote in zip(names, values, quotes, strict=True))


@st.composite
def content(draw: st.DrawFn, tricky: bool, depth: int = 0) -> str:
    """What stands in an element; if `tricky`, it may hold what looks like a record but is not, or one in another."""
    pieces: list[st.SearchStrategy[str]] = [TEXTS, ESCAPES]
    if tricky:
        pieces += [
            st.builds("<!--{}-->".format, HIDDEN),
            st.builds("<![CDATA[{}]]>".format, HIDDEN),
            st.builds("<?pi {}?>".format, HIDDEN),
        ]
    if depth < 3:
        names = st.one_of(NAMES, st.just("claim")) if tricky else NAMES
        pieces.append(st.builds("<{0}{1}>{2}</{0}>".format, names, attributes(), content(tricky, depth + 1)))
        pieces.append(st.builds("<{0}{1}/>".format, names, attributes()))
    return "".join(draw(st.lists(st.one_of(pieces), max_size=4)))


@st.composite
def documents(draw: st.DrawFn, tricky: bool) -> bytes:
    space = draw(st.sampled_from(["", "\n", "\r\n", "\n  "]))
    records = st.builds("<claim{}>{}</claim>".format, attributes(), content(tricky))
    # Between records: elements that are not records; in the tricky ones also such as hold records.
    others = st.builds("<other{}/>".format, attributes())
    if tricky:
        others |= st.builds("<batch{}>{}</batch>".format, attributes(), records)
        others |= st.builds("<!--{}-->".format, HIDDEN) | st.builds("<![CDATA[{}]]>".format, HIDDEN)
    body = draw(st.lists(records | st.just("<claim/>") | others | TEXTS, max_size=12))
    body.insert(draw(st.integers(0, len(body))), draw(records))
    declaration = draw(st.sampled_from(["", '<?xml version="1.0"?>', "<?xml version='1.0' encoding='utf-8' ?>\n"]))
    doctype = draw(st.sampled_from(["", '<!DOCTYPE claims SYSTEM "claims.dtd">', "<!-- <claim> -->"]))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    root = '<claims xmlns:b="urn:b"' + draw(st.sampled_from(["", " x='>'", '\n xmlns="urn:d"'])) + ">"
    end = draw(st.sampled_from(["", "\n", "<!-- <claim/> -->" if tricky else "\n"]))
    return (mark + declaration + doctype + root + space + space.join(body) + space + "</claims>" + end).encode()


@settings(deadline=None, max_examples=40)
@given(documents(tricky=False), st.integers(1, 200), st.integers(1, 5))
async def test_parts_of_any_size_hold_the_records_of_the_whole(data: bytes, part_bytes: int, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xml, "WINDOW_BYTES", window)
        parts = await parts_of(data, record_tag="claim", part_bytes=part_bytes)

    assert [record for part in parts for record in await read_part(data, part)] == expected(data, "claim")


@settings(deadline=None, max_examples=60)
@given(documents(tricky=True), st.integers(1, 200), st.integers(1, 1000))
async def test_a_cut_that_is_not_between_records_is_found_by_the_part_before(
    data: bytes, part_bytes: int, window: int
) -> None:
    found: list[Any] = []
    for part in await parts_of(data, record_tag="claim", part_bytes=part_bytes):
        try:
            found += await read_part(data, part)
        except TaskError as error:
            assert (error.type, error.retryable) == ("records_torn", False)
            assert "set `scan: true` in the job's input" in error.message
            assert found == expected(data, "claim")[: len(found)]
            return
    assert found == expected(data, "claim")


@settings(deadline=None, max_examples=30)
@given(documents(tricky=True))
async def test_in_one_part_every_document_is_read(data: bytes) -> None:
    parts = await parts_of(data, record_tag="claim", parts=1)

    assert [record for part in parts for record in await read_part(data, part)] == expected(data, "claim")


@settings(deadline=None, max_examples=60)
@given(documents(tricky=True), st.integers(1, 200), st.integers(1, 300))
async def test_a_reader_of_every_byte_cuts_every_document_right(data: bytes, part_bytes: int, piece_bytes: int) -> None:
    cutter = Cutter(XmlInput(type="xml", uri=URI, record_tag="claim", scan=True), part_bytes)
    fed = [cutter.feed(data[at : at + piece_bytes]) for at in range(0, len(data), piece_bytes)]
    fed.append(cutter.finish())
    cuts = [cut for _, cuts in fed for cut in cuts]
    assert b"".join(text for text, _ in fed) == data[cuts[0].position :]

    found: list[Any] = []
    for begin, end in pairwise([*cuts, Cut(len(data))]):
        options = cutter.options | ({} if end.footer is None else {"footer": end.footer})
        part = ByteRange(Location.parse(URI), begin.position, end.position, "xml", None, begin.header, options)
        found.append(await read_part(data, part))
    assert all(found), "a part begins with a record"
    assert all(after.position - before.position >= part_bytes for before, after in pairwise(cuts))
    assert [record for records in found for record in records] == expected(data, "claim")


async def test_parts_within_other_elements_need_a_reader_of_every_byte() -> None:
    data = b"<list><day n='1'><claim/></day><day n='2'><claim/></day></list>"

    first, second = await parts_of(data, record_tag="claim", part_bytes=20)
    assert (first.header, first.options["footer"]) == ("<list><day n='1'>", "</day></list>")
    with pytest.raises(TaskError) as torn:
        await read_part(data, first)
    assert torn.value.type == "records_torn"
    assert "byte 42 are \"<list><day n='2'>\", not \"<list><day n='1'>\"" in torn.value.message
    assert second.header == first.header


async def test_the_last_part_shows_whether_the_document_is_complete() -> None:
    data = b"<list><claim/><claim/></list>"

    for cut_off in (data[:-1], data[:-7], data[:-9]):
        *_, last = await parts_of(cut_off, record_tag="claim", part_bytes=8)
        with pytest.raises(TaskError) as broken:
            await read_part(cut_off, last)
        assert "is not closed before the document's end" in broken.value.message
        assert (broken.value.type, broken.value.retryable) == ("input_invalid", False)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("<list><claim/></list>".encode("utf-16"), "begins like UTF-16"),
        ("<list><claim/></list>".encode("utf-16-le"), "begins like UTF-16"),
        ("<list><claim/></list>".encode("utf-32-be"), "begins like UTF-16 or UTF-32"),
        ("<?xml version='1.0'?>".encode("cp500"), "begins like EBCDIC"),
        (gzip.compress(b"<list/>", mtime=0), "begins like gzip, not like XML: set compression: gzip"),
        (b'<?xml version="1.0" encoding="ISO-8859-1"?><list><claim/></list>', "says that it is ISO-8859-1: convert it"),
        (b"id,amount\n1,2\n", "byte 0: text outside of the document's own element"),
        (b"<list><claim/>"[:10], "byte 6: the tag is not closed"),
        (b"<!DOCTYPE list [<!ENTITY a 'b'>]><list><claim/></list>", "a DTD within the document"),
        (b"<x:list><claim/></x:list>", "the elements around the records are not well-formed: unbound prefix"),
        (b"<list a='\xff'><claim/></list>", "the elements around the records are not well-formed"),
        (b"<list a='" + b"x" * 65_536 + b"'><claim/></list>", "have more than 65536 bytes"),
        (b"<list><item/><total/></list>", "has no element <claim>, but <list>, <item>, <total>: set record_tag"),
        (b"<list>" + b"<item/>" * 50_000 + b"<claim/></list>", "no element <claim> begins in the first 262144 bytes"),
    ],
)
async def test_what_can_not_be_split_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(SplitError) as refused:
        await parts_of(data, record_tag="claim")
    assert str(refused.value).startswith("s3://bucket/in.xml") and why in str(refused.value)


async def test_an_encoding_that_is_not_read_is_refused_at_once_even_if_a_task_splits_the_object() -> None:
    with pytest.raises(SplitError, match="begins like UTF-16"):
        source = XmlInput(type="xml", uri=URI, record_tag="claim", scan=True)
        await xml.look(OneObject("<list><claim/></list>".encode("utf-16")), source)


@pytest.mark.parametrize("data", [b"", b"<list/>", b"<?xml version='1.0'?><!-- <x/> -->\n<list>\n</list>\n"])
async def test_a_document_without_elements_has_no_parts(data: bytes) -> None:
    assert await parts_of(data, record_tag="claim") == []

    cutter = Cutter(XmlInput(type="xml", uri=URI, record_tag="claim", scan=True), 10)
    assert cutter.feed(data) == cutter.finish() == (b"", [])


async def test_what_is_read_grows_with_the_parts_and_not_with_the_bytes() -> None:
    record = b"<claim>" + b"<a>x</a>" * 1000 + b"</claim>"
    object_ = OneObject(b"<list>" + record * 100 + b"</list>")

    chunk = await xml.split(object_, XmlInput(type="xml", uri=URI, record_tag="claim", parts=10), None, 2)

    assert len(chunk.inputs) == 10
    assert sum(end - start for start, end in object_.reads) < 10 * 4 * xml.WINDOW_BYTES


@pytest.mark.parametrize("tag", ["", "<claim>", "claim/", "a b", "a:b:c", "1a", "*"])
def test_the_name_of_an_element_is_checked(tag: str) -> None:
    with pytest.raises(ValidationError, match="write an element's name as the document has it"):
        XmlInput(type="xml", uri=URI, record_tag=tag)


def test_the_size_of_what_is_compressed_is_not_known_before() -> None:
    with pytest.raises(ValidationError, match="give part_bytes, not parts"):
        XmlInput(type="xml", uri=f"{URI}.gz", record_tag="claim", parts=2)
