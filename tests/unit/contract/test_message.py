"""The message's text: what one side writes the other reads, and anything else is refused."""

from typing import Any
from uuid import UUID

import orjson
import pytest

from services.contract.message import Message, MessageError

MESSAGE = Message(UUID(int=1), UUID(int=2), stage=3, first=4, count=5)
FIELDS = orjson.loads(MESSAGE.encode())
NO_IDS: list[Any] = ["x", 7, None, [], {}]
NO_NUMBERS: list[Any] = ["many", None, [], {}]


def test_a_message_is_json_that_names_its_bundle_and_its_tasks() -> None:
    assert {"bundle": str(UUID(int=1)), "job": str(UUID(int=2)), "stage": 3, "first": 4, "count": 5} == FIELDS
    assert Message.decode(MESSAGE.encode()) == MESSAGE


def test_the_names_of_the_next_release_are_read_too() -> None:
    renamed = {"bundle_id": FIELDS["bundle"], "job_id": FIELDS["job"]} | FIELDS
    del renamed["bundle"], renamed["job"]

    assert Message.decode(orjson.dumps(renamed).decode()) == MESSAGE


def test_fields_of_later_versions_are_ignored() -> None:
    assert Message.decode(orjson.dumps(FIELDS | {"trace": "x"}).decode()) == MESSAGE


@pytest.mark.parametrize(
    "body",
    ["", "not JSON", "null", "[]", '"text"', "7", "{}", '{"bundle": null}', "[" * 2000, "\ud800"]
    + [orjson.dumps({k: v for k, v in FIELDS.items() if k != name}).decode() for name in FIELDS]
    + [orjson.dumps(FIELDS | {"bundle": value}).decode() for value in NO_IDS]
    + [orjson.dumps(FIELDS | {"count": value}).decode() for value in NO_NUMBERS]
    + [MESSAGE.encode().replace('"count":5', '"count":1e999')],
)
def test_anything_else_is_not_a_message(body: str) -> None:
    with pytest.raises(MessageError):
        Message.decode(body)
