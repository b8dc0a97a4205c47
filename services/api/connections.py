"""Everything that a request handler needs: the database (by two libraries), AWS, the settings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from services.api.ends import Ends
from services.platform.aws import Aws, connect_aws
from services.platform.database import SQLALCHEMY_URL, Connection, Database, connect_alone, connect_database
from services.platform.settings import ApiSettings

AWS_TRIES = 2  # a user is waiting: better an early 503, which clients retry
UPLOADS_ENDING_MAX = 16  # at the same time, in one process


@dataclass(frozen=True, slots=True)
class Connections:
    """Opened once by the application's lifespan."""

    settings: ApiSettings
    database: Database
    engine: AsyncEngine
    aws: Aws
    uploads_ending: asyncio.Semaphore  # each takes a connection of its own
    ends: Ends = field(default_factory=Ends)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction that commits when the block ends well."""
        async with self.database.acquire() as connection, connection.transaction():
            yield connection


def _probe(connection: Any, *_: Any) -> None:
    """What SQLAlchemy's own pre-ping does, but without waiting long for an answer."""
    if not connection.run_async(lambda driver: driver.answers()):
        raise InvalidatePoolError


@asynccontextmanager
async def connect(settings: ApiSettings) -> AsyncIterator[Connections]:
    """Connects only on first use, so that the API can start before its database."""
    seconds = settings.database_seconds
    database = await connect_database(settings, settings.database_connections_max, seconds=seconds)
    engine = create_async_engine(
        SQLALCHEMY_URL,
        async_creator=partial(connect_alone, settings, seconds),
        pool_size=settings.database_connections_max,
        max_overflow=0,
        pool_timeout=seconds,
    )
    event.listen(engine.sync_engine, "checkout", _probe)
    try:
        async with connect_aws(settings, AWS_TRIES) as aws:
            yield Connections(settings, database, engine, aws, asyncio.Semaphore(UPLOADS_ENDING_MAX))
    finally:
        await engine.dispose()
        await database.close()


def _connections(request: Request) -> Connections:
    connections: Connections = request.app.state.connections
    return connections


async def _session(connections: Annotated[Connections, Depends(_connections)]) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(connections.engine) as session:
        yield session


Api = Annotated[Connections, Depends(_connections)]
Session = Annotated[AsyncSession, Depends(_session)]
