"""The table of docs/security.md: every route, asked by every kind of caller for something of anna's.

`WRITE_TABLE=1 make test TESTS=tests/integration/api/test_who_may_do_what.py` writes it again.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from services.stats.main import create_app as create_stats
from tests.integration.api.conftest import Keys, PlayedWorker, client_of
from tests.integration.api.subjects import SHARE, Subjects

PAGE = Path(__file__).parents[3] / "docs" / "security.md"
BEGIN, END = "<!-- the table: written by a test -->", "<!-- the table ends -->"
OPEN = {"healthz", "readyz", "metrics"}

# Every kind of caller: its role and its limits. Only the second is anna, whose things are asked for.
CALLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "viewer": ("viewer", {}),
    "owner": ("submitter", {"principal": "anna"}),
    "other submitter": ("submitter", {"principal": "ben"}),
    "with the share": ("submitter", {"principal": "ben", "shares": [SHARE]}),
    "with another share": ("submitter", {"principal": "ben", "shares": ["risk"]}),
    "with `all`": ("submitter", {"principal": "ben", "all": True}),
    "developer": ("developer", {"principal": "ben"}),
    "operator": ("operator", {}),
}

# What each kind of thing is, for lists: those that hold nobody's things show them to everybody.
OWNED = {"list_jobs", "list_schedules", "list_triggers", "list_uploads", "list_webhook_endpoints", "list_alerts",
         "list_webhook_deliveries", "list_api_keys", "list_shares"}  # fmt: skip


@pytest.fixture
async def stats(settings: Settings) -> AsyncIterator[FastAPI]:
    app = create_stats(settings)
    async with app.router.lifespan_context(app):
        yield app


def operations(app: FastAPI) -> list[tuple[str, str, str]]:
    return [
        (operation["operationId"], method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if operation["operationId"] not in OPEN
    ]


def verdict(operation: str, response: httpx.Response, subject: str | None) -> str:
    match response.status_code:
        case 403:
            return "no"
        case 404:
            return "hidden"
    assert response.is_success, f"{operation}: {response.text}"
    return "hidden" if operation in OWNED and str(subject) not in response.text else "yes"


async def test_the_table_says_who_may_do_what(
    app: FastAPI,
    stats: FastAPI,
    keys: Keys,
    operator: httpx.AsyncClient,
    worker: PlayedWorker,
    aws: Aws,
    settings: Settings,
    database: Database,
) -> None:
    rows = []
    async with AsyncExitStack() as stack:
        secrets = {who: await keys.secret(role, **limits) for who, (role, limits) in CALLERS.items()}
        anna = await stack.enter_async_context(client_of(app, secrets["owner"]))
        subjects = Subjects(anna, operator, worker, aws, settings, database)
        for service in (app, stats):
            clients = [await stack.enter_async_context(client_of(service, secret)) for secret in secrets.values()]
            for operation, method, path in operations(service):
                cells = []
                for client in clients:
                    request = await subjects.request_of(operation, method, path)
                    cells.append(verdict(operation, await request.send(client), request.subject))
                rows.append([f"`{method} {path}`", *cells])

    header = ["", *CALLERS]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    written, after = rest.split(END)
    if os.environ.get("WRITE_TABLE"):
        PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    else:
        assert written.strip() == table
