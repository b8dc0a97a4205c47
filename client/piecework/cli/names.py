"""Completion of names: pools, processors, shares and schedules of the grid, and contexts of the user."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import typer

from piecework.errors import PieceworkError

if TYPE_CHECKING:
    from piecework.client import Client

Complete = Callable[[typer.Context, str], list[str]]


def _of_grid(list_all: "Callable[[Client], Iterable[Any]]") -> Complete:
    """The names in a listing that begin so; none if the grid does not answer at once."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        from piecework.cli.session import quick_client

        try:
            with quick_client(context) as client:
                return [item["name"] for item in list_all(client) if item["name"].startswith(incomplete)]
        except PieceworkError:
            return []

    return complete


pools = _of_grid(lambda client: client.list_pools())
processors = _of_grid(lambda client: client.list_processors())
shares = _of_grid(lambda client: client.list_shares())
schedules = _of_grid(lambda client: client.list_schedules())
rules = _of_grid(lambda client: client.list_retention_rules())


def contexts(context: typer.Context, incomplete: str) -> list[str]:
    """The contexts that begin so."""
    from piecework.contexts import Contexts

    try:
        return [name for name in Contexts.read().named if name.startswith(incomplete)]
    except PieceworkError:
        return []


# What completes an option of this name in whichever command, unless the command says otherwise.
OF_OPTIONS: dict[str, Complete] = {"pool": pools, "share": shares}
