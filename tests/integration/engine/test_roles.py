"""A Postgres role for each service: what it may do is what docs/operations.md says, and no more."""

import ast
import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.engine import roles
from services.engine.migrate import migrate
from services.engine.roles import ROLES, SERVICES, set_up_roles
from tests.roles import as_role

ROOT = Path(__file__).parents[3]
DOCUMENTED = ROOT / "docs" / "operations.md"
STATEMENT = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\b")
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")

_GRANTED = """
    SELECT grantee, table_name, privilege_type AS privilege, true AS whole FROM information_schema.role_table_grants
    WHERE table_schema = 'public' AND grantee = ANY($1)
    UNION ALL SELECT grantee, table_name, privilege_type, false FROM information_schema.column_privileges AS c
    WHERE table_schema = 'public' AND grantee = ANY($1) AND NOT EXISTS (
        SELECT FROM information_schema.role_table_grants AS t WHERE (t.grantee, t.table_name, t.privilege_type)
            = (c.grantee, c.table_name, c.privilege_type) AND t.table_schema = 'public')"""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def described(rows: list[asyncpg.Record]) -> dict[str, list[str]]:
    """By table, for each service: `SIUD` of SELECT, INSERT, UPDATE and DELETE; in small letters: of one column."""
    found: dict[str, list[set[str]]] = {}
    for row in rows:
        letter = row["privilege"][0] if row["privilege"] in PRIVILEGES[:4] else row["privilege"]
        of_services = found.setdefault(row["table_name"], [set() for _ in SERVICES])
        of_services[ROLES.index(row["grantee"])].add(letter if row["whole"] else letter.lower())
    order = "SIUDsiud"
    return {
        table: ["".join(sorted(letters, key=lambda letter: order.find(letter[0]))) for letters in of_services]
        for table, of_services in sorted(found.items())
    }


def rows_of(table: dict[str, list[str]]) -> list[str]:
    return [f"| `{name}` | {' | '.join(letters)} |".replace("|  ", "| ") for name, letters in table.items()]


async def test_each_role_may_do_what_is_documented_and_nothing_else(database_url: str) -> None:
    async with connected(database_url) as connection:
        granted = rows_of(described(await connection.fetch(_GRANTED, list(ROLES))))
        attributes = await connection.fetch("SELECT * FROM pg_roles WHERE rolname = ANY($1)", list(ROLES))
    section = DOCUMENTED.read_text().partition("## Database roles\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `.*$", section, re.MULTILINE) == granted
    may = ("rolsuper", "rolcanlogin", "rolcreatedb", "rolcreaterole", "rolreplication", "rolbypassrls")
    assert [name for role in attributes for name in may if role[name]] == []


def statements(directory: Path) -> Iterator[tuple[str, str]]:
    """Each statement that the modules below have, and where it is."""
    for path in sorted(directory.rglob("*.py")):
        if path.name == "restore.py":  # a command of the tables' owner
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


async def denied(url: str, directory: Path) -> dict[str, str]:
    """The statements that the user of the URL may not run; whatever else is wrong with one is not looked at."""
    found = {}
    async with connected(url) as connection:
        for place, statement in statements(directory):
            try:
                await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
            except asyncpg.InsufficientPrivilegeError as error:
                found[place] = str(error)
            except asyncpg.PostgresError:  # DuckDB's, or a part of one
                continue
    return found


@pytest.mark.parametrize("service", SERVICES)
async def test_each_service_may_run_its_own_statements(database_url: str, service: str) -> None:
    assert await denied(as_role(database_url, service), ROOT / "services" / service) == {}


