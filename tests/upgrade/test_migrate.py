"""Migrating: again, at once with others, in a database that is in use, and after a crash."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from services.engine import migrate as migrating
from services.engine import migrations
from services.engine.migrate import migrate
from services.engine.schema import NEEDED_REVISION, check_schema
from services.platform.database import UnknownSchema
from tests.until import until
from tests.upgrade.schema import go_back

INDEX, INDEXED_BY = "bundles_put_off", "0004"
ALL = sorted(path.name.partition("_")[0] for path in Path(migrations.__file__).parent.glob("versions/[0-9]*.py"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setitem(migrating._TIMEOUTS, "lock_timeout", "100ms")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def said(lines: list[str], part: str) -> None:
    async def found() -> bool:
        return any(part in line for line in lines)

    await until(found)


async def index_definition(url: str) -> str:
    """Of the valid index."""
    async with connected(url) as connection:
        definition: str = await connection.fetchval(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid", INDEX
        )
    return definition


async def test_each_migration_says_from_where_to_where_and_a_second_run_changes_nothing(empty_url: str) -> None:
    first: list[str] = []
    second: list[str] = []

    await migrate(empty_url, first.append)
    await migrate(empty_url, second.append)

    steps = zip(["an empty database", *ALL[:-1]], ALL, strict=True)
    for line, (found, revision) in zip(first, steps, strict=False):
        assert line.startswith(f"from {found} to {revision}: took ")
    assert first[len(ALL) :] == [f"the schema is at {NEEDED_REVISION}"]
    assert second == [f"the schema is at {NEEDED_REVISION}: nothing to do"]


async def test_of_two_that_migrate_at_once_one_does_it_and_the_other_waits(empty_url: str) -> None:
    lines: tuple[list[str], list[str]] = ([], [])

    await asyncio.gather(*(migrate(empty_url, each.append) for each in lines))

    idle, busy = sorted(lines, key=lambda each: len([line for line in each if line.startswith("from ")]))
    assert len(busy) == len(ALL) + 1
    assert idle[-1] == f"the schema is at {NEEDED_REVISION}: nothing to do"
    async with connected(empty_url) as connection:
        await check_schema(connection)


async def test_a_migration_and_its_revision_are_one_transaction(empty_url: str) -> None:
    await migrate(empty_url)
    await go_back(empty_url, "0002")
    async with connected(empty_url) as connection:
        await connection.execute("CREATE TABLE schema_compatibility ()")  # which makes the migration fail half-way

        with pytest.raises(asyncpg.DuplicateTableError):
            await migrate(empty_url)

        assert await connection.fetchval("SELECT version_num FROM alembic_version") == "0002"
        added = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'bundles'::regclass AND attname = 'put_off'"
        assert await connection.fetchval(added) == 0


async def test_a_table_in_use_is_asked_for_again_and_nobody_waits_long_behind_it(database_url: str) -> None:
    await go_back(database_url, "0002")
    lines: list[str] = []
    async with connected(database_url) as reader, connected(database_url) as claimer:
        dump = reader.transaction()  # it reads for long, as a dump does
        await dump.start()
        await reader.fetch("SELECT * FROM bundles")
        migration = asyncio.create_task(migrate(database_url, lines.append))
        await said(lines, "0003: a table that it changes is in use")
        longest = 0.0
        while sum("in use" in line for line in lines) < 3:
            started = time.monotonic()
            await claimer.execute("UPDATE bundles SET worker_id = NULL WHERE worker_id IS NULL")
            longest = max(longest, time.monotonic() - started)
            await asyncio.sleep(0.005)
        await dump.rollback()
        await migration

    assert longest < 2, "the lock's time-out and what a busy machine adds"
    assert lines[-1] == f"the schema is at {NEEDED_REVISION}"


async def test_while_an_index_is_built_the_services_write(database_url: str) -> None:
    await go_back(database_url, "0003")
    lines: list[str] = []
    async with connected(database_url) as old, connected(database_url) as service:
        long = old.transaction()  # for whose end the index waits
        await long.start()
        await old.execute("UPDATE bundles SET worker_id = NULL")
        migration = asyncio.create_task(migrate(database_url, lines.append))
        building = "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()"
        await until(lambda: service.fetchval(building))
        await service.execute("SET lock_timeout = '1s'")

        await service.execute(
            "INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at) "
            "VALUES (gen_random_uuid(), 'default', gen_random_uuid(), 0, 0, 1, now())"
        )

        assert not migration.done()
        await long.commit()
        await migration
    assert lines[0].startswith(f"from 0003 to {INDEXED_BY}: took ")
    assert "put_off > 0" in await index_definition(database_url)


async def test_an_index_that_a_crash_left_unfinished_is_built_again(database_url: str) -> None:
    wanted = await index_definition(database_url)
    await go_back(database_url, "0003")
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at) "
            "SELECT gen_random_uuid(), 'default', gen_random_uuid(), 0, 0, 1, now() FROM generate_series(1, 2)"
        )
        with pytest.raises(asyncpg.UniqueViolationError):  # which leaves an invalid index, as a crash does
            await connection.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {INDEX} ON bundles (pool)")

    await migrate(database_url)

    assert await index_definition(database_url) == wanted


async def test_a_crash_between_an_index_and_its_revision_costs_nothing(database_url: str) -> None:
    wanted = await index_definition(database_url)
    await go_back(database_url, "0003")

    await migrate(database_url)

    assert await index_definition(database_url) == wanted


async def test_a_newer_schema_is_left_alone(database_url: str) -> None:
    await go_back(database_url, "9999")
    lines: list[str] = []

    await migrate(database_url, lines.append)

    assert lines == ["the schema is at 9999: nothing to do"]


async def test_a_release_works_on_a_newer_schema_unless_that_says_otherwise(database_url: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute("UPDATE alembic_version SET version_num = '9999'")
        await check_schema(connection)

        await connection.execute("UPDATE schema_compatibility SET oldest_revision = '9998'")
        with pytest.raises(UnknownSchema, match=f"at 9999, .* before 9998 .* of {NEEDED_REVISION}: run a newer"):
            await check_schema(connection)


@pytest.mark.parametrize("revision", ["0001", "0002", None])
async def test_a_release_does_not_work_on_an_older_schema(database_url: str, revision: str | None) -> None:
    async with connected(database_url) as connection:
        if revision is None:
            await connection.execute("DROP TABLE alembic_version")
        else:
            await connection.execute("UPDATE alembic_version SET version_num = $1", revision)

        with pytest.raises(UnknownSchema) as raised:
            await check_schema(connection)

    for part in (revision or "no revision", NEEDED_REVISION, "python -m services.engine.migrate"):
        assert part in str(raised.value)


async def test_keys_that_exist_go_on_controlling_what_they_did(database_url: str) -> None:
    await go_back(database_url, "0006")
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO api_keys (key_id, name, role, key_hash) VALUES (gen_random_uuid(), 'k', 'submitter', 'x')"
        )

    await migrate(database_url)

    async with connected(database_url) as connection:
        key = await connection.fetchrow('SELECT principal, "all", shares, expires_at FROM api_keys')
    assert tuple(key) == ("k", True, [], None)
