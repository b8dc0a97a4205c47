"""What messages in a trigger's queue tell, and what becomes of a template."""

import json
from typing import Any

import pytest

from services.engine.templates import MissingValue, fill_template
from services.scheduler.events import UnreadableMessage, read_events


def s3_event(key: str, name: str = "ObjectCreated:Put", **facts: Any) -> dict[str, Any]:
    return {
        "eventName": name,
        "s3": {"bucket": {"name": "in"}, "object": {"key": key, "size": 7, "sequencer": "0A", **facts}},
    }


def uris(body: Any, prefix: str = "", suffix: str = "") -> list[Any]:
    return [event.values.get("uri") for event in read_events("m", json.dumps(body), prefix=prefix, suffix=suffix)]


def test_created_objects_are_events_whichever_way_they_are_told() -> None:
    records = {"Records": [s3_event("a/b+c%C3%A9.csv"), s3_event("gone", "ObjectRemoved:Delete"), s3_event("d.txt")]}
    bridge = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": "in"}, "object": {"key": "a b+é.csv", "size": 7}},
    }

    assert uris(records) == ["s3://in/a/b cé.csv", "s3://in/d.txt"]
    assert uris({"Type": "Notification", "Message": json.dumps(records)}) == uris(records)
    assert uris(bridge) == ["s3://in/a b+é.csv"]
    assert uris(records, prefix="s3://in/a/") == ["s3://in/a/b cé.csv"]
    assert uris(records, suffix=".txt") == ["s3://in/d.txt"]
    assert uris(records, prefix="s3://other/") == []
    assert uris({"Event": "s3:TestEvent"}) == []


def test_an_event_told_twice_has_one_key_and_a_new_version_another() -> None:
    def key(**facts: Any) -> str:
        return read_events("any", json.dumps({"Records": [s3_event("a", **facts)]}))[0].key

    assert key() == key(size=9)
    assert key() != key(sequencer="0B")


def test_any_other_message_is_an_event_by_its_id_unless_objects_are_waited_for() -> None:
    [event] = read_events("id-1", '{"type": "job.succeeded", "data": {"n": [1, 2]}}')
    assert event.key == "id-1"
    assert fill_template({"a": "{message.data.n}", "b": "n={message.data.n.1}"}, event.values) == {
        "a": [1, 2],
        "b": "n=2",
    }
    assert uris({"type": "job.succeeded"}, prefix="s3://in/") == []


def test_only_messages_with_the_named_fields_count() -> None:
    body = json.dumps({"type": "job.succeeded", "data": {"n": 1}})

    def events(**match: Any) -> int:
        return len(read_events("m", body, match={name.replace("__", "."): value for name, value in match.items()}))

    assert events(type="job.succeeded", data__n=1) == 1
    assert events(type="task.succeeded") == events(type="job.succeeded", data__n=2) == events(none=None) == 0


@pytest.mark.parametrize("body", ["no json", "[1]", '"text"'])
def test_what_is_not_a_json_object_is_refused(body: str) -> None:
    with pytest.raises(UnreadableMessage):
        read_events("m", body)


def test_a_template_is_filled_in_every_string_and_names_what_is_missing() -> None:
    values = {"uri": "s3://in/a.csv", "bytes": 7}

    filled = fill_template({"input": {"uri": "{uri}"}, "n": "{bytes}", "l": ["{uri}.x", 1, "{NOT} {}"]}, values)

    assert filled == {"input": {"uri": "s3://in/a.csv"}, "n": 7, "l": ["s3://in/a.csv.x", 1, "{NOT} {}"]}
    with pytest.raises(MissingValue, match=r"\{message.a\}: the message has no 'a'"):
        fill_template("{message.a}", {"message": {}})


def test_a_message_tells_of_a_bounded_number_of_objects() -> None:
    assert len(uris({"Records": [s3_event(f"{number}") for number in range(1000)]})) == 1000
    with pytest.raises(UnreadableMessage, match="more than 1000 objects"):
        uris({"Records": [s3_event(f"{number}") for number in range(1001)]})
