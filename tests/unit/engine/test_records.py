"""Record arithmetic: what is said of stages whose records come out even, and of those whose do not."""

from typing import Any

import pytest

from services.engine.reasons.reason import warnings_of
from services.engine.records import check_records


def stage(name: str = "clean", **changes: Any) -> dict[str, Any]:
    counts = {name: changes.pop(name, 0) for name in ("into", "out", "rejected", "filtered", "added")}
    sums = {f"records_{'in' if name == 'into' else name}": count for name, count in counts.items()}
    facts = {
        "kind": "map",
        "state": "succeeded",
        "tasks_from": "input",
        "failed": 0,
        "filters": False,
        "left_out": None,
    }
    return {"name": name, **sums, **facts, **changes}


@pytest.mark.parametrize(
    ("records", "balanced", "said"),
    [
        ({}, None, None),
        ({"out": 3}, None, None),
        ({"into": 100, "out": 98, "rejected": 2}, True, None),
        ({"into": 1, "out": 3, "added": 2}, True, None),
        ({"into": 1000, "out": 998}, False, "1,000 records in, 998 out, 0 rejected: 2 are unaccounted for"),
        ({"into": 1, "out": 3}, False, "1 records in, 3 out, 0 rejected: 2 more than went in"),
        (
            {"into": 5, "out": 4, "rejected": 2, "added": 3, "filtered": 1, "filters": True},
            False,
            "5 records in, 3 added, 4 out, 2 rejected, 1 filtered: 1 is unaccounted for",
        ),
        ({"into": 5, "out": 4, "filtered": 1, "filters": True}, True, None),
        ({"into": 5, "out": 4, "filtered": 1}, False, "5 records in, 4 out, 0 rejected, 1 filtered, but"),
        ({"into": 5, "out": 1, "kind": "reduce"}, None, None),
    ],
)
def test_a_stage_comes_out_even_or_says_what_is_missing(
    records: dict[str, Any], balanced: bool | None, said: str | None
) -> None:
    [checked], reasons = check_records([stage(**records)])
    assert checked.balanced is balanced
    assert [reason.message.startswith(f"stage clean: {said}") for reason in reasons] == ([True] if said else [])
    assert {reason.code for reason in reasons} <= {"records_uneven"}
    assert checked.model_dump()["in"] == records.get("into", 0)


EVEN = {"into": 9, "out": 9, "tasks_from": "successes"}


@pytest.mark.parametrize(
    ("first", "second", "balanced"),
    [
        ({}, {}, False),
        ({}, {"tasks_from": "outputs"}, False),
        ({}, {"tasks_from": "items"}, True),
        ({}, {"failed": 1}, True),
        ({"failed": 1}, {}, False),
        ({}, {"state": "running"}, True),
        ({"out": 9, "into": 9}, {}, True),
        ({"out": 0, "into": 0}, {}, True),
    ],
)
def test_what_came_out_of_a_stage_goes_into_the_next(
    first: dict[str, Any], second: dict[str, Any], balanced: bool
) -> None:
    stages = [stage(**({"into": 10, "out": 10} | first)), stage("price", **(EVEN | second))]
    checked, reasons = check_records(stages)
    assert checked[1].balanced is balanced
    said = [reason.message for reason in reasons if reason.code != "failures_tolerated"]
    assert said == ([] if balanced else ["stage price: 9 records in, but 10 came out of stage clean"])


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"failed": 1}, "stage clean: 1 task failed and was tolerated; its records are not in the results"),
        (
            {"failed": 1200, "state": "merging"},
            "stage clean: 1,200 tasks failed and were tolerated; their records are not in the results",
        ),
        ({"failed": 2, "state": "running"}, None),
        ({"failed": 2, "state": "failed"}, None),
    ],
)
def test_tasks_that_failed_in_a_stage_that_ended_well_are_said_and_its_other_records_come_out_even(
    facts: dict[str, Any], said: str | None
) -> None:
    [checked], reasons = check_records([stage(into=10, out=10, **facts)])
    assert warnings_of(reasons) == ([said] if said else [])
    assert checked.balanced
