"""rejects.jsonl is strict JSON whatever the rejected record is, and writing it never raises."""

import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from services.worker.child.rejects import REASON_LENGTH_MAX, SHOWN_BYTES_MAX, Rejects


class Broken:
    def __str__(self) -> str:
        raise ValueError


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


def circular() -> Any:
    value: dict[str, Any] = {"name": "Ada"}
    value["self"] = [value, value]
    return value


Add = Callable[..., dict[str, Any]]


@pytest.fixture
def add(tmp_path: Path) -> Add:
    def add(record: Any, reason: str = "why") -> dict[str, Any]:
        """The line that was written."""
        path = tmp_path / "rejects.jsonl"
        with Rejects(path, None, {"stage": 0, "index": 1, "sources": {}}) as rejects:
            rejects.add(Path("part"), 1, None, reason, record)
        [line] = path.read_bytes().splitlines()
        read: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
        return read

    return add


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        ({"n": 10**3900, "ok": [1, 2.5, None, True]}, {"n": 10**3900, "ok": [1, 2.5, None, True]}),
        ({"n": 16**5000, "ok": 1}, {"n": "0x1" + "0" * 5000, "ok": 1}),
        ({"x": math.nan, "y": [math.inf, -math.inf]}, {"x": "NaN", "y": ["Infinity", "-Infinity"]}),
        ({"t": "\ud800x", "\udfff": 1}, {"t": "\\ud800x", "\\udfff": 1}),
        ({"b": b"\xffa", "c": bytearray(b"z")}, {"b": "\\xffa", "c": "z"}),
        ({("a", 1): 2, b"k": 3}, {"('a', 1)": 2, "k": 3}),
        ({"s": {1}, "when": datetime(2026, 1, 1), "b": b""}, {"s": [1], "when": "2026-01-01 00:00:00", "b": ""}),
        ([Broken()], ["(Broken, whose __str__ raises ValueError)"]),
    ],
)
def test_what_json_cannot_hold_is_shown_as_text(add: Add, record: Any, shown: Any) -> None:
    assert add(record)["record"] == shown


def test_what_is_too_deep_or_endless_is_cut(add: Add) -> None:
    assert "…" in str(add(nested(1000))["record"]) and "…" in str(add(nested(100_000))["record"])
    assert add(nested(50))["record"] == nested(50)
    assert add(circular())["record"]["name"] == "Ada"


def test_a_long_record_and_a_long_reason_are_cut(add: Add) -> None:
    whole = {"text": "é" * (SHOWN_BYTES_MAX // 2 - 10)}
    assert add(whole)["record"] == whole

    long = add({"text": "é" * SHOWN_BYTES_MAX}, "x\ud800" * 5000)
    assert long["record"].startswith('{"text":"éé') and long["record"].endswith("é …")
    assert len(long["record"].encode()) <= SHOWN_BYTES_MAX + 4
    assert len(long["reason"]) == REASON_LENGTH_MAX + 2
