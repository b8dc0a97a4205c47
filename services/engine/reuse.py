"""Reuse: tasks of a job with `reuse` take the outputs of an earlier one that did the same.

What a task does is told by its content key: a hash of its input (an object by its URI and its ETag or version, a part
of one by its bounds as well), of its processor's specification (which names the package by its digest), and of its
params. Where task i works on the output of task i, its key is made of that task's and its own code. Jobs of one owner
share their outputs. What can't be told like this runs: declared inputs, images without a digest, SQL that looks for
types in samples, fan-outs, outputs named by a template, and all that comes after them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Record

from services.contract.output_name import is_template
from services.platform.database import LONG_SECONDS, Connection, Database

ATTEMPT = 1  # what reused outputs are named after: the first attempt that runs is the next (`stages.attempt_base`)

_FORMAT = 1  # of keys

_STAGES = """
    SELECT s.stage, s.kind, s.tasks_from, s.columns_due, s.revision, s.options, p.spec, j.created_by
    FROM jobs AS j JOIN stages AS s ON s.job_id = j.job_id
    JOIN processors AS p ON p.name = s.processor AND p.version = s.processor_version
    WHERE j.job_id = $1 ORDER BY s.stage"""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage whose tasks may take over outputs; `code` is the part of their keys that is the stage's."""

    number: int
    interim: bool
    code: bytes


async def read_stages(database: Database, job_id: UUID) -> list[Stage]:
    """The first stages of a job that can reuse outputs, each of which follows the one before task by task."""
    stages: list[Stage] = []
    for row in await database.fetch(_STAGES, job_id):
        follows = row["tasks_from"] == ("successes" if stages else "input")
        if not follows or not _may_reuse(row):
            break
        stages.append(Stage(row["stage"], bool(row["options"].get("interim")), _code(row)))
    return stages


def _may_reuse(row: Record) -> bool:
    spec, options = row["spec"], row["options"]
    image = spec.get("image")
    return (
        row["kind"] == "map"
        and row["revision"] == 0
        and not row["columns_due"]
        and options is not None
        and not options.get("fan_out")
        and not options.get("inputs")
        and (image is None or "@sha256:" in image)
        and not is_template(spec.get("output", ""))  # other files, or places among them, are named otherwise
    )


def _code(row: Record) -> bytes:
    options = row["options"]
    names = ("params", "columns", "rejects_max")
    return _hash([_FORMAT, row["created_by"], row["spec"], *(options.get(name) for name in names)])


def _hash(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()


def _identity(value: Mapping[str, Any], index: int) -> Any:
    """What a task's input is; None if that can't be told."""
    match value["type"]:
        case "item":
            return {"value": value["value"]}
        case "index" | "array_index":
            return {**value, "index": index}
        case "objects" | "object_versions":
            pinned = all("etag" in each or "version" in each for each in value["objects"])
        case _:
            pinned = "etag" in value or "version" in value
    return value if pinned else None


def task_keys(stages: Sequence[Stage], value: Mapping[str, Any], index: int) -> list[bytes]:
    """The key of task `index` in each of these stages, for its input in the first; empty if it has none."""
    if (identity := _identity(value, index)) is None:
        return []
    keys: list[bytes] = []
    before = _hash(identity)
    for stage in stages:
        before = hashlib.sha256(stage.code + before).digest()
        keys.append(before)
    return keys


# The newest task of each key that has succeeded, with what its attempt counted.
_FIND = """
    SELECT f.* FROM unnest($1::bytea[]) AS w (key) CROSS JOIN LATERAL (
        SELECT k.key, k.job_id, k.stage, k.index, t.attempt, t.output, coalesce(a.bytes_in, 0) AS bytes_in,
            coalesce(a.bytes_out, 0) AS bytes_out, coalesce(a.records_in, 0) AS records_in,
            coalesce(a.records_out, 0) AS records_out, coalesce(a.records_rejected, 0) AS records_rejected,
            coalesce(a.records_filtered, 0) AS records_filtered, coalesce(a.records_added, 0) AS records_added
        FROM task_keys AS k
        JOIN tasks AS t ON t.job_id = k.job_id AND t.stage = k.stage AND t.index = k.index
        LEFT JOIN attempts AS a ON a.job_id = t.job_id AND a.stage = t.stage AND a.index = t.index
            AND a.attempt = t.attempt AND a.outcome = 'succeeded'
        WHERE k.key = w.key AND t.state = 'succeeded'
        ORDER BY k.job_id DESC LIMIT 1
    ) AS f"""


async def find_made(database: Database, keys: Sequence[bytes]) -> dict[bytes, Record]:
    """The tasks that have made what these keys stand for."""
    return {row["key"]: row for row in await database.fetch(_FIND, keys, timeout=LONG_SECONDS)}


_SAVE_KEYS = """
    INSERT INTO task_keys (key, job_id, stage, index)
    SELECT key, $1, stage, index FROM unnest($2::bytea[], $3::smallint[], $4::integer[]) AS k (key, stage, index)
    ON CONFLICT DO NOTHING"""


async def save_keys(connection: Connection, job_id: UUID, keys: Mapping[tuple[int, int], bytes]) -> None:
    """Record the keys of tasks, by stage and index, inside the transaction that plans them."""
    stages, indexes = [stage for stage, _ in keys], [index for _, index in keys]
    await connection.execute(_SAVE_KEYS, job_id, list(keys.values()), stages, indexes)


_FORGET_KEYS = "DELETE FROM task_keys WHERE job_id = $1"


async def forget_keys(connection: Connection, job_id: UUID) -> None:
    """What the tasks of a job do has changed."""
    await connection.execute(_FORGET_KEYS, job_id, timeout=LONG_SECONDS)