async def test_each_statement_of_the_engine_may_be_run_by_a_service(database_url: str) -> None:
    each = [await denied(as_role(database_url, service), ROOT / "services" / "engine") for service in SERVICES]
    assert set.intersection(*map(set, each)) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM api_keys",
        "SELECT secret FROM webhook_endpoints",
        "SELECT * FROM idempotency_keys",
        "SELECT * FROM uploads",
        "UPDATE jobs SET spec = '{}'",
        "INSERT INTO processors (name, version, spec) VALUES ('mine', 1, '{}')",
        "SELECT make_partitions()",
        "SELECT drop_partitions()",
        "CREATE TABLE mine (id integer)",
        "COPY jobs TO PROGRAM 'id'",
        "ALTER ROLE piecework_worker_login SUPERUSER",
        "SET ROLE postgres",
        "SET ROLE piecework_api",
    ],
)
async def test_a_worker_is_refused_what_it_does_not_need(database_url: str, statement: str) -> None:
    async with connected(as_role(database_url, "worker")) as worker:
        assert await worker.fetchval("SELECT count(*) FROM tasks") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await worker.execute(statement)


@pytest.mark.parametrize("function", ["make_partitions", "create_attempts_partitions"])
async def test_the_scheduler_makes_partitions_though_it_may_make_no_tables(
    own_database_url: str, function: str
) -> None:
    async with connected(own_database_url) as owner, connected(as_role(own_database_url, "scheduler")) as scheduler:
        partitions = "SELECT count(*) FROM job_partitions WHERE of_table = 'attempts'"
        before = await owner.fetchval(partitions)
        newest = await owner.fetchval(
            "SELECT max(partition) FROM job_partitions WHERE of_table = 'attempts' AND month <> 'first'"
        )
        await owner.execute(f"DROP TABLE {newest}")
        await scheduler.execute(f"SELECT {function}()")
        assert await owner.fetchval(partitions) == before
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await scheduler.execute("CREATE TABLE mine (id integer)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await scheduler.execute(f"DROP TABLE {newest}")


async def test_the_databases_of_a_server_may_make_the_roles_at_once(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = tuple(f"piecework_{uuid4().hex}" for _ in range(4))
    (tmp_path / "grants.sql").write_text(f"GRANT USAGE ON SCHEMA public TO {', '.join(names)};")
    monkeypatch.setattr(roles, "ROLES", names)
    monkeypatch.setattr(roles, "_GRANTS", tmp_path / "grants.sql")
    databases = [f"roles_{uuid4().hex}" for _ in range(3)]
    for database in databases:
        await postgres.create_database(database)
    async with AsyncExitStack() as stack:
        each = [await stack.enter_async_context(connected(postgres.url(name))) for name in databases for _ in range(2)]
        assert await asyncio.gather(*map(set_up_roles, each[::2])) == [None] * len(databases)
        assert await asyncio.gather(*map(set_up_roles, each[::2])) == [None] * len(databases)
    async with connected(postgres.url("postgres")) as connection:
        for database in databases:
            await connection.execute(f'DROP DATABASE "{database}"')
        await connection.execute(f"DROP ROLE {', '.join(names)}")


async def test_one_who_may_make_no_roles_migrates_and_is_told_what_an_administrator_must_run(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = f"owner_{uuid4().hex}"
    monkeypatch.setattr(roles, "ROLES", (*ROLES, f"piecework_{uuid4().hex}"))  # one is missing yet
    async with connected(postgres.url("postgres")) as connection:
        await connection.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'of-owner'")
        await connection.execute(f'CREATE DATABASE "{owner}" OWNER {owner}')
    url = postgres.url(owner).replace(f"postgres:{postgres.passwords['postgres']}", f"{owner}:of-owner", 1)
    said: list[str] = []

    await migrate(url, said.append)

    assert said[-1].startswith("the roles of the services are not set up (permission denied to create role")
    assert f"`CREATE ROLE {roles.ROLES[-1]} NOLOGIN`" in said[-1]
    async with connected(url) as one_for_all:  # the services go on as before
        await one_for_all.execute("SELECT create_attempts_partitions()")
        assert await one_for_all.fetchval("SELECT count(*) FROM api_keys") == 0
    async with connected(postgres.url("postgres")) as connection:
        await connection.execute(f'DROP DATABASE "{owner}" WITH (FORCE)')
        await connection.execute(f"DROP ROLE {owner}")
