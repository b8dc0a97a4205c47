"""Processors: registered under a name; each change makes a new version."""

from typing import Any

from pydantic import ValidationError

from services.engine.errors import SpecError
from services.engine.ownership import Thing, require_owner
from services.engine.spec import OWN_PROCESSORS, ProcessorSpec
from services.platform.auth import Key
from services.platform.database import Connection

_LATER = ("network", "share_children")  # options that the first releases do not know, with a default other than null


def _says(stored: Any, spec: ProcessorSpec) -> bool:
    """Whether this spec is stored already, perhaps by an older release, whose specs lack newer options."""
    try:
        return ProcessorSpec.model_validate(stored) == spec
    except ValidationError:
        return False


def _stored(spec: ProcessorSpec) -> dict[str, Any]:
    """Without options that say nothing: a worker of an earlier release refuses all that it does not know."""
    silent = {name for name in _LATER if getattr(spec, name) == ProcessorSpec.model_fields[name].default}
    values = spec.model_dump(mode="json", exclude=silent)
    stored = {name: value for name, value in values.items() if value is not None}
    if spec.image is not None and spec.command is not None:
        stored["arguments"] = stored.pop("command")  # ProcessorSpec says why
    return stored


async def register_processor(
    connection: Connection, name: str, spec: ProcessorSpec, description: str = "", *, by: Key | None = None
) -> int:
    """Add a processor's next version inside the caller's transaction; returns its number.

    If the newest version already says the same, its number is returned. Jobs that name no version run the newest, so
    only who controls that one may add another: `by` is the key that asks. Raises SpecError, Forbidden.
    """
    if name.startswith(OWN_PROCESSORS):
        raise SpecError("name", name, f"names that begin with {OWN_PROCESSORS} are Piecework's own; choose another")
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('processor ' || $1, 0))", name)
    newest = await connection.fetchrow(
        "SELECT version, spec, description, created_by, deleted_at FROM processors WHERE name = $1 "
        "ORDER BY version DESC LIMIT 1",
        name,
    )
    if (
        newest is not None
        and newest["deleted_at"] is None
        and newest["description"] == description
        and _says(newest["spec"], spec)
    ):
        return int(newest["version"])
    if newest is not None and by is not None:
        require_owner(by, Thing("processor", name, newest["created_by"]))
    version = newest["version"] + 1 if newest is not None else 1
    await connection.execute(
        "INSERT INTO processors (name, version, spec, description, created_by) VALUES ($1, $2, $3, $4, $5)",
        name,
        version,
        _stored(spec),
        description,
        by and by.principal,
    )
    return int(version)
