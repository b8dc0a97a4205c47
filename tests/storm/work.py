"""The jobs that run in the storm, and what each must come to, computed without the grid."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.contract.location import Location
from services.engine.spec import ProcessorSpec
from tests.processors import storm
from tests.storm.plan import Plan

PROCESSORS = {
    "noop": ProcessorSpec(builtin="noop"),
    "value": ProcessorSpec(callable="storm:value", idempotent=True),
    "clean": ProcessorSpec(records="storm:clean", idempotent=True),
    "count": ProcessorSpec(callable="storm:count", output="counts.json", idempotent=True),
    "total": ProcessorSpec(callable="storm:total", output="totals.json"),
    "stamp": ProcessorSpec(callable="storm:stamp", output="stamped.txt", idempotent=True),
}

_CHAIN_LINES, _STAMP_LINES = 20, 200  # of a part
_FAN_IN = 10
_RETRY = {"max_attempts": 20, "backoff_seconds": 0.1, "backoff_max_seconds": 2}


@dataclass(frozen=True, slots=True)
class Work:
    """A job and its truth. `tasks` are counts by stage; `files` has a check for each result file by its name."""

    name: str
    spec: dict[str, Any]
    tasks: list[int]
    end: str = "succeeded"
    value: Callable[[int], int] | None = None
    first_good_attempt: Callable[[int], int] = lambda index: 1
    is_doomed: Callable[[int], bool] = lambda index: False
    files: Mapping[str, Callable[[bytes], bool]] = field(default_factory=dict)
    raw: bytes = b""  # the object that is its input


def make_works(plan: Plan, bucket: str) -> list[Work]:
    """Jobs of `plan.tasks` tasks in all."""
    chain, stamps = plan.tasks // 40, plan.tasks // 50
    works = [
        _chain(chain, bucket),
        _concat(stamps, bucket),
        _values("flaky", plan.tasks * 12 // 100, plan, flaky=True),
        _values("cancelled", plan.tasks // 10, plan),
        _noops(plan.tasks * 30 // 100),
    ]
    rest = plan.tasks - sum(sum(work.tasks) for work in works)
    return [_values("values", rest, plan), *works]


def _noops(count: int) -> Work:
    spec = {"name": "noops", "input": {"type": "range", "count": count}, "stages": [{"processor": "noop"}]}
    return Work("noops", spec, [count])


def _values(name: str, count: int, plan: Plan, flaky: bool = False) -> Work:
    """An array job that returns values. The flaky one's tasks fail at first, a few always."""
    stage: dict[str, Any] = {
        "processor": "value",
        "params": {"seconds": plan.task_seconds, "flaky": flaky},
        "retry": _RETRY,
    }
    spec = {"name": name, "input": {"type": "range", "count": count}, "stages": [stage]}
    if not flaky:
        return Work(name, spec, [count], end="cancelled" if name == "cancelled" else "succeeded", value=storm.mix)
    stage |= {"retry": _RETRY | {"max_attempts": 4}, "tolerated_failures": sum(map(storm.is_doomed, range(count)))}
    return Work(
        name,
        spec,
        [count],
        value=storm.mix,
        first_good_attempt=storm.first_good_attempt,
        is_doomed=storm.is_doomed,
    )


def _chain(parts: int, bucket: str) -> Work:
    """Clean the lines of each part, count each part's records, add the counts up in a tree."""
    lines = [storm.line(number) for number in range(parts * _CHAIN_LINES)]
    broken = [(number % _CHAIN_LINES + 1, text) for number, text in enumerate(lines) if not text[0].isdigit()]
    good = [text.split() for text in lines if text[0].isdigit()]
    totals = {"records": len(good), "sum": sum(int(mixed) for _, mixed in good)}

    def are_rejects(body: bytes) -> bool:
        rejects = [json.loads(text) for text in body.splitlines()]
        return [(reject["source"]["record"], reject["record"]) for reject in rejects] == broken

    files = {"totals.json": lambda body: json.loads(body) == totals}
    return Work(
        "chain",
        {
            "name": "chain",
            "input": _lines_input(bucket, "chain", _CHAIN_LINES),
            "stages": [{"processor": "clean", "retry": _RETRY}, {"processor": "count", "retry": _RETRY}],
            "merge": {"type": "reduce", "processor": "total", "fan_in": _FAN_IN},
        },
        [parts, parts, _reduces(parts)],
        files=files | ({"rejects.jsonl": are_rejects} if broken else {}),
        raw="".join(f"{text}\n" for text in lines).encode(),
    )


def _reduces(outputs: int) -> int:
    """How many tasks reduce this many outputs, level by level."""
    level = -(-outputs // _FAN_IN)
    return level if level == 1 else level + _reduces(level)


def _concat(parts: int, bucket: str) -> Work:
    """Write every line with its checksum, and join the parts."""
    lines = [storm.line(number) for number in range(parts * _STAMP_LINES)]
    stamped = "".join(map(storm.stamp_line, lines)).encode()
    return Work(
        "concat",
        {
            "name": "concat",
            "input": _lines_input(bucket, "concat", _STAMP_LINES),
            "stages": [{"processor": "stamp", "retry": _RETRY}],
            "merge": {"type": "concat", "filename": "all.txt"},
        },
        [parts],
        files={"all.txt": lambda body: body == stamped},
        raw="".join(f"{text}\n" for text in lines).encode(),
    )


def raw_location(bucket: str, name: str) -> Location:
    return Location(bucket, f"raw/{name}.txt")


def _lines_input(bucket: str, name: str, lines: int) -> dict[str, Any]:
    return {"type": "lines", "uri": raw_location(bucket, name).uri, "part_bytes": lines * storm.LINE_BYTES}
