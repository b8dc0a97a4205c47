"""An answer that no child of ours gives fails its own attempt, before anything is counted from it."""

import json
from typing import Any

import pytest

from services.contract.task_error import TaskError
from services.worker.task.answer import read_answer

ANSWER: dict[str, Any] = {"clean": True, "memory_bytes": 1000, "memory_bytes_peak": 2000, "cpu_seconds": 0.5}
COUNTS = ["records_in", "records_out", "records_rejected", "records_filtered", "records_added", "items", "header_bytes"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cpu_seconds": 0, "exit_code": None, "value": None},
        {"exit_code": -11, "records_in": 2**48, "items": 0, "header_bytes": 17, "value": {"a": [1, None]}},
        {"error": {"type": "exit_code", "message": "exit code 1"}, "retryable": False, "exit_code": 1},
        *[{"value": value} for value in ([1], "text", 7, True)],
    ],
)
def test_an_answer_is_read_as_it_is(fields: dict[str, Any]) -> None:
    assert read_answer(json.dumps(ANSWER | fields).encode()) == ANSWER | fields


def test_a_long_message_is_cut() -> None:
    error = {"type": "exception", "message": "x" * 100_000}
    assert len(read_answer(json.dumps(ANSWER | {"error": error}).encode())["error"]["message"]) == 20_000


@pytest.mark.parametrize(
    "fields",
    [
        *[{name: value} for name in COUNTS for value in (-1, 2**48 + 1, 10**400, 1.5, True, "5", [], {})],
        *[{name: None} for name in COUNTS if name.startswith("records")],
        *[{"memory_bytes": value} for value in (-1, 2**63, "1", None)],
        *[{"cpu_seconds": value} for value in (-1, 1e300, float("nan"), float("inf"), "1", None)],
        *[{"exit_code": value} for value in (2**31, -(2**31) - 1, "0", 0.5, False)],
        *[{"clean": value} for value in (1, "yes", None)],
        *[{"value": value} for value in ({"a": "x" * 4096}, {"a": "\0"}, ["x" * 4096], {"a": float("nan")})],
        *[{"error": value} for value in ("text", {}, {"type": "Type", "message": ""}, {"type": "x", "message": 1})],
        {"retryable": "no"},
    ],
)
def test_a_lie_fails_its_own_attempt(fields: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=f"an answer that can't be one: .*{next(iter(fields))}") as refused:
        read_answer(json.dumps(ANSWER | fields).encode())
    assert refused.value.type == "crash"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"1", b"\xff", b"[" * 100_000, b"9" * 10_000])
def test_what_is_not_an_object_is_not_an_answer(body: bytes) -> None:
    with pytest.raises(TaskError, match="an answer that can't be one"):
        read_answer(body)
