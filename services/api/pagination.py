"""Lists in pages: a cursor is a position in one listing, so new rows neither repeat nor hide others."""

import base64
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import orjson
from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import tuple_
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from services.platform.problems import ProblemError, invalid


def _read_integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError("not a key of a row")
    return value


# How a value of a key column comes back from a cursor; raises ValueError, TypeError or AttributeError if it is not one.
_READ: dict[type, Callable[[Any], Any]] = {
    UUID: UUID,
    datetime: datetime.fromisoformat,
    int: _read_integer,
    str: "".__add__,
}

Item = TypeVar("Item")
Row = TypeVar("Row")


class Page(BaseModel, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="send it as `cursor` for the next page; null at the end")


class Paging:
    """Dependency: the position and the limit of a request for a list."""

    def __init__(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=500, description="items in a page")] = 50,
        cursor: Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the previous page")] = None,
    ) -> None:
        self._limit = limit
        self._cursor = cursor
        # Path and filters: a cursor means nothing in another listing.
        listing = sorted(pair for pair in request.query_params.multi_items() if pair[0] not in ("limit", "cursor"))
        self._listing = hashlib.sha256(orjson.dumps([request.url.path, listing])).hexdigest()[:16]

    async def fetch(
        self, session: AsyncSession, statement: SelectOfScalar[Row], *key: Any, newest_first: bool = False
    ) -> tuple[list[Row], str | None]:
        """The page's rows by the unique columns `key`, and the cursor of the next page; raises a 422 for `cursor`."""
        columns: list[Any] = [col(column) for column in key]
        if self._cursor is not None:
            here, there = tuple_(*columns), tuple_(*self._position(self._cursor, columns))
            statement = statement.where(here < there if newest_first else here > there)
        order = [column.desc() if newest_first else column for column in columns]
        rows = list((await session.exec(statement.order_by(*order).limit(self._limit + 1))).all())
        if len(rows) <= self._limit:
            return rows, None
        last = rows[self._limit - 1]
        return rows[: self._limit], self._encode([getattr(last, column.key) for column in columns])

    async def first(self, session: AsyncSession, statement: SelectOfScalar[Row]) -> list[Row]:
        """The rows of a list that has one page. Raises a 422 for a cursor."""
        if self._cursor is not None:
            raise _bad_cursor(self._cursor, "this list has one page: leave the cursor out")
        return list((await session.exec(statement.limit(self._limit))).all())

    def _encode(self, position: list[Any]) -> str:
        return base64.urlsafe_b64encode(orjson.dumps([self._listing, *position], default=str)).decode().rstrip("=")

    def _position(self, cursor: str, columns: list[Any]) -> list[Any]:
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            listing, *values = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            kinds = [column.class_.model_fields[column.key].annotation for column in columns]
            position = [_READ[kind](value) for kind, value in zip(kinds, values, strict=True)]
        except (ValueError, TypeError, AttributeError) as error:
            raise _bad_cursor(
                cursor, "this is not a cursor; send `next_cursor` of the previous page unchanged"
            ) from error
        if listing != self._listing:
            fix = "this cursor is of a listing with another path or other filters; start again without a cursor"
            raise _bad_cursor(cursor, fix)
        return position


def _bad_cursor(cursor: str, fix: str) -> ProblemError:
    return invalid("cursor", cursor, fix)


Pages = Annotated[Paging, Depends()]
