"""Renew: tasks that wait for lost outputs go on as soon as these have been made again."""

import re
from typing import Any
from uuid import UUID

import orjson
import structlog
from asyncpg import Record
from botocore.exceptions import ClientError

from services.contract.layout import SCHEDULER
from services.contract.location import Location
from services.contract.source import ADDED
from services.contract.task_input import Outputs
from services.contract.task_output import TaskOutput
from services.engine import lost_outputs
from services.engine.attempt import LostOutput
from services.engine.lost_outputs import name_maker
from services.platform.reads import ObjectLost
from services.platform.s3_faults import fault_of
from services.scheduler.loop import Context, passes
from services.scheduler.planning.items import read_checked
from services.scheduler.planning.reduce import list_outputs
from services.scheduler.slots import Slots

log = structlog.get_logger()

READERS_MAX = 100  # looked at in a step
READERS_AT_ONCE = 16
_OUTPUTS_MAX = 2**31 - 1

_OUTPUT = "SELECT successor_input(output, source_of(input)) FROM tasks WHERE job_id = $1 AND stage = $2 AND index = $3"
_INPUTS = "SELECT index, input FROM tasks WHERE job_id = $1 AND stage = $2 AND index BETWEEN $3 AND $4 ORDER BY index"

_JOINED = "SELECT result FROM stages WHERE job_id = $1 AND stage = $2"


class _CannotRenew(Exception):
    """The task's input can't be made again; the message says why."""


async def step(context: Context) -> bool:
    """Renew the inputs of some tasks; True if there may be more."""
    await lost_outputs.resume_merges(context.database)
    slots: Slots[tuple[UUID, int, int]] = context.slots["renew"]
    under_way, free = slots.keys, slots.free(READERS_AT_ONCE)
    readers = await lost_outputs.find_renewable(context.database, READERS_MAX)
    waiting = {(reader["job_id"], reader["stage"], reader["index"]): reader for reader in readers}
    chosen = [key for key in waiting if key not in under_way][:free]
    await slots.advance({key: _renew(context, waiting[key]) for key in chosen})
    return bool(readers)


async def _renew(context: Context, reader: Record) -> None:
    names = {"job": str(reader["job_id"]), "stage": reader["stage"], "index": reader["index"]}
    try:
        planned = {name: reader["input"][name] for name in ADDED if name in reader["input"]}
        input = planned | await _new_input(context, reader)
    except _CannotRenew as error:
        log.warning("input not renewed", **names, error=str(error))
        await lost_outputs.end_wait(context.database, reader, failure=str(error))
    except ObjectLost as error:
        maker = (reader["maker_stage"], reader["maker_index"], reader["maker_attempt"] or 0)
        lost = LostOutput(*maker, error.location.uri)
        await lost_outputs.lose_again(context.database, reader, [lost])
    except Exception as error:
        if passes(error):
            log.warning("renewal put off", **names, error=repr(error))
            return
        log.exception("renewal broke", **names)
        await lost_outputs.end_wait(context.database, reader, failure=f"its input can't be renewed: {error}")
    else:
        log.info("input renewed", **names)
        await lost_outputs.end_wait(context.database, reader, input=input)


async def _new_input(context: Context, reader: Record) -> dict[str, Any]:
    """Raises _CannotRenew, ObjectLost, and what S3's client raises."""
    if reader["failed_index"] is not None:
        name, why = name_maker(reader["maker_stage"], reader["failed_index"]), (reader["maker_error"] or {})
        raise _CannotRenew(f"{name}, which has to make its input again, has failed: {why.get('message')}")
    if reader["input"]["type"] == "outputs":
        return await _list_again(context, reader)
    if reader["maker_index"] < 0:
        return await _check_joined(context, reader)
    if reader["tasks_from"] == "items":
        return await _find_item(context, reader)
    made: dict[str, Any] = await context.database.fetchval(
        _OUTPUT, reader["job_id"], reader["maker_stage"], reader["maker_index"]
    )
    return made


