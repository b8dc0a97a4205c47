"""One database for many tests, made again as it was before each: a fresh one costs more than most tests."""

import asyncpg

from deploy.local.postgres import EmbeddedPostgres

_TABLES = """
    SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
      AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version' ORDER BY relname"""

# All that a test may have changed but rows; partitions aside, which come with time.
_SHAPE = """
    SELECT md5(concat(
        (SELECT string_agg(version_num, ',') FROM alembic_version),
        (SELECT string_agg(concat_ws(' ', relname, attname, atttypid, attnotnull, attisdropped), ',' ORDER BY 1, attnum)
         FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE relnamespace = 'public'::regnamespace AND NOT relispartition),
        (SELECT string_agg(conname, ',' ORDER BY conname) FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
         WHERE relnamespace = 'public'::regnamespace AND NOT relispartition),
        (SELECT string_agg(md5(prosrc), ',' ORDER BY proname) FROM pg_proc
         WHERE pronamespace = 'public'::regnamespace),
        (SELECT string_agg(tgname, ',' ORDER BY tgname) FROM pg_trigger)))"""

_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


class SharedDatabase:
    """A copy of a template. `clean` puts its rows back, and makes it again if a test has changed more than rows."""

    def __init__(self, server: EmbeddedPostgres, template: str) -> None:
        self._server = server
        self._template = template
        self._connection: asyncpg.Connection | None = None

    async def clean(self) -> str:
        """Its URL; it is as the template is, and nobody is connected to it."""
        if self._connection is not None and self._connection.is_closed():  # a test has cut all connections
            self._connection = await asyncpg.connect(self._server.url("shared"))
        if self._connection is None or await self._shape() != self._shape_before:
            await self._make()
        assert self._connection is not None
        await self._connection.execute(_END_OTHERS)
        await self._connection.execute(self._put_back)
        return self._server.url("shared")

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _shape(self) -> str:
        assert self._connection is not None
        shape: str = await self._connection.fetchval(_SHAPE)
        return shape

    async def _make(self) -> None:
        await self.close()
        server = await asyncpg.connect(self._server.url("postgres"))
        await server.execute('DROP DATABASE IF EXISTS "shared" WITH (FORCE)')
        await server.close()
        self._connection = await asyncpg.connect(await self._server.create_database("shared", self._template))
        self._shape_before = await self._shape()
        tables = [row["relname"] for row in await self._connection.fetch(_TABLES)]
        await self._connection.execute("CREATE SCHEMA template")
        # As a replica's, where no trigger keeps rows.
        statements = ["SET session_replication_role = replica", *(f'DELETE FROM "{table}"' for table in tables)]
        for table in tables:
            if await self._connection.fetchval(f'SELECT EXISTS (SELECT FROM "{table}")'):
                await self._connection.execute(f'CREATE TABLE template."{table}" AS TABLE "{table}"')
                statements.append(f'INSERT INTO "{table}" OVERRIDING SYSTEM VALUE TABLE template."{table}"')
        self._put_back = "; ".join(statements)
