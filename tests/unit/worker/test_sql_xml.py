"""SQL over XML: every attribute and child is a column of text, whatever a part holds of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.contract.task_error import TaskError
from tests.unit.worker.test_sql import Part, counts

CLAIM = {"format": "xml", "options": {"record_tag": "claim"}}
LINES = {"format": "xml", "options": {"record_tag": "claim", "lists": ["line"]}}


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part(tmp_path)


def test_the_columns_are_text_and_null_where_there_is_none(part: Part) -> None:
    part.put(
        "p.xml",
        """<claims><claim id="007"><at>2026-10-01</at><amount>1.50</amount><note/></claim>
        <claim id="8"><amount>2</amount><note>a "b" &lt;c&gt;</note></claim></claims>""",
    )

    assert part.rows('SELECT * FROM input ORDER BY "@id"', "p.xml", **CLAIM) == [
        {"@id": "007", "at": "2026-10-01", "amount": "1.50", "note": None},
        {"@id": "8", "at": None, "amount": "2", "note": 'a "b" <c>'},
    ]
    assert part.query("SELECT sum(amount::DECIMAL(9, 2)) AS s FROM input", "p.xml", **CLAIM) == counts(2, 1, filtered=1)


def test_a_column_has_one_type_however_often_a_child_comes(part: Part) -> None:
    records = ["<line>a</line>", "<line>b</line><line>c</line>", '<line n="1"/>']
    types: list[Any] = []
    for record in records:
        part.put("p.xml", f"<claims><claim>{record}</claim></claims>")
        types += part.rows("SELECT typeof(line) AS type, line FROM input", "p.xml", **CLAIM)

    assert [row["type"] for row in types] == ["VARCHAR"] * 3
    assert [row["line"] for row in types] == ["a", '["b","c"]', '{"@n":"1"}']


def test_what_is_named_a_list_can_be_unnested(part: Part) -> None:
    part.put(
        "p.xml",
        """<claims><claim id="1"><line code="A">1</line></claim>
        <claim id="2"><line code="B">2</line><line code="C">3</line></claim><claim id="3"/></claims>""",
    )
    query = """
        SELECT "@id" AS id, line ->> '@code' AS code, (line ->> '#text')::INT AS n
        FROM (SELECT "@id", unnest(line::JSON[]) AS line FROM input) ORDER BY n"""

    rows = [tuple(row.values()) for row in part.rows(query, "p.xml", **LINES)]
    assert rows == [("1", "A", 1), ("2", "B", 2), ("2", "C", 3)]


def test_a_record_that_is_not_well_formed_is_rejected(part: Part) -> None:
    part.put("p.xml", "<claims><claim><n>1</n></claim><claim><n>2</claim><claim><n>3</n></claim></claims>")

    assert part.query("SELECT n FROM input", "p.xml", **CLAIM) == counts(3, 2, rejected=1)
    (reject,) = part.rejects
    assert reject["source"] == {"uri": "s3://b/whole", "byte": 531, "record": 2}
    assert reject["reason"] == "not well-formed XML: mismatched tag at byte 13 of the record"
    assert reject["record"] == "<claim><n>2</claim>"


def test_names_that_differ_by_case_only_are_two_columns(part: Part) -> None:
    part.put("p.xml", "<claims><claim><Id>1</Id></claim><claim><id>2</id></claim></claims>")

    rows = part.rows("SELECT * FROM input", "p.xml", **CLAIM)
    assert rows == [{"Id": "1", "id_1": None}, {"Id": None, "id_1": "2"}]


def test_a_part_without_records_has_no_columns(part: Part) -> None:
    part.put("p.xml", "<claims></claims>")

    assert part.query("SELECT * FROM input", "p.xml", **CLAIM) == counts(0, 0)


def test_xml_of_which_the_records_are_not_named_is_refused(part: Part) -> None:
    part.put("p.xml", "<claims/>")

    with pytest.raises(
        TaskError, match=r"which elements of 'p.xml' are records is not known: use an input of type xml"
    ):
        part.query("SELECT * FROM input", "p.xml")
    part.put("q.xml", json.dumps([]))
    with pytest.raises(TaskError, match="text outside of the document's own element"):
        part.query("SELECT * FROM input", "q.xml", **CLAIM)