async def _list_again(context: Context, reader: Record) -> dict[str, Any]:
    """A listing of the same outputs, with those that were made again."""
    listed = Outputs.from_json(reader["input"])
    if listed.stage is None:
        raise _CannotRenew("a scheduler of the release before has listed its outputs: submit the job again")
    key = (reader["job_id"], reader["stage"], reader["index"])
    first, last = (0, -1) if listed.first is None or listed.last is None else (listed.first, listed.last)
    renewed, _ = await list_outputs(context, *key, listed.stage, first, last, _OUTPUTS_MAX)
    return renewed.to_json()


async def _check_joined(context: Context, reader: Record) -> dict[str, Any]:
    """The same input, where the outputs are now: they have the same ETag if they are the same."""
    result = await context.database.fetchval(_JOINED, reader["job_id"], reader["maker_stage"])
    joined = Location.parse(result["files"][0]["uri"])
    input: dict[str, Any] = reader["input"] | {"uri": joined.uri}
    try:
        head = await context.aws.s3.head_object(Bucket=joined.bucket, Key=joined.key)
    except ClientError as error:
        if fault_of(error) == "missing":
            raise ObjectLost(joined, "does not exist") from error
        raise
    if input.get("etag") not in (None, head["ETag"]):
        raise _CannotRenew(
            f"the outputs of {name_maker(reader['maker_stage'], SCHEDULER)} were made and joined again, and are others "
            "than those of which tasks were made: let its processor make the same each time, and submit the job again"
        )
    return input


async def _find_item(context: Context, reader: Record) -> dict[str, Any]:
    """The same item of the same items: other tasks have been made of them."""
    listing = TaskOutput.from_json(reader["maker_output"]).object
    job_id, stage, index = reader["job_id"], reader["stage"], reader["index"]
    text = await read_checked(context.aws.s3, listing, listing.bytes) if listing else b""
    items = [orjson.loads(line) for line in text.splitlines()]
    made_by = _Attempts(context, reader)
    place = next((n for n, item in enumerate(items) if made_by.is_same(reader["input"], item)), None)
    if place is None:
        raise _CannotRenew(f"{made_by.name} has run again, and did not make {reader['input']['uri']} as before")
    first = index - place
    rows = await context.database.fetch(_INPUTS, job_id, stage, first - 1, first + len(items))
    before = [row["input"] for row in rows if made_by.has_made(row["input"])]
    if len(before) != len(items) or not all(map(made_by.is_same, before, items)):
        raise _CannotRenew(
            f"{made_by.name} has run again, and its items are others than those of which tasks were made: "
            "let its processor make the same each time, and submit the job again"
        )
    found: dict[str, Any] = items[place]
    return found


class _Attempts:
    """What all attempts of a task have made."""

    def __init__(self, context: Context, reader: Record) -> None:
        stage, index = reader["maker_stage"], reader["maker_index"]
        self.name = name_maker(stage, index)
        places = "|".join(re.escape(place.uri) for place in context.settings.layout.prefixes(reader["job_id"]))
        self._made = re.compile(f"(?:{places}){stage}/{index}-[0-9]+/")

    def has_made(self, input: dict[str, Any]) -> bool:
        """Whether the object that the input names is one of theirs."""
        return self._made.match(str(input.get("uri"))) is not None

    def is_same(self, before: dict[str, Any], after: dict[str, Any]) -> bool:
        """Whether two items differ in the attempt alone; what is not known of the former may be anything."""
        before = {name: value for name, value in before.items() if name in after or name not in ADDED}
        known = {name: after.get(name) for name in before}
        return self._without_attempt(before) == self._without_attempt(known)

    def _without_attempt(self, input: dict[str, Any]) -> dict[str, Any]:
        return input | {"uri": self._made.sub("", str(input.get("uri")))}
