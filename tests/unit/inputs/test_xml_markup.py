"""The walk over an XML document: where records are, whatever else holds their name, and in pieces of any size."""

import pytest

from services.inputs.xml.markup import Markup, MarkupError


def find(document: str | bytes, tag: str = "r", piece_bytes: int = 1 << 20) -> list[str]:
    """The records of a whole document, as they are written."""
    data = document.encode() if isinstance(document, str) else document
    markup, edges = Markup(tag), []
    for at in range(0, len(data), piece_bytes):
        edges += markup.feed(data[at : at + piece_bytes])
    markup.finish()
    assert [edge.begins for edge in edges] == [True, False] * (len(edges) // 2)
    positions = [edge.position for edge in edges]
    return [data[begin:end].decode() for begin, end in zip(positions[::2], positions[1::2], strict=True)]


TRICKY = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE list PUBLIC "-//X//[Y]//EN" "list.dtd">
<?style <r> ?><!-- <r> -- > -->
<list a=">" b='"'>
  <rs/><x:r/><r/>
  <r a='>' b="/" />
  <r>1<r>2<r/></r></r
  >
  <!--<r>--><![CDATA[<r>]] >]]><?pi <r>?>
  <r><!-- </r> --><![CDATA[</r>]]><?pi </r>?>&lt;r></r>
  <other><r>ü</r></other>
  text ]]&gt; > text
</list>
<!-- end --><?end?>
"""
RECORDS = [
    "<r/>",
    "<r a='>' b=\"/\" />",
    "<r>1<r>2<r/></r></r\n  >",
    "<r><!-- </r> --><![CDATA[</r>]]><?pi </r>?>&lt;r></r>",
    "<r>ü</r>",
]


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 7, 11, 100, 10_000])
def test_records_are_found_whatever_else_holds_their_name(piece_bytes: int) -> None:
    assert find(TRICKY, piece_bytes=piece_bytes) == RECORDS


def test_a_tag_is_meant_as_it_is_written() -> None:
    document = '<c:list xmlns:c="urn:c"><c:r/><r/><c:r.s/><R/></c:list>'

    assert find(document, "c:r") == ["<c:r/>"]
    assert find(document, "r") == ["<r/>"]
    assert find(document, "c:list") == [document]
    assert find(document, "absent") == []


def test_the_elements_around_a_record_are_known() -> None:
    markup = Markup("r")
    around = []
    for _ in markup.feed(b'<a x="1"><b/><c\n><r><d></d></r></c><e>'):
        around.append((markup.around, markup.closing))

    assert around == [(b'<a x="1"><c\n>', b"</c></a>")] * 2
    assert markup.around == b'<a x="1"><e>'


@pytest.mark.parametrize(
    ("document", "byte", "why"),
    [
        ("", 0, "there is no element"),
        ("   <!-- -->", 11, "there is no element"),
        ('{"a": 1}', 0, "text outside of the document's own element"),
        ("<a></a> x", 8, "text outside of the document's own element"),
        ("<a></a><b/>", 7, "a second element, <b>, after the document's own"),
        ("<r></r><r/>", 7, "a second element, <r>, after the document's own"),
        ("<a><b></a>", 6, "</a> where </b> must come first"),
        ("</a>", 0, "</a> closes nothing"),
        ("<a></r></a>", 3, "</r> closes nothing"),
        ("<a><r>", 3, "the record <r> is not closed before the document's end"),
        ("<a><r><!-- </r></a>", 3, "the record <r> is not closed before the document's end"),
        ("<a><!-- </a>", 3, "the comment is not closed before the document's end"),
        ("<a><![CDATA[ </a>", 3, "the CDATA section is not closed before the document's end"),
        ("<a><?pi </a>", 3, "the instruction is not closed before the document's end"),
        ("<a", 0, "the tag is not closed before the document's end"),
        ("<a><b x='", 3, "the tag is not closed before the document's end"),
        ("<a><!", 3, "the tag is not closed before the document's end"),
        ("<a><b>", 6, "<b> is not closed before the document's end"),
        ("<a>1 < 2</a>", 5, "a '<' that begins no tag"),
        ("<a><b x='<'/></a>", 3, "a '<' that begins no tag"),
        ("<a><!ELEMENT b></a>", 3, "a '<' that begins no tag"),
        ("<a><></></a>", 3, "a '<' that begins no tag"),
        ("<a/><!DOCTYPE a>", 4, "a '<' that begins no tag"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", 0, "a DTD within the document"),
        ("<!DOCTYPE a [ %b; ]><a/>", 0, "a DTD within the document"),
        ("<a>" * 201, 600, "more than 200 elements within each other"),
    ],
)
def test_what_is_not_well_formed_around_records_is_an_error_with_its_place(document: str, byte: int, why: str) -> None:
    for piece_bytes in (1, 4, 1000):
        with pytest.raises(MarkupError, match=f"^byte {byte}: {why}".replace("?", r"\?")):
            find(document, piece_bytes=piece_bytes)


def test_what_is_not_well_formed_in_a_record_is_its_readers_matter() -> None:
    broken = [
        "<r>1 < 2</r>",
        "<r><a></b></r>",
        "<r><a x='<r/></r>",
        '<r><a x=1 x=1 "></r>',
        "<r>&what;</r>",
        "<r><!x></r>",
    ]

    assert find(f"<list>{''.join(broken)}<r/></list>") == [*broken, "<r/>"]


def test_a_tag_that_never_ends_is_not_kept_for_ever() -> None:
    markup = Markup("r")
    with pytest.raises(MarkupError, match="byte 3: a tag of more than 1048576 bytes"):
        for piece in (b"<a><b x='", *[b"x" * 100_000] * 20):
            list(markup.feed(piece))
