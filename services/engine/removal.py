"""Whether versions, packages and pools may be deleted: not while something that runs, or may run, needs them.

Each order is refused with the first that needs the thing. A version stays as a row, which says what has run; its number
is not given again.
"""

from services.engine.errors import Conflict, NotFound
from services.engine.ownership import Thing, require_owner
from services.engine.spec import OWN_PROCESSORS
from services.platform.auth import Key
from services.platform.database import Connection

_VERSION = "SELECT created_by FROM processors WHERE name = $1 AND version = $2 AND deleted_at IS NULL"

# A job that has failed or was cancelled may be retried. A schedule or trigger that names no version runs the newest.
_VERSION_NEEDED_BY = """
    (SELECT 'the job ' || j.job_id || ' (' || j.state || ')' AS name
    FROM stages AS s JOIN jobs AS j ON j.job_id = s.job_id
    WHERE s.processor = $1 AND s.processor_version = $2 AND j.state <> 'succeeded' AND j.deleted_at IS NULL LIMIT 1)
    UNION ALL (SELECT t.name FROM (
        SELECT 'the schedule ' || c.name AS name, c.job FROM schedules AS c
        UNION ALL SELECT 'the trigger ' || g.name, g.job FROM triggers AS g) AS t
    WHERE EXISTS (
        SELECT FROM jsonb_path_query(t.job, '$.stages[*].processor') AS p (reference)
        WHERE p.reference #>> '{}' = ANY($3::text[])) OR t.job -> 'merge' ->> 'processor' = ANY($3::text[])
    LIMIT 1)
    LIMIT 1"""

_NEWEST = "SELECT max(version) FROM processors WHERE name = $1 AND deleted_at IS NULL"


async def delete_version(connection: Connection, name: str, version: int, *, by: Key) -> None:
    """Inside the caller's transaction. Raises NotFound, Forbidden, Conflict."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('processor ' || $1, 0))", name)
    row = await connection.fetchrow(_VERSION, name, version)
    if row is None or name.startswith(OWN_PROCESSORS):
        raise NotFound(f"there is no processor {name}@{version}")
    require_owner(by, Thing("processor", f"{name}@{version}", row["created_by"]))
    newest = await connection.fetchval(_NEWEST, name) == version
    references = [f"{name}@{version}", *([name] if newest else [])]
    needed_by = await connection.fetchval(_VERSION_NEEDED_BY, name, version, references)
    if needed_by is not None:
        raise Conflict(f"{needed_by} needs {name}@{version}: delete that first, or let it end well")
    await connection.execute("UPDATE processors SET deleted_at = now() WHERE name = $1 AND version = $2", name, version)


_PACKAGE_NEEDED_BY = """
    (SELECT 'the processor ' || name || '@' || version FROM processors
    WHERE spec ->> 'package' = $1 AND deleted_at IS NULL LIMIT 1)
    UNION ALL (SELECT 'the job ' || j.job_id || ' (' || j.state || ')'
    FROM processors AS p JOIN stages AS s ON s.processor = p.name AND s.processor_version = p.version
    JOIN jobs AS j ON j.job_id = s.job_id
    WHERE p.spec ->> 'package' = $1 AND p.deleted_at IS NOT NULL AND j.state <> 'succeeded' LIMIT 1)
    LIMIT 1"""


async def note_package(connection: Connection, sha256: str, size: int, by: str) -> None:
    """A package is pushed, perhaps again. What was being deleted stays."""
    await connection.execute(
        "INSERT INTO packages (sha256, bytes, created_by) VALUES ($1, $2, $3) "
        "ON CONFLICT (sha256) DO UPDATE SET bytes = excluded.bytes, pushed_at = now(), deleted_at = NULL",
        sha256,
        size,
        by,
    )


async def hold_package(connection: Connection, sha256: str) -> None:
    """Keep a package until the transaction, which registers a version that needs it, ends. Raises Conflict."""
    row = await connection.fetchrow("SELECT deleted_at FROM packages WHERE sha256 = $1 FOR UPDATE", sha256)
    if row is not None and row["deleted_at"] is not None:
        raise Conflict(f"the package {sha256} was deleted meanwhile: push it again")


async def delete_package(connection: Connection, sha256: str) -> None:
    """Mark a package as deleted, inside the caller's transaction; then its object can go. Raises NotFound, Conflict."""
    if await connection.fetchrow("SELECT FROM packages WHERE sha256 = $1 FOR UPDATE", sha256) is None:
        raise NotFound(f"there is no package {sha256}")
    needed_by = await connection.fetchval(_PACKAGE_NEEDED_BY, sha256)
    if needed_by is not None:
        raise Conflict(f"{needed_by} needs the package {sha256}: delete that first")
    await connection.execute("UPDATE packages SET deleted_at = coalesce(deleted_at, now()) WHERE sha256 = $1", sha256)


_POOL = "SELECT group_name FROM pools WHERE name = $1"

# Waits for submissions to the pool that are under way.
_LOCK_POOL = "SELECT pg_advisory_xact_lock(hashtextextended('pool ' || $1, 0))"

_POOL_NEEDED_BY = """
    (SELECT 'the worker ' || w.worker_id || ' (' || w.state || ')' FROM workers AS w
    WHERE w.pool = $1 AND w.state IN ('active', 'draining') LIMIT 1)
    UNION ALL (SELECT 'the job ' || j.job_id || ' (' || j.state || ')'
    FROM stages AS s JOIN jobs AS j ON j.job_id = s.job_id
    WHERE (s.pool = $1 OR $1 = ANY(s.pools)) AND j.state <> 'succeeded' AND j.deleted_at IS NULL LIMIT 1)
    UNION ALL (SELECT t.name FROM (
        SELECT 'the schedule ' || c.name AS name, c.job FROM schedules AS c
        UNION ALL SELECT 'the trigger ' || g.name, g.job FROM triggers AS g) AS t
    WHERE EXISTS (
        SELECT FROM jsonb_array_elements(t.job -> 'stages') AS s (stage)
        WHERE coalesce(s.stage ->> 'pool', 'default') = $1 OR s.stage -> 'pools' ? $1) LIMIT 1)
    UNION ALL (SELECT 'the API key ' || k.name FROM api_keys AS k
    WHERE $1 = ANY(k.pools) AND k.revoked_at IS NULL AND coalesce(k.expires_at > now(), true) LIMIT 1)
    LIMIT 1"""


async def delete_pool(connection: Connection, name: str) -> None:
    """Inside the caller's transaction. Its queues and its group stay. Raises NotFound, Conflict."""
    await connection.execute(_LOCK_POOL, name)
    row = await connection.fetchrow(_POOL, name)
    if row is None:
        raise NotFound(f"there is no pool {name}")
    if row["group_name"] is not None:
        raise Conflict(
            f"the pool scales the Auto Scaling group {row['group_name']}: let it scale in to nothing, "
            "and put the pool without a group (put_pool) first"
        )
    needed_by = await connection.fetchval(_POOL_NEEDED_BY, name)
    if needed_by is not None:
        raise Conflict(f"{needed_by} needs the pool {name}: delete or stop that first, or let it end well")
    await connection.execute("DELETE FROM pools WHERE name = $1", name)
