"""The vocabulary of services.contract.states is that of the schema."""

import re
from typing import Any, get_args

import pytest

from services.contract import states
from services.platform.database import Database

_CHECKS = """
    SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE contype = 'c' AND conrelid = $1::regclass AND conkey = (
        SELECT ARRAY[attnum] FROM pg_attribute WHERE attrelid = $1::regclass AND attname = $2)"""


def quoted(sql: str) -> set[str]:
    return set(re.findall(r"'([^']*)'", sql))


@pytest.mark.parametrize(
    ("table", "column", "vocabulary"),
    [
        ("jobs", "state", states.JobState),
        ("stages", "state", states.StageState),
        ("stages", "kind", states.StageKind),
        ("stages", "tasks_from", states.TasksFrom),
        ("tasks", "state", states.TaskState),
        ("workers", "state", states.WorkerState),
        ("webhook_deliveries", "state", states.DeliveryState),
        ("schedules", "misfire", states.Misfire),
    ],
)
async def test_a_column_may_hold_just_these_words(database: Database, table: str, column: str, vocabulary: Any) -> None:
    [row] = await database.fetch(_CHECKS, table, column)
    assert quoted(row[0]) == set(get_args(vocabulary))


async def test_a_job_is_active_until_its_state_is_terminal(database: Database) -> None:
    definition = await database.fetchval("SELECT pg_get_indexdef('jobs_active'::regclass)")
    assert quoted(definition) == set(states.TERMINAL)


async def test_webhooks_are_told_of_every_end_of_a_job_unless_they_say_otherwise(database: Database) -> None:
    default = await database.fetchval(
        "SELECT column_default FROM information_schema.columns "
        "WHERE table_name = 'webhook_endpoints' AND column_name = 'events'"
    )
    assert default == f"'{{{','.join(states.JOB_EVENTS)}}}'::text[]"
    assert tuple(event.removeprefix("job.") for event in states.JOB_EVENTS) == states.TERMINAL


def test_subsets_are_of_their_sets() -> None:
    for whole in (states.JobState, states.StageState, states.TaskState):
        assert set(states.TERMINAL) < set(get_args(whole))
    outcomes = set(get_args(states.Outcome))
    assert set(get_args(states.ReportedOutcome)) < outcomes
    assert set(states.MEASURED) < outcomes
    assert set(states.UNSUCCESSFUL) == outcomes - {"succeeded", "cancelled"}
